"""Where events go: a stream of this process, a file, or a control plane; each bounded, each as light as it can be."""

from __future__ import annotations

import os
import select
import time

from agora.worker.marks import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from agora.worker.surroundings import Surroundings

    class Sink(Protocol):
        """Takes events."""

        def send(self, event: bytes, seconds: float) -> None:
            """Send one event, as JSON without a line break.

            Raises:
                OSError: it was not delivered.
                ValueError: it was not and never will be.
            """

        def close(self) -> None:
            """Let go of what is open."""


_NO_ADDRESS = "AGORA_WORKER_URL is no address: http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH"


class Marked:
    """Marked lines on a stream of this process, in one write each.

    Parameters:
        dispatch_id: whose events they are.
        descriptor: 1 for stdout, 2 for stderr; duplicated, so that the program may redirect its own.
    Raises:
        OSError: that stream is closed.
    """

    def __init__(self, dispatch_id: str, descriptor: int) -> None:
        self._dispatch_id = dispatch_id
        self._descriptor = os.dup(descriptor)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def send(self, event: bytes, seconds: float) -> None:
        """Write a line, where the stream takes it in time."""
        line = pack(self._dispatch_id, event)
        # A pipe that is writable has room for PIPE_BUF bytes (pipe(7)), so the write does not wait for its reader.
        ready = self._poll.poll(seconds * 1000)
        if not ready or not ready[0][1] & select.POLLOUT:
            raise TimeoutError("the stream takes no more output")
        if os.write(self._descriptor, line) != len(line):
            raise BlockingIOError("the stream took a part of the line")

    def close(self) -> None:
        """Close this descriptor; the program's own stays open."""
        os.close(self._descriptor)


class File:
    """Lines at the end of a file, which is opened anew for each.

    Parameters:
        path: of the file; made where it is missing, for this user alone.
        private: refuse a file that is a link or somebody else's; for directories that others may write to.
    """

    def __init__(self, path: str, *, private: bool = False) -> None:
        self._path = path
        self._private = private
        self._begin = b""

    def send(self, event: bytes, seconds: float) -> None:
        """Append a line."""
        # Not blocking: a named pipe without a reader is an error at once, not a wait.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags | (os.O_NOFOLLOW if self._private else 0), 0o600)
        try:
            if self._private and os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(f"{self._path} is somebody else's")
            line = self._begin + event + b"\n"
            written = os.write(descriptor, line)
            # What a full disk took a part of is a line of its own, not the beginning of the next one.
            self._begin = b"\n" if written != len(line) else b""
            if self._begin:
                raise BlockingIOError(f"{self._path} took a part of the line")
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Do nothing: it is open only while a line is written."""


class Http:
    """A control plane that takes CloudEvents by POST.

    Parameters:
        url: where to; `http` or `https`.
        token: sent as a bearer token, if there is one.
    Raises:
        ValueError: no such address.
    """

    def __init__(self, url: str, token: str | None) -> None:
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("http", "https") or not rest:
            raise ValueError(_NO_ADDRESS)
        self._secure = scheme == "https"
        self._host, slash, path = rest.partition("/")
        self._path = slash + path or "/"
        self._headers = {"Content-Type": "application/cloudevents+json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def send(self, event: bytes, seconds: float) -> None:
        """Post one event; any answer of the 200s is a delivery."""
        # Imported here: a worker without a control plane starts in a third of the time.
        from http.client import HTTPConnection, HTTPException, HTTPSConnection

        until = time.monotonic() + seconds
        try:
            connection = (HTTPSConnection if self._secure else HTTPConnection)(self._host, timeout=seconds)
        except HTTPException:
            # Not repeated: what stands before an @ is a password.
            raise ValueError(_NO_ADDRESS) from None
        try:
            connection.request("POST", self._path, body=event, headers=self._headers)
            if connection.sock is not None:
                connection.sock.settimeout(max(until - time.monotonic(), 0.01))
            status = connection.getresponse().status
        except HTTPException as error:
            raise ConnectionError(f"no answer that HTTP knows: {type(error).__name__}") from None
        finally:
            connection.close()
        if 400 <= status < 500 and status not in (401, 403, 404, 408, 429):
            raise ValueError(f"the control plane refused it: {status}")
        if not 200 <= status < 300:
            raise ConnectionError(f"the control plane answered {status}")

    def close(self) -> None:
        """Do nothing: each event has a connection of its own."""


def ways_out(around: Surroundings) -> list[Sink]:
    """Return the ways out by what is there, the best first; the spool keeps what no other one took."""
    sinks: list[Sink] = []
    if around.url is not None:
        sinks.append(Http(around.url, around.token))
    elif around.redis is not None:
        # Imported here: nobody else needs sockets.
        from agora.worker.redis import RedisStream

        sinks.append(RedisStream(around.redis))
    if around.events == "none":
        return sinks
    if around.events in ("stdout", "stderr"):
        if around.dispatch_id is not None:
            try:
                sinks.append(Marked(around.dispatch_id, 1 if around.events == "stdout" else 2))
            except OSError:
                pass  # closed: the spool is left
    else:
        sinks.append(File(around.events))
    if around.spool is not None:
        sinks.append(File(around.spool, private=True))
    return sinks
