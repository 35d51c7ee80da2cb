"""A gateway in front of an API server, from which one installation can be cut off."""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from agora_k8s.connect import Connection

#: Seconds to connect to the server, and without a byte of an answer; longer than any watch is silent.
_TIMEOUT = urllib3.Timeout(connect=5.0, read=90.0)
_PASSED_ON = ("Content-Type", "Date", "Retry-After")


class Gateway:
    """Listens on the loopback interface and passes on what comes with its token, with the connection's credentials.

    Parameters:
        connection: the way to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._token = secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        self._cut: set[str] = set()
        self._open: dict[socket.socket, str] = {}
        gateway = self

        class Handler(_Handler):
            def take(self) -> None:
                gateway._take(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="k8s-gateway", daemon=True).start()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads through here, and return its path."""
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "gateway",
            "clusters": [{"name": "gateway", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [{"name": "gateway", "user": {"token": self._token}}],
            "contexts": [
                {
                    "name": "gateway",
                    "context": {"cluster": "gateway", "user": "gateway", "namespace": self._connection.namespace},
                }
            ],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(body), encoding="utf-8")
        return path

    def cut(self, selector: str) -> None:
        """Cut every list and watch whose label selector contains this, and let no new one through."""
        with self._lock:
            self._cut.add(selector)
            doomed = [one for one, theirs in self._open.items() if selector in theirs]
        for one in doomed:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def heal(self, selector: str) -> None:
        """Let them through again."""
        with self._lock:
            self._cut.discard(selector)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def _passing(self, client: socket.socket, selector: str) -> Iterator[bool]:
        """Count a request in while it is passed on; false where it is cut off."""
        with self._lock:
            free = not any(one in selector for one in self._cut)
            if free:
                self._open[client] = selector
        try:
            yield free
        finally:
            with self._lock:
                self._open.pop(client, None)

    def _take(self, handler: _Handler) -> None:
        if not secrets.compare_digest(handler.headers.get("Authorization", ""), f"Bearer {self._token}"):
            handler.send_error(401)
            return
        selector = parse_qs(urlsplit(handler.path).query).get("labelSelector", [""])[0]
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or None
        with self._passing(handler.connection, selector) as free:
            handler.close_connection = True
            if not free:
                return
            headers = self._connection.headers()
            headers |= {name: handler.headers[name] for name in ("Accept", "Content-Type") if name in handler.headers}
            with suppress(HTTPError, OSError):  # either side has gone: so does the other
                answer = self._connection.pool.request(
                    handler.command,
                    self._connection.url(handler.path),
                    body=body,
                    headers=headers,
                    preload_content=False,
                    retries=False,
                    timeout=_TIMEOUT,
                )
                try:
                    handler.pass_on(answer)
                finally:
                    answer.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def take(self) -> None:
        """Answer one request."""

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = lambda self: self.take()  # noqa: N815 - names of the base class

    def pass_on(self, answer: BaseHTTPResponse) -> None:
        """Send an answer, piece by piece as it comes."""
        self.send_response_only(answer.status, answer.reason)
        for name in _PASSED_ON:
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in answer.stream(65_536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
