"""A proxy in front of an engine whose connections can be cut, one installation's or all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path

_AGENT = re.compile(rb"\r\nuser-agent:([^\r]*)\r\n", re.IGNORECASE)
#: Cuts every connection, whoever made it.
EVERYBODY = ""


class Proxy:
    """Listens on a socket of its own and passes everything on.

    Parameters:
        engine: path of the engine's socket.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._folder = Path(tempfile.mkdtemp(prefix="agora-docker-proxy-"))
        self.path = self._folder / "docker.sock"
        self._lock = threading.Lock()
        self._cut: set[str] = set()
        self._open: dict[socket.socket, tuple[str, socket.socket]] = {}
        self.requests = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(512)
        self._owner = os.getpid()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def url(self) -> str:
        """The address to give to a client."""
        return f"unix://{self.path}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._open)

    def cut(self, who: str = EVERYBODY) -> None:
        """Close the connections of those whose user agent contains `who`, and let no new ones through."""
        with self._lock:
            self._cut.add(who)
            for one, (agent, other) in self._open.items():
                if who in agent:
                    _shut(one, other)

    def heal(self, who: str = EVERYBODY) -> None:
        """Let them through again."""
        with self._lock:
            self._cut.discard(who)

    def close(self) -> None:
        """Stop listening and close every connection."""
        self.cut()
        self._listener.close()
        if os.getpid() == self._owner:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="proxy-client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            found = _AGENT.search(head)
            agent = found.group(1).decode() if found else ""
            engine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with engine:
                with self._lock:
                    if any(who in agent for who in self._cut):
                        return
                    self._open[client] = (agent, engine)
                try:
                    engine.connect(self._engine)
                    self._count(head)
                    engine.sendall(head)
                    back = threading.Thread(target=_pass_on, args=(engine, client), daemon=True)
                    back.start()
                    while piece := client.recv(65536):
                        self._count(piece)
                        engine.sendall(piece)
                    _shut(client, engine)
                    back.join()
                finally:
                    with self._lock:
                        del self._open[client]

    def _count(self, piece: bytes) -> None:
        with self._lock:
            self.requests += piece.count(b" HTTP/1.1\r\n")


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    _shut(source, sink)


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
