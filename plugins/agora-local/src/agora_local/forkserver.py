"""The fork server: a fresh interpreter with one thread that forks shims for the process that started it.

Run as a script, isolated and without site-packages, with its socket as standard input; it ends when the other side
of the socket is closed. Its shims live on.
"""

from __future__ import annotations

import array
import gc
import os
import resource
import select
import signal
import socket
import sys

if __name__ == "__main__":
    # The modules of this package need the standard library alone; its __init__ does not, so it is passed over.
    package = type(sys)("agora_local")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules["agora_local"] = package

from agora_local import cgroup, shim

#: Standbys that are kept: one until the first dispatch, since many a program makes only one, then more.
FIRST_STANDBYS = 1
STANDBYS = 3
#: So many that die before they took a request, one after the other, are too many.
MOST_WASTED = 10
#: The workload gets the caller's limits exactly; a shim must not die of them.
_OWN_LIMITS = (
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_AS,
    resource.RLIMIT_DATA,
)


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
    for limit in _OWN_LIMITS:
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))


class Pool:
    """The standbys of one client: each has its control group, its pipes and the workload's process ready.

    Parameters:
        requests: where they wait for a request.
        cgroup_parent: directory in which control groups are made, or None for none.
    """

    def __init__(self, requests: socket.socket, cgroup_parent: str | None) -> None:
        self._requests = requests
        self._cgroup_parent = cgroup_parent
        self._taken, self._taken_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._idle: set[int] = set()
        self._wanted = FIRST_STANDBYS
        self._wasted = 0

    def serve(self) -> None:
        """Keep as many standbys as are wanted until the other side of their socket is gone."""
        poll = select.poll()
        poll.register(self._requests.fileno(), 0)  # tells of the hang-up alone; the requests are the standbys'
        for descriptor in (self._taken, self._wake):
            poll.register(descriptor, select.POLLIN)
        while self._wasted < MOST_WASTED:
            while len(self._idle) < self._wanted:
                self._fork()
            events = [descriptor for descriptor, _ in poll.poll()]
            if self._requests.fileno() in events:
                return
            self._count(events)
        raise ChildProcessError("standbys end as soon as they are made")

    def _fork(self) -> None:
        pid = os.fork()
        if pid:
            self._idle.add(pid)
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            shim.main(self._requests, self._taken_write, self._cgroup_parent)
            code = 0
        except BaseException:  # noqa: BLE001 - the last words of a process; its workload dies with it
            sys.excepthook(*sys.exc_info())  # `traceback` would be a fifth of every start
        finally:
            os._exit(code)

    def _count(self, events: list[int]) -> None:
        """Look which standbys were taken, and which have died."""
        if self._taken in events:
            self._idle.difference_update(array.array("i", os.read(self._taken, 4096)))
            self._wanted = STANDBYS
            self._wasted = 0
        if self._wake in events:
            os.read(self._wake, 4096)
        try:
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if pid in self._idle:
                    self._idle.discard(pid)
                    self._wasted += 1
        except ChildProcessError:
            pass  # none left


def main() -> None:
    """Serve the socket on standard input."""
    _start_clean()
    requests = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.umask(0o077)
    os.chdir("/")
    parent = cgroup.parent_path() if sys.argv[1:] == ["auto"] else None
    if parent is not None:
        cgroup.sweep(parent)
    gc.collect()
    gc.freeze()
    gc.disable()
    Pool(requests, parent).serve()


if __name__ == "__main__":
    main()
