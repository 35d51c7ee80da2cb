"""The client's side of the fork server: starts it when it is first needed and hands it requests."""

from __future__ import annotations

import errno
import marshal
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

from agora.errors import ConfigError, ProviderError, SubmitRefused, Unreachable
from agora.model.spec import Spec

from agora_local import forkserver, processes
from agora_local.request import Request
from agora_local.workload import Start

#: Seconds for one start, below the 10 that a caller allows.
START_TIMEOUT = 8.0
LOG = ".forkserver.log"
#: Seconds that a fork server may take to end once its socket is closed; a healthy one takes some milliseconds.
_END_SECONDS = 1.0
_PAUSE = 0.002
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


class Nothing(Exception):
    """The fork server went away before it had started anything for a request."""


def surroundings(spec: Spec, marks: dict[str, str], nice: int) -> Start:
    """Take the caller's environment, umask and limits of this moment, with what the spec adds."""
    environment = _environment()
    # For whom the caller acts is not for whom the workload does: that is in the spec, or nobody.
    environment.pop(b"AGORA_OWNER", None)
    added = spec.env | {name: value.get_secret_value() for name, value in spec.secrets.items()} | marks
    environment.update({name.encode(): value.encode() for name, value in added.items()})
    status = processes.read_file("/proc/self/status")  # os.umask() would change it for all threads
    umask = int(next(line for line in status.splitlines() if line.startswith(b"Umask:")).split()[1], 8)
    return Start(
        arguments=[argument.encode() for argument in spec.command or ()],
        environment=environment,
        umask=umask,
        limits=[(name, *resource.getrlimit(name)) for name in _LIMITS],
        directory=None if spec.cwd is None else spec.cwd.encode(),
        nice=nice,
    )


def _environment() -> dict[bytes, bytes]:
    while True:
        try:
            return dict(os.environb)
        except RuntimeError:  # another thread changed it under our eyes
            continue


