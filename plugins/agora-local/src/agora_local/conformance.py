"""The target that `agora-conformance run local` tests: this machine, seen through /proc."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agora_conformance.target import Backend, ConformanceTarget

from agora_local import processes
from agora_local.rescue import DISPATCH_MARK, INSTALLATION_MARK


def probe_spec(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run the probe as a process of this machine."""
    return {"command": ["sh", "-c", script, "probe", *arguments]}


def _environment(pid: str) -> bytes:
    """Return the environment that a process was started with, empty where there is none; zombies have none."""
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        pieces = [b"\0"]
        while piece := os.read(descriptor, 1 << 18):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _marked(installation: str, dispatch_id: str | None) -> Iterator[int]:
    wanted = [f"\0{INSTALLATION_MARK}={installation}\0".encode()]
    if dispatch_id is not None:
        wanted.append(f"\0{DISPATCH_MARK}={dispatch_id}\0".encode())
    for pid in os.listdir("/proc"):
        if pid.isdecimal():
            environment = _environment(pid)
            if all(mark in environment for mark in wanted):
                yield int(pid)


class Stranger:
    """A process that no provider started."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["sleep", "600"], start_new_session=True)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def remove(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(timeout=5)


class LocalEyes:
    """What /proc shows, and what signals to a shim do."""

    def __init__(self) -> None:
        self._cut: dict[str, int] = {}
        self._hidden: dict[str, Path] = {}

    def processes(self, installation: str, dispatch_id: str | None) -> Sequence[int]:
        """Find live processes by the marks in their environment, which every descendant inherits."""
        return list(_marked(installation, dispatch_id))

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Stop the shim, which is the agent of its workload."""
        pids = set(_marked(installation, dispatch_id))
        parents = {found.parent for pid in pids if (found := processes.stat(pid))} - pids
        if len(parents) != 1:
            raise LookupError(f"{dispatch_id} has {len(pids)} processes, and {len(parents)} shims")
        shim = self._cut[dispatch_id] = parents.pop()
        os.kill(shim, signal.SIGSTOP)

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Let the shim go on."""
        shim = self._cut.pop(dispatch_id, None)
        if shim is not None:
            with suppress(ProcessLookupError):
                os.kill(shim, signal.SIGCONT)

    def forget(self, installation: str, dispatch_id: str) -> None:
        """Move the journal's directory out of sight; the shim has it open."""
        pids = set(_marked(installation, dispatch_id))
        for parent in {found.parent for pid in pids if (found := processes.stat(pid))} - pids:
            for entry in Path(f"/proc/{parent}/fd").iterdir():
                with suppress(OSError):
                    if (directory := entry.readlink()).name == dispatch_id:
                        self._hidden[dispatch_id] = directory
                        directory.rename(directory.with_name(f".{dispatch_id}"))
                        return
        raise LookupError(f"{dispatch_id} has {len(pids)} processes, and no shim with a journal")

    def remember(self, installation: str, dispatch_id: str) -> None:
        """Move it back."""
        if directory := self._hidden.pop(dispatch_id, None):
            directory.with_name(f".{dispatch_id}").rename(directory)

    def stranger(self) -> Stranger:
        """Start a process without any mark."""
        return Stranger()

    def sweep(self, installation: str) -> None:
        """Kill every process that carries the mark."""
        for pid in list(_marked(installation, None)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _backend() -> Backend:
    return Backend(platform.system(), platform.release())


TARGET = ConformanceTarget(provider="local", probe_spec=probe_spec, overhead=1.0, eyes=LocalEyes(), backend=_backend)
