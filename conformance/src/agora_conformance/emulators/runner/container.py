"""One container: its process, its signals, its end, its output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agora_conformance.emulators.runner import launcher
from agora_conformance.emulators.runner.logs import LINE_LIMIT, Line, Log

#: Seconds for the launcher to say that the workload runs; a busy machine takes a while.
START_LIMIT = 30.0
#: Seconds to wait for the last output once every process is gone.
DRAIN_LIMIT = 20.0


class StartFailed(Exception):
    """The container's command could not be started; the message is the operating system's."""


@dataclass(frozen=True)
class ContainerSpec:
    """What to run.

    Parameters:
        argv: the command, never a string for a shell.
        env: its whole environment.
        cwd: its working directory.
        shared: a pause process is PID 1, and the command is its child; else the command is PID 1.
        memory: bytes of resident memory at which it is killed; None for no limit.
        user, group: numeric ids to run as, where the emulator is root.
        message: whether it may leave a message in /dev/termination-log.
        plain: a process of the host as any other, never PID 1: SIGTERM ends it also without a handler.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = "/"
    shared: bool = False
    memory: int | None = None
    user: int | None = None
    group: int | None = None
    message: bool = True
    plain: bool = False


@dataclass(frozen=True)
class Exit:
    """How a container ended.

    Parameters:
        code: exit code; 128 + n for signal n, as container runtimes tell it.
        oom: it was killed because it ran out of memory.
        at: seconds since the epoch.
        signal: the signal that the first process died of; 0 for none, and where a pause process stands between.
    """

    code: int
    oom: bool
    at: float
    signal: int = 0


class Container:
    """A container that was asked for; made by `Runner.start`.

    Parameters:
        spec: what runs.
        folder: a directory of its own.
    """

    def __init__(self, spec: ContainerSpec, folder: Path) -> None:
        self.spec = spec
        self.log = Log()
        self.started_at = 0.0
        self.isolated = False
        self.terms: list[float] = []
        self._folder = folder
        self._pid = 0
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._pumps: list[asyncio.Task[None]] = []
        self._waiter: asyncio.Task[None] | None = None

    async def start(self, *, isolate: bool) -> None:
        """Start it and wait until the command runs.

        Raises:
            StartFailed: the command could not be started.
        """
        message, scratch = self._folder / "message", self._folder / "dev"
        message.touch()
        message.chmod(0o666)
        scratch.mkdir()
        reader, writer = os.pipe()
        out, out_writer = os.pipe()
        err, err_writer = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launcher.__file__, str(writer)),
                stdin=asyncio.subprocess.PIPE,
                stdout=out_writer,
                stderr=err_writer,
                pass_fds=(writer,),
                env={},
                start_new_session=True,
            )
        finally:
            for descriptor in (writer, out_writer, err_writer):
                os.close(descriptor)
        self._process = process
        await self._order(process, message, scratch, isolate=isolate and not self.spec.plain)
        status = await _stream(reader)
        self._pumps = [asyncio.create_task(self._pump(fd, name)) for fd, name in ((out, "stdout"), (err, "stderr"))]
        self._waiter = asyncio.create_task(self._wait(process, status, first := asyncio.Event()))
        try:
            async with asyncio.timeout(START_LIMIT):
                await first.wait()
        except TimeoutError:
            self.kill()
            raise StartFailed("the launcher did not answer") from None
        if self._end.done() and self._end.exception() is not None:
            raise StartFailed(str(self._end.exception()))

    async def _order(self, process: asyncio.subprocess.Process, message: Path, scratch: Path, *, isolate: bool) -> None:
        spec, stdin = self.spec, process.stdin
        if stdin is None:
            raise StartFailed("the launcher has no standard input")
        order = {
            "argv": spec.argv, "env": dict(spec.env), "cwd": spec.cwd, "shared": spec.shared, "memory": spec.memory,
            "user": spec.user, "group": spec.group, "message": str(message) if spec.message else None,
            "plain": spec.plain, "scratch": str(scratch), "isolate": isolate, "parent": os.getpid(),
        }  # fmt: skip
        with contextlib.suppress(ConnectionError):
            stdin.write(json.dumps(order).encode())
            await stdin.drain()
        stdin.close()

    async def _wait(
        self, process: asyncio.subprocess.Process, status: asyncio.StreamReader, first: asyncio.Event
    ) -> None:
        last: dict[str, Any] = {}
        while line := await status.readline():
            last = json.loads(line)
            if "started" in last:
                self.started_at, self._pid, self.isolated = last["at"], last["started"], last["isolated"]
                first.set()
        await process.wait()
        await asyncio.wait(self._pumps, timeout=DRAIN_LIMIT)
        for pump in self._pumps:
            pump.cancel()
        self.log.close()
        if "failed" in last:
            self._end.set_exception(StartFailed(last["failed"]))
            self._end.exception()  # whoever waits is told; nobody has to
        elif "exit" in last:
            self._end.set_result(Exit(last["exit"], last["oom"], last["at"], last["signal"]))
        else:
            # The launcher itself was killed, and the kernel killed the container with it.
            self._end.set_result(Exit(128 + signal.SIGKILL, oom=False, at=time.time(), signal=signal.SIGKILL))
        first.set()

    async def _pump(self, descriptor: int, name: str) -> None:
        stream = await _stream(descriptor)
        while True:
            try:
                data = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                data = error.partial
            except asyncio.LimitOverrunError:
                data = await stream.read(LINE_LIMIT)
            if not data:
                return
            self.log.append(Line(time.time(), name, data))

    @property
    def ended(self) -> bool:
        """Whether every process of it is gone."""
        return self._end.done()

    async def wait(self) -> Exit:
        """Wait for the end, however long it takes."""
        return await asyncio.shield(self._end)

    def _signal(self, number: int) -> None:
        if self._process is not None and not self.ended:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM to the command; as PID 1 of its namespace it sees it only with a handler."""
        self.terms.append(time.time())
        self._signal(signal.SIGTERM)

    def send(self, number: int) -> None:
        """Send a signal to the command; SIGKILL and SIGTERM have methods of their own."""
        self._signal(signal.SIGRTMIN + number)

    def kill(self) -> None:
        """Kill every process of it."""
        self._signal(signal.SIGUSR1)

    def processes(self) -> list[int]:
        """Return the pids of its live processes, the pause process left out, as the host numbers them."""
        if self.ended or not self._pid:
            return []
        found = launcher.descendants(self._pid)
        return found if self.isolated and self.spec.shared else [self._pid, *found]

    def message(self) -> str:
        """Return what it left in /dev/termination-log; the kubelet reads at most 4096 bytes."""
        with contextlib.suppress(OSError):
            return (self._folder / "message").read_bytes()[-4096:].decode(errors="replace")
        return ""

    async def join(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        if self._waiter is not None:
            await asyncio.wait([self._waiter], timeout=START_LIMIT)


async def _stream(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader
