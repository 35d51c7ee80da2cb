"""`agora` in processes that are forked from one which has imported everything: importing is most of what a call costs.

Run as a program it listens on the socket that is its standard input. Each connection brings the command (JSON) and
its three standard streams, and is told the pid of the process and how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

#: Beside all of the command line itself: what it imports when it is used.
AT_FIRST_USE = ("agora.client", "agora.engine.engine", "agora_local.provider", "anyio._backends._asyncio")


class Server:
    """A server of its own for one test process."""

    def __init__(self) -> None:
        # A socket must not have a name of more than 104 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="agora-cli-")
        self._path = str(Path(self._folder.name) / "socket")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._path)
            listening.listen(64)
            self._process = subprocess.Popen([sys.executable, "-P", __file__], stdin=listening.fileno())

    def run(
        self, args: Sequence[str], text: str, directory: Path, env: dict[str, str], within: float
    ) -> tuple[int, str, str]:
        """Run a command to its end.

        Parameters:
            args: after `agora`.
            text: its input.
            directory, env: where it runs, and with which environment.
            within: seconds after which it is killed, with a TimeoutError.

        Returns:
            how it ended (negative for a signal), its output and its errors.
        """
        with ExitStack() as opened:
            source, out, err = (opened.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            source.write(text.encode())
            source.seek(0)
            connection = opened.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(within)
            connection.connect(self._path)
            order = json.dumps({"args": args, "directory": str(directory), "env": env}).encode()
            streams = [file.fileno() for file in (source, out, err)]
            socket.send_fds(connection, [len(order).to_bytes(4, "big")], streams)
            connection.sendall(order)
            with connection.makefile() as answers:
                pid = int(answers.readline())
                try:
                    code = int(answers.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise
            out.seek(0)
            err.seek(0)
            return code, out.read().decode(), err.read().decode()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _read(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        piece = connection.recv(count - len(read))
        if not piece:
            raise EOFError
        read += piece
    return read


def _serve() -> dict[str, Any]:
    """Serve for ever; returns in a new process for each command, with what it is to be."""
    listening = socket.socket(fileno=0)
    while True:
        connection, _ = listening.accept()
        if os.fork():
            connection.close()
            continue
        # Waits for the command while the server takes the next one.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, streams, _, _ = socket.recv_fds(connection, 4, 3)
        order: dict[str, Any] = json.loads(_read(connection, int.from_bytes(size, "big")))
        if (pid := os.fork()) == 0:
            listening.detach()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            connection.close()
            return order
        connection.sendall(f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):
            connection.sendall(f"{code}\n".encode())
        os._exit(0)


def _become(order: dict[str, Any]) -> None:
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["agora", *order["args"]]


if __name__ == "__main__":
    import agora.cli

    for found in pkgutil.iter_modules(agora.cli.__path__):
        importlib.import_module(f"agora.cli.{found.name}")
    for name in AT_FIRST_USE:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _become(_serve())
    agora.cli.main()
