"""Start one container and stay beside it until its last process is gone.

Run as a program, `python -I -S launcher.py STATUS_FD`, with the order as JSON on standard input. It imports nothing
of ours, because one runs beside every container. SIGTERM is passed on to the container, SIGUSR1 kills it, and the
real-time signal SIGRTMIN + n stands for any other signal n.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 8192, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
#: Seconds between two looks at the memory of the container.
MEMORY_PERIOD = 0.02
#: Signals that are passed on, by the signal that asks for it.
PASSED = {signal.SIGRTMIN + number: number for number in range(1, signal.SIGRTMAX - signal.SIGRTMIN + 1)}
WATCHED = {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, *PASSED}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "shm", "pts")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int) -> None:
    """Mount, or raise the kernel's error."""
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def own_view(scratch: str, message: str | None) -> None:
    """Give this process a view of its own: /proc of its PID namespace, /dev with the termination message's file."""
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if message is None:
        return
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID)
    for name in DEVICES:
        device, place = Path("/dev", name), Path(scratch, name)
        if not device.exists():
            continue
        if device.is_dir():
            place.mkdir()
        else:
            place.touch()
        mount(str(device), str(place), "", MS_BIND | MS_REC)
    for name, target in LINKS.items():
        Path(scratch, name).symlink_to(target)
    place = Path(scratch, "termination-log")
    place.touch()
    mount(message, str(place), "", MS_BIND)
    mount(scratch, "/dev", "", MS_MOVE)


def become(order: dict[str, Any], failed: int) -> NoReturn:
    """Turn into the workload; what goes wrong is written to `failed`, which the exec closes."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(order["cwd"])
        if order["group"] is not None and os.getuid() == 0:
            os.setgroups([order["group"]])
            os.setgid(order["group"])
        if order["user"] is not None and os.getuid() == 0:
            os.setuid(order["user"])
        os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - the point of a launcher
    except (OSError, ValueError) as error:
        os.write(failed, str(error).encode())
    os._exit(128)


def pause(order: dict[str, Any], failed: int) -> NoReturn:
    """Be PID 1 of a shared process namespace: start the workload, pass SIGTERM on, reap, end with the workload."""
    workload = os.fork()
    if workload == 0:
        become(order, failed)
    os.close(failed)
    while True:
        number = signal.sigwait(WATCHED)
        if number == signal.SIGTERM or number in PASSED:
            os.kill(workload, PASSED.get(number, signal.SIGTERM))
        for pid, status in reap():
            if pid == workload:
                os._exit(code_of(status))


def reap() -> list[tuple[int, int]]:
    """Collect every child that has ended."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(found)
    return ended


def code_of(status: int) -> int:
    """Return the exit code as container runtimes tell it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def contain(order: dict[str, Any], *, isolated: bool, failed: int) -> NoReturn:
    """Live on as the container's first process."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if isolated:
        try:
            own_view(order["scratch"], order["message"])
        except OSError as error:
            os.write(failed, str(error).encode())
            os._exit(128)
        if order["shared"]:
            pause(order, failed)
    become(order, failed)


def descendants(root: int) -> list[int]:
    """Return the live descendants of a process, itself left out."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
                children = [int(pid) for pid in (task / "children").read_text().split()]
                found += children
                waiting += children
    return found


def memory(root: int) -> int:
    """Return the resident bytes of a process and its descendants; orphans of a namespace belong to its PID 1."""
    pages = 0
    for pid in (root, *descendants(root)):
        with contextlib.suppress(OSError, IndexError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; without one, PID 1 of a namespace never sees it."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def tell(status: int, **what: object) -> None:
    """Write one line to the runner."""
    os.write(status, json.dumps({"at": time.time(), **what}).encode() + b"\n")


def signalled(status: int) -> int:
    """Return the signal that a process died of, or 0."""
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def stand_by(order: dict[str, Any], child: int, *, isolated: bool) -> tuple[int, bool]:
    """Pass signals on until the container's first process has ended; return its status and whether it ran out."""
    limit, out = order["memory"], False
    while True:
        info = signal.sigtimedwait(WATCHED, MEMORY_PERIOD if limit else 3600)
        if info is not None and (info.si_signo == signal.SIGTERM or info.si_signo in PASSED):
            number = PASSED.get(info.si_signo, signal.SIGTERM)
            if isolated and order["shared"]:
                os.kill(child, info.si_signo)
            elif isolated or order["shared"] or order["plain"] or catches(child, number):
                os.kill(child, number)
        if info is not None and info.si_signo == signal.SIGUSR1:
            os.kill(child, signal.SIGKILL)
        if limit and not out and memory(child) > limit:
            out = True
            os.kill(child, signal.SIGKILL)
        for pid, status in reap():
            if pid == child:
                return status, out


def sweep() -> None:
    """Kill what a container without a namespace of its own has left behind."""
    while left := descendants(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
        reap()


def main() -> None:
    """Read the order, start the container and report its start and its end."""
    status = int(sys.argv[1])
    order = json.load(sys.stdin)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        sys.exit(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    isolated = order["isolate"] and libc.unshare(CLONE_NEWPID) == 0
    if not isolated:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(status, False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    failed, report = os.pipe()
    child = os.fork()
    if child == 0:
        contain(order, isolated=isolated, failed=report)
    os.close(report)
    os.dup2(0, 1)
    os.dup2(0, 2)
    # The exec closes the other end; an order that fails to start says why first.
    if problem := os.read(failed, 4096):
        os.waitpid(child, 0)
        tell(status, failed=problem.decode(errors="replace"))
        return
    tell(status, started=child, isolated=isolated)
    end, out = stand_by(order, child, isolated=isolated)
    if not isolated:
        sweep()
    tell(status, exit=code_of(end), signal=signalled(end), oom=out)


if __name__ == "__main__":
    main()
