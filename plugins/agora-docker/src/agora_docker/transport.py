"""Reaching an engine through a socket of this machine, or through ssh.

The SDK's way through a socket leaks it when nobody listens. Its way through ssh needs paramiko and knows no timeouts;
here a socket pair has the ssh command at its other end, which makes it a socket like any other.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import tempfile
from typing import IO, Any
from urllib.parse import urlsplit

import requests
import urllib3.connection
import urllib3.connectionpool
from docker import APIClient
from docker.transport.basehttpadapter import BaseHTTPAdapter

UNIX, SSH = "unix://", "ssh://"
#: Seconds that ssh may take to connect.
_CONNECT_SECONDS = 10
#: Characters of what ssh says in an error, at most.
_WORDS = 500


def command(url: str) -> list[str]:
    """Return the ssh command that reaches the engine at `ssh://[USER@]HOST[:PORT]`."""
    parts = urlsplit(url)
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
    if parts.username:
        words += ["-l", parts.username]
    if parts.port:
        words += ["-p", str(parts.port)]
    return [*words, "--", parts.hostname or "", "docker", "system", "dial-stdio"]


class _UnixConnection(urllib3.connection.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(_seconds(self.timeout))
            made.connect(self._path)
        except BaseException:
            made.close()
            raise
        self.sock = made


class _SshConnection(urllib3.connection.HTTPConnection):
    def __init__(self, words: list[str]) -> None:
        super().__init__("localhost")
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        #: The last line that ssh wrote about what went wrong, once the connection is closed.
        self.said = ""

    def connect(self) -> None:
        """Start ssh with one end of a socket pair."""
        # No pipe: nobody reads it while the connection lasts, and it could fill up.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            # A session of its own, so that an interrupt at the terminal does not cut the connection.
            self._process = subprocess.Popen(
                self._words,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                start_new_session=True,
            )
            failed.pop_all()
        ours.settimeout(_seconds(self.timeout))
        self.sock = ours

    def close(self) -> None:
        """Close the socket and end ssh."""
        super().close()
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
        errors, self._errors = self._errors, None
        if errors is not None:
            with errors:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").split("\n")
            self.said = next((line.strip() for line in reversed(lines) if line.strip()), "")[:_WORDS]


def _seconds(timeout: object) -> float | None:
    return timeout if isinstance(timeout, float | int) else None


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, url: str) -> None:
        super().__init__("localhost", maxsize=1)
        self._url = url
        self.last: _SshConnection | None = None

    def _new_conn(self) -> Any:
        if self._url.startswith(SSH):
            self.last = _SshConnection(command(self._url))
            return self.last
        return _UnixConnection("/" + self._url.removeprefix(UNIX).lstrip("/"))


class Adapter(BaseHTTPAdapter):
    """Carries the requests of one client.

    Parameters:
        url: the engine's address, `unix://...` or `ssh://...`.
    """

    def __init__(self, url: str) -> None:
        self._pool = _Pool(url)
        super().__init__()

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        """Return the one pool."""
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        """Return the path: there is no proxy on this way."""
        path: str = request.path_url
        return path

    def send(self, request: Any, *arguments: Any, **settings: Any) -> Any:
        """Send a request; where ssh fails its own words are the error."""
        try:
            return super().send(request, *arguments, **settings)
        except requests.ConnectionError as error:
            if self._pool.last is not None and (words := self._pool.last.said):
                raise requests.ConnectionError(OSError(errno.ECONNRESET, words), request=request) from error
            raise

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._pool.close()


def exchange(
    client: APIClient,
    method: str,
    url: str,
    *,
    params: Any = None,
    json: Any = None,
    data: Any = None,
    headers: Any = None,
    stream: bool = False,
    timeout: tuple[float, float] | tuple[float, None],
) -> requests.Response:
    """Send a request of a client through its socket, and read the answer unless it is a stream.

    Without what a session looks for besides: proxies, a .netrc, cookies, redirects. None of it concerns a socket, and
    it takes as long as the rest.
    """
    request = requests.PreparedRequest()
    request.prepare_method(method)
    request.prepare_url(url, params)
    request.prepare_headers({**client.headers, **(headers or {})})
    request.prepare_body(data, None, json)
    answer = client.get_adapter(url).send(request, stream=stream, timeout=timeout)
    if not stream:
        _ = answer.content  # read now, which frees the connection
    return answer
