"""The fork server: a fresh interpreter with one thread that forks shims for the process that started it.

Run as a script, isolated and without site-packages, with its socket as standard input; it ends when the other side
of the socket is closed. Its shims live on.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import traceback

if __name__ == "__main__":
    # The modules of this package need the standard library alone; its __init__ does not, so it is passed over.
    package = type(sys)("agora_local")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules["agora_local"] = package

from agora_local import shim

#: Longer than any request: it holds a few paths.
REQUEST_BYTES = 65536
DESCRIPTORS = 5


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


def serve(control: socket.socket) -> None:
    """Fork one shim per request until the other side is gone."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not request:
            return
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                shim.main(request, descriptors)
                code = 0
            except BaseException:  # noqa: BLE001 - the last words of a process; its workload dies with it
                traceback.print_exc()
            finally:
                os._exit(code)
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> None:
    """Serve the socket on standard input."""
    _start_clean()
    control = socket.socket(fileno=os.dup(0))
    control.set_inheritable(False)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.umask(0o077)
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a shim
    gc.collect()
    gc.freeze()
    gc.disable()
    serve(control)


if __name__ == "__main__":
    main()
