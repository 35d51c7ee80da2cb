"""Reaching an engine through ssh: one `docker system dial-stdio` on the other machine per connection.

The SDK's own way needs paramiko and knows no timeouts; a socket pair with the ssh command at its other end is a
socket like any other.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import Any
from urllib.parse import urlsplit

import urllib3.connection
import urllib3.connectionpool
from docker.transport.basehttpadapter import BaseHTTPAdapter

#: Seconds that ssh may take to connect.
_CONNECT_SECONDS = 10


def command(url: str) -> list[str]:
    """Return the ssh command that reaches the engine at `ssh://[USER@]HOST[:PORT]`."""
    parts = urlsplit(url)
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
    if parts.username:
        words += ["-l", parts.username]
    if parts.port:
        words += ["-p", str(parts.port)]
    return [*words, "--", parts.hostname or "", "docker", "system", "dial-stdio"]


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, words: list[str]) -> None:
        super().__init__("localhost")
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Start ssh with one end of a socket pair."""
        ours, theirs = socket.socketpair()
        with theirs:
            # A session of its own, so that an interrupt at the terminal does not cut the connection.
            self._process = subprocess.Popen(
                self._words,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.settimeout(self.timeout if isinstance(self.timeout, float | int) else None)
        self.sock = ours

    def close(self) -> None:
        """Close the socket and end ssh."""
        super().close()
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, words: list[str]) -> None:
        super().__init__("localhost", maxsize=1)
        self._words = words

    def _new_conn(self) -> Any:
        return _Connection(self._words)


class SshAdapter(BaseHTTPAdapter):
    """Carries the requests of one client.

    Parameters:
        url: the engine's address, `ssh://...`.
    """

    def __init__(self, url: str) -> None:
        self._pool = _Pool(command(url))
        super().__init__()

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        """Return the one pool."""
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        """Return the path: there is no proxy on this way."""
        path: str = request.path_url
        return path

    def close(self) -> None:
        """Close the connection and end its ssh."""
        super().close()
        self._pool.close()
