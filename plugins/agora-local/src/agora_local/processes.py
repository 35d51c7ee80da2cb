"""Who a process is: a pid alone is no identity, a pid with its start time in one boot and one namespace is.

Imported by the fork server too, so it needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import os

#: prctl(2).
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

#: Looked up once, before any fork: every page that a fork touches is copied.
_LIBC = ctypes.CDLL(None, use_errno=True)
_PRCTL = _LIBC.prctl
_SYSCALL = _LIBC.syscall


def prctl(option: int, argument: int | bytes) -> None:
    """Set something about this process, see prctl(2)."""
    _PRCTL(option, argument, 0, 0, 0)


def syscall(number: int, *arguments: int | bytes) -> int:
    """Make a system call that the standard library does not have, see syscall(2).

    Raises:
        OSError: the kernel refused.
    """
    result: int = _SYSCALL(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


class Stat:
    """The fields of /proc/PID/stat that matter here, see proc_pid_stat(5).

    Parameters:
        state: one letter; `T` is stopped, `Z` is a zombie.
        parent: pid of the parent.
        session: id of the session.
        start_time: clock ticks since boot.
    """

    __slots__ = ("parent", "session", "start_time", "state")

    def __init__(self, state: str, parent: int, session: int, start_time: int) -> None:
        self.state = state
        self.parent = parent
        self.session = session
        self.start_time = start_time


def read_file(path: str) -> bytes:
    """Return a small file of /proc or /sys in one read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


def stat(pid: int) -> Stat | None:
    """Return what the kernel says of process `pid`, or None where there is none."""
    try:
        data = read_file(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may itself contain any character.
    fields = data.rpartition(b")")[2].split()
    return Stat(fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def is_alive(pid: int, start_time: int) -> bool:
    """Whether the process that began at `start_time` still runs under `pid`; a zombie does not."""
    found = stat(pid)
    return found is not None and found.start_time == start_time and found.state not in "ZX"


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return read_file("/proc/sys/kernel/random/boot_id").decode().strip()


def pid_namespace() -> int:
    """Return the identity of the namespace in which this process sees pids."""
    return os.stat("/proc/self/ns/pid").st_ino
