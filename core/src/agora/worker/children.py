"""Stopping the processes that this one has started."""

from __future__ import annotations

import os
import signal
import time

_PAUSE = 0.02
#: The last part of the time belongs to SIGKILL.
_KILL_PART = 0.25


def descendants(root: int | None = None) -> list[int]:
    """Return the pids of all processes below one, as far as /proc shows them; those that are dead but not waited for
    are left out.

    Parameters:
        root: its pid; this process by default.
    """
    children: dict[int, list[int]] = {}
    dead: set[int] = set()
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(name))
        if fields[0] in (b"Z", b"X"):
            dead.add(int(name))
    found: list[int] = []
    ahead = [os.getpid() if root is None else root]
    while ahead:
        below = children.get(ahead.pop(), [])
        ahead += below
        found += below
    return [pid for pid in found if pid not in dead]


def stop(seconds: float) -> None:
    """End everything below this process: SIGTERM, and SIGKILL for what is left in the last quarter of the time.

    Nobody's exit status is taken: whoever started a child still waits for it.

    Parameters:
        seconds: how long it may take.
    """
    until = time.monotonic() + seconds
    kill_at = until - seconds * _KILL_PART
    told: set[int] = set()
    while left := descendants():
        # Looked at once a round: on a busy machine the last quarter may be over before this comes to run again.
        now = time.monotonic()
        if now >= kill_at:
            tell(left, signal.SIGKILL)
        else:
            tell([pid for pid in left if pid not in told], signal.SIGTERM)
            told.update(left)
        if now >= until:
            return
        time.sleep(_PAUSE)


def kill() -> None:
    """Send SIGKILL to everything below this process: for a stop that did not come that far in its time."""
    tell(descendants(), signal.SIGKILL)


def tell(pids: list[int], number: int) -> None:
    """Send a signal to processes that may be gone by now."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
