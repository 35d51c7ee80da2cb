"""What a standby is asked for: no secret passes through it. Needs the standard library alone."""

from __future__ import annotations

import array
import marshal
import socket


class Request:
    """What a shim is told of its dispatch.

    Parameters:
        id: the dispatch.
        grace: seconds of grace that the spec gives.
        timeout: seconds until the dispatch's deadline.
        log_cap: bytes of output that are kept.
        offset: where the shim's first record goes in the journal.
        reserve: path of the reserve file.
    """

    __slots__ = ("grace", "id", "log_cap", "offset", "reserve", "timeout")

    def __init__(self, id: str, grace: int, timeout: int, log_cap: int, offset: int, reserve: str) -> None:
        self.id = id
        self.grace = grace
        self.timeout = timeout
        self.log_cap = log_cap
        self.offset = offset
        self.reserve = reserve

    def pack(self) -> bytes:
        """Return it as bytes for `unpack`, in the same version of Python."""
        return marshal.dumps((self.id, self.grace, self.timeout, self.log_cap, self.offset, self.reserve))

    @classmethod
    def unpack(cls, data: bytes) -> Request:
        """Read it from the socket of the standbys."""
        return cls(*marshal.loads(data))  # noqa: S302 - written by this very package


class Descriptors:
    """The open files that come with a request, in this order.

    Parameters:
        caller: stream to the dispatching process.
        directory: the dispatch's directory.
        journal: the journal, locked.
        live: directory of the control sockets.
        home: the caller's working directory.
    """

    COUNT = 5
    __slots__ = ("caller", "directory", "home", "journal", "live")

    def __init__(self, caller: int, directory: int, journal: int, live: int, home: int) -> None:
        self.caller = caller
        self.directory = directory
        self.journal = journal
        self.live = live
        self.home = home


def receive(channel: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Receive one message with open files that no program started later inherits.

    `socket.recv_fds` would leave them inheritable: up to Python 3.14 it does not pass its flags on.

    Parameters:
        channel: the socket.
        size: bytes that the message has at most.
        count: open files that it brings at most.
    """
    numbers = array.array("i")
    space = socket.CMSG_LEN(count * numbers.itemsize)
    data, extras, _, _ = channel.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return data, list(numbers)