class Launcher:
    """One fork server for this process, however many providers and threads ask.

    Parameters:
        cgroup: `auto` or `never`.
    """

    _shared: ClassVar[dict[str, Launcher]] = {}
    _sharing: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, cgroup: str) -> None:
        self._cgroup = cgroup
        self._users: WeakSet[object] = WeakSet()
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pid = 0
        self._owner: tuple[int, int, int] | None = None

    @classmethod
    def borrow(cls, user: object, cgroup: str) -> Launcher:
        """Return the one that everybody shares; whoever borrows it gives it back, or is forgotten with its end."""
        with cls._sharing:
            launcher = cls._shared.setdefault(cgroup, cls(cgroup))
            launcher._users.add(user)
            return launcher

    def give_back(self, user: object) -> None:
        """Let the fork server end with its last user; what it started goes on."""
        with self._sharing:
            self._users.discard(user)
            if self._users:
                return
            if self._shared.get(self._cgroup) is self:
                del self._shared[self._cgroup]
        with self._lock:
            control, self._control = self._control, None
            if control is not None:
                control.close()
                self._wait()

    def start(self, request: Request, start: Start, descriptors: Sequence[int], log: Path) -> None:
        """Have a workload started; the journal says the rest.

        Parameters:
            request: what its shim is told.
            start: what the workload is started with.
            descriptors: directory, journal, control sockets, working directory.
            log: where a fork server that has to be started for it says what goes wrong.

        Raises:
            SubmitRefused: it cannot be started; nothing is left of it.
            ProviderError, Unreachable: no answer, or no fork server.
            Nothing: the fork server went away; nothing was started.
        """
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(START_TIMEOUT)
            with theirs:
                control = self._running(log)
                try:
                    socket.send_fds(control, [request.pack()], [theirs.fileno(), *descriptors])
                except TimeoutError:
                    raise Unreachable("the fork server takes no requests", sent=False) from None
                except OSError:
                    self._drop(control)
                    raise Nothing from None
            try:
                ours.sendall(start.pack())
            except TimeoutError:
                raise Unreachable(f"the shim took no request within {START_TIMEOUT:g} s") from None
            except OSError:
                pass  # it did not want to hear the rest: its answer says why
            try:
                answer = ours.recv(4096)
            except TimeoutError:
                raise Unreachable(f"the shim did not answer within {START_TIMEOUT:g} s") from None
            except ConnectionError:
                answer = b""
        if not answer:
            self._drop(control)
            raise Nothing
        failed = marshal.loads(answer)  # noqa: S302 - written by this very package
        if failed is not None:
            stage, number = failed
            if stage == "process":
                raise Nothing
            raise refusal(stage, number, start)

    def _running(self, log: Path) -> socket.socket:
        with self._lock:
            # A fork of this process, or one that changed its user, must not use the parent's.
            owner = (os.getpid(), os.geteuid(), os.getegid())
            if self._control is not None and self._owner != owner:
                self._control.close()
                self._control = None
            if self._control is None:
                self._control = self._spawn(log)
                self._owner = owner
            return self._control

    def _drop(self, control: socket.socket) -> None:
        with self._lock:
            if self._control is control:
                self._control = None
                control.close()
                self._wait()

    def _wait(self) -> None:
        if self._owner is None or self._owner[0] != os.getpid():
            return
        patience = time.monotonic() + _END_SECONDS
        try:
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0) and time.monotonic() < patience + _END_SECONDS:
                if time.monotonic() > patience:
                    os.kill(self._pid, signal.SIGKILL)  # stopped by somebody; a child not waited for keeps its pid
                time.sleep(_PAUSE)
        except ChildProcessError:
            pass  # the program waits for all of its children, or ignores their ends

    def _spawn(self, log: Path) -> socket.socket:
        if not sys.executable:
            raise ConfigError("local: no Python interpreter to run the fork server with (sys.executable is empty)")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Its environment would be every shim's: keep it empty but for what the interpreter itself may need.
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            with theirs:
                self._pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-S", forkserver.__file__, self._cgroup],
                    kept,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 2, str(log), append, 0o600),
                    ],
                    setsigmask=(),
                    setsid=True,
                    setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
                )
        except OSError as error:
            ours.close()
            raise ProviderError(f"the fork server cannot be started: {error}", sent=False) from error
        ours.settimeout(START_TIMEOUT)
        return ours


def refusal(stage: str, number: int, start: Start) -> SubmitRefused:
    """Put into words why a workload could not be started."""
    program = start.arguments[0].decode()
    why = os.strerror(number) if number else "its process died"
    if stage == "cwd":
        directory = "of the caller" if start.directory is None else repr(start.directory.decode())
        reason = "cwd_missing" if number in (errno.ENOENT, errno.ENOTDIR) else "cwd_refused"
        return SubmitRefused(f"working directory {directory}: {why}", reason=reason)
    if stage == "limits":
        return SubmitRefused(f"the caller's limits or niceness cannot be set: {why}", reason="limits_refused")
    if stage != "exec":
        return SubmitRefused(f"the workload's process could not be made: {why}", reason="start_failed")
    match number:
        case errno.ENOENT | errno.ENOTDIR:
            where = "" if "/" in program else " in PATH"
            return SubmitRefused(
                f"program {program!r} was not found{where}, or its interpreter was not", reason="program_not_found"
            )
        case errno.E2BIG:
            words = "the command and its environment are longer than the kernel takes"
            return SubmitRefused(words, reason="argument_list_too_long")
        case errno.EACCES | errno.EPERM | errno.ENOEXEC:
            hint = "; a script needs a #! line" if number == errno.ENOEXEC else ""
            return SubmitRefused(f"program {program!r} cannot be executed: {why}{hint}", reason="not_executable")
        case _:
            return SubmitRefused(f"program {program!r} could not be started: {why}", reason="start_failed")
