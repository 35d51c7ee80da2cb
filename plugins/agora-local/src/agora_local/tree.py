"""Ending a process tree: the shim is its subreaper, so every orphan of the tree becomes the shim's own child.

Imported by the fork server too, so it needs the standard library alone.
"""

from __future__ import annotations

import os
import signal

from agora_local import processes


def children(pid: int) -> list[int]:
    """Return the children of all threads of process `pid`; none where it is gone.

    The list may miss a child while others come and go (proc_tid_children(5)); callers look again.
    """
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            found.extend(map(int, processes.read_file(f"/proc/{pid}/task/{thread}/children").split()))
        except OSError:
            continue
    return found


def kill_children() -> None:
    """Kill the own children: safe by pid, since a child keeps its pid until its parent has waited for it."""
    for pid in children(os.getpid()):
        os.kill(pid, signal.SIGKILL)


def signal_descendants(number: int, *, only_stopped: bool = False) -> None:
    """Send a signal to every descendant below this process, once.

    Parameters:
        number: the signal.
        only_stopped: only to those that job control has stopped.
    """
    waiting = [(os.getpid(), pid) for pid in children(os.getpid())]
    while waiting:
        parent, pid = waiting.pop()
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # Still its parent's child with the pidfd open: so the pidfd is of a descendant, not of a stranger
            # that got the pid meanwhile.
            if pid not in children(parent):
                continue
            waiting.extend((pid, child) for child in children(pid))
            if only_stopped:
                found = processes.stat(pid)
                if found is None or found.state != "T":
                    continue
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)
