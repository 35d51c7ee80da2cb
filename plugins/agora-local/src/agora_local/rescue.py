"""When a shim was killed: seeing that its whole tree is dead, and only then writing down an end.

The kernel kills the workload's first process with the shim (PR_SET_PDEATHSIG). What else there was is found by its
control group and, in this one case, by a look at all processes for the marks in their environment.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from agora_local import claims, processes
from agora_local.cgroup import Cgroup
from agora_local.journal import LIVE, RESERVE, Journal
from agora_local.story import Record, Story, read

DISPATCH_MARK = "AGORA_DISPATCH_ID"
INSTALLATION_MARK = "AGORA_DISPATCH_INSTALLATION"

_ROUNDS = 50
_PAUSE = 0.02


class NotProven(Exception):
    """It cannot be said that nothing is left."""


def settle(path: Path) -> Story:
    """Return the story of a dispatch whose shim seems to be gone, with an end if everything of it is dead.

    Parameters:
        path: the dispatch's directory.

    Raises:
        FileNotFoundError: there is no such dispatch.
        NotProven: something may be alive; the message says what.
    """
    claim = claims.take(path, make=False)
    if claim is None:
        # Somebody holds the lock: the shim, in a pid namespace that is not ours, or another rescue.
        return read(path) or Story()
    with claim:
        story = claim.story()
        if story.start is None or story.exit is not None or story.claim is None:
            return story
        if story.claim["boot"] == processes.boot_id():
            if story.start["namespace"] != processes.pid_namespace():
                raise NotProven("it ran in another pid namespace")
            _end(path, story.claim, story.start)
            reason = "shim_lost"
        else:
            reason = "machine_rebooted"
        journal = Journal(claim.descriptor, story.length, str(path.parent / RESERVE))
        asked = "kill" in story.records or story.records.get("stop", {}).get("by") == "request"
        journal.write(
            "exit",
            durable=True,
            exit_code=None,
            signal=None,
            forced=None,
            stop_reached=asked,
            ended_by=None,
            reason=reason,
        )
        (path.parent / LIVE / path.name).unlink(missing_ok=True)
        return claim.story()


def _end(path: Path, claim: Record, start: Record) -> None:
    group = Cgroup(start["cgroup"]) if start["cgroup"] is not None else None
    marks = {
        f"{DISPATCH_MARK}={path.name}".encode(),
        f"{INSTALLATION_MARK}={claim['installation']}".encode(),
    }
    for _ in range(_ROUNDS):
        if group is not None:
            group.kill()
        left = _kill_marked(marks)
        if processes.is_alive(start["pid"], start["start_time"]):
            left += 1
        if left == 0 and (group is None or group.empty()):
            if group is not None:
                group.remove()
            return
        time.sleep(_PAUSE)
    raise NotProven("the shim is gone and processes of the workload cannot be killed")


def _kill_marked(marks: set[bytes]) -> int:
    """Kill every process with the marks in its environment and all below it; return how many there were."""
    parents: dict[int, int] = {}
    doomed: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        pid = int(name)
        found = processes.stat(pid)
        if found is not None and found.state not in "ZX":
            parents[pid] = found.parent
            if _is_marked(pid, marks):
                doomed.add(pid)
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in doomed and pid not in doomed}
        doomed |= below
        grown = bool(below)
    for pid in doomed:
        _kill(pid, parents, marks)
    return len(doomed)


def _kill(pid: int, parents: dict[int, int], marks: set[bytes]) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # Look again with the pidfd open: the pid may have become a stranger's since.
        found = processes.stat(pid)
        if _is_marked(pid, marks) or (found is not None and found.parent == parents[pid]):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # the next round sees whether it is still there
    finally:
        os.close(descriptor)


def _is_marked(pid: int, marks: set[bytes]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:
            return marks.issubset(environment.read().split(b"\0"))
    except OSError:
        return False
