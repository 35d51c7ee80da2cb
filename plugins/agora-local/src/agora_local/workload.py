"""The last steps of the workload's own process before it becomes the program: imported by the fork server too."""

from __future__ import annotations

import errno
import marshal
import os
import resource
import signal
import socket
import struct

from agora_local import processes
from agora_local.request import receive

#: What is said between the shim and this process: get ready (with the caller's socket and working directory),
#: all is ready, the start is written down and the program may begin.
PREPARE = b"prepare"
READY = b"ready"
GO = b"go"
_FAILED = struct.Struct("<16si")
_LENGTH = struct.Struct("<I")


class Start:
    """What the program is started with: the caller's surroundings at the moment of the dispatch.

    Parameters:
        arguments: the command, as bytes.
        environment: all variables, secrets included.
        umask: file mode creation mask.
        limits: soft and hard limit by number of the resource.
        directory: working directory, resolved from the caller's; None for the caller's own.
        nice: added to the niceness.
    """

    __slots__ = ("arguments", "directory", "environment", "limits", "nice", "umask")

    def __init__(
        self,
        arguments: list[bytes],
        environment: dict[bytes, bytes],
        umask: int,
        limits: list[tuple[int, int, int]],
        directory: bytes | None,
        nice: int,
    ) -> None:
        self.arguments = arguments
        self.environment = environment
        self.umask = umask
        self.limits = limits
        self.directory = directory
        self.nice = nice

    def pack(self) -> bytes:
        """Return it as bytes for `receive`, in the same version of Python."""
        fields = [self.arguments, self.environment, self.umask, self.limits, self.directory, self.nice]
        data = marshal.dumps(fields)
        return _LENGTH.pack(len(data)) + data

    @classmethod
    def receive(cls, channel: socket.socket) -> Start:
        """Read it from the dispatching process.

        Raises:
            EOFError: that process is gone before it said all.
        """
        (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
        return cls(*marshal.loads(_read(channel, length)))  # noqa: S302 - written by this very package


def _read(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = channel.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


class StartError(Exception):
    """The program could not be started.

    Parameters:
        stage: `process`, `limits`, `cwd` or `exec`.
        number: the errno, 0 where there is none.
    """

    def __init__(self, stage: str, number: int) -> None:
        super().__init__(stage, number)
        self.stage = stage
        self.number = number

    def pack(self) -> bytes:
        """Return it as bytes for `unpack`."""
        return _FAILED.pack(self.stage.encode(), self.number)

    @classmethod
    def unpack(cls, data: bytes) -> StartError:
        """Read it from what the workload's process said."""
        stage, number = _FAILED.unpack(data)
        return cls(stage.rstrip(b"\0").decode(), number)


def become(shim: socket.socket, parent: int, streams: tuple[int, int]) -> None:
    """Turn this freshly forked process into the workload once it is asked to; it never returns.

    Parameters:
        shim: to hear from the shim, and to tell it what went wrong; closed by the start of the program.
        parent: pid of the shim.
        streams: the writing ends of stdout and stderr.
    """
    stage = "process"
    try:
        # Whoever kills the shim kills its workload: nothing runs on without a guardian.
        processes.prctl(processes.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        # Handlers end with exec, what is ignored stays ignored; the interpreter ignores these two.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        word, descriptors = receive(shim, len(PREPARE), 2)
        if word != PREPARE:
            os._exit(1)
        caller, home = descriptors
        start = Start.receive(socket.socket(fileno=caller))
        stage = "limits"
        os.umask(start.umask)
        for name, soft, hard in start.limits:
            if resource.getrlimit(name) != (soft, hard):
                resource.setrlimit(name, (soft, hard))
        if start.nice:
            os.nice(start.nice)
        stage = "cwd"
        os.fchdir(home)
        if start.directory is not None:
            os.chdir(start.directory)
        stage = "exec"
        shim.send(READY)
        if shim.recv(len(GO)) != GO:
            os._exit(1)
        _execute(start)
    except (OSError, ValueError) as error:
        shim.send(StartError(stage, getattr(error, "errno", 0) or 0).pack())
    except EOFError:
        shim.send(StartError("process", 0).pack())
    finally:
        os._exit(127)


def _execute(start: Start) -> None:
    """Replace this process by the program, searched in the workload's own PATH like execvp(3) does."""
    program = start.arguments[0]
    if b"/" in program:
        os.execve(program, start.arguments, start.environment)  # noqa: S606 - no shell is the point
    denied: OSError | None = None
    for directory in start.environment.get(b"PATH", os.fsencode(os.defpath)).split(b":"):
        try:
            os.execve(os.path.join(directory or b".", program), start.arguments, start.environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            denied = error
    raise denied or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
