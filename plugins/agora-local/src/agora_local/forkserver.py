"""The fork server: a fresh interpreter with one thread that forks shims for the process that started it.

Run as a script, isolated and without site-packages, with its socket as standard input; it ends when the other side
of the socket is closed. Its shims live on.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import sys
import traceback

if __name__ == "__main__":
    # The modules of this package need the standard library alone; its __init__ does not, so it is passed over.
    package = type(sys)("agora_local")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules["agora_local"] = package

from agora_local import cgroup, shim

#: Standbys that are kept: one until the first dispatch, since many a program makes only one, then more.
FIRST_STANDBYS = 1
STANDBYS = 3


def _start_clean() -> None:
    """Drop what came from the process that started us: open files, signal settings, low limits."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                continue
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # The workload gets the caller's limits; a shim must not die of them.
    for limit in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_DATA):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))


def serve(requests: socket.socket, cgroup_parent: str | None) -> None:
    """Keep standbys until the other side of their socket is gone.

    A standby has its control group, its pipes and the workload's process ready, so that a dispatch has little left
    to wait for.
    """
    taken, taken_write = os.pipe2(os.O_CLOEXEC)
    poll = select.poll()
    poll.register(requests.fileno(), 0)  # tells of the hang-up alone; the requests are the standbys'
    poll.register(taken, select.POLLIN)
    missing = FIRST_STANDBYS
    wanted = FIRST_STANDBYS
    while True:
        for _ in range(missing):
            _fork_standby(requests, taken_write, cgroup_parent)
        if any(descriptor != taken for descriptor, _ in poll.poll()):
            return
        missing = len(os.read(taken, 64)) + STANDBYS - wanted
        wanted = STANDBYS


def _fork_standby(requests: socket.socket, taken: int, cgroup_parent: str | None) -> None:
    if os.fork():
        return
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        shim.main(requests, taken, cgroup_parent)
        code = 0
    except BaseException:  # noqa: BLE001 - the last words of a process; its workload dies with it
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Serve the socket on standard input."""
    _start_clean()
    requests = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.umask(0o077)
    os.chdir("/")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a shim
    parent = cgroup.parent_path() if sys.argv[1:] == ["auto"] else None
    if parent is not None:
        cgroup.sweep(parent)
    gc.collect()
    gc.freeze()
    gc.disable()
    serve(requests, parent)


if __name__ == "__main__":
    main()
