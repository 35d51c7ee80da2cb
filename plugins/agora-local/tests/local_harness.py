"""The local provider in the hands of a test, and eyes on the processes of its workloads."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agora.model.cause import Cause, Via
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Observation, Phase, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation
from agora_local import PROVIDER
from agora_local.provider import LocalProvider

#: Seconds that a test waits for what a machine with other work takes long for.
PATIENCE = 50


def never() -> None:
    """A check that never asks to stop."""


class Local:
    """The local provider in the hands of a test.

    Parameters:
        directory: the installation's directory.
        installation: its mark.
        config: of the target.
    """

    def __init__(self, directory: Path, installation: str = "test-installation", **config: Any) -> None:
        self.directory = directory
        self.installation = installation
        self.root = Path(config.get("state_dir") or directory / "local" / "here")
        created = PROVIDER.create("here", PROVIDER.config_model(**config), Installation(installation, directory))
        assert isinstance(created, LocalProvider)
        self.provider = created

    def start(self, *command: str, id: str | None = None, **fields: Any) -> Handle:
        """Dispatch a command."""
        return self.provider.dispatch(id or new_dispatch_id(), Spec(command=command, **fields), never)

    def stop(self, handle: Handle, grace: int = 10) -> StopReceipt:
        """Stop a workload."""
        return self.provider.stop(handle, grace, Cause(actor="tester", via=Via.API))

    def observe(self, handle: Handle) -> Observation:
        """Look at one workload."""
        (observation,) = self.provider.observe([handle])
        return observation

    def end(self, handle: Handle, within: float = PATIENCE) -> Observation:
        """Wait for the end of a workload."""
        eventually(lambda: self.observe(handle).phase is Phase.ENDED, within)
        return self.observe(handle)

    def output(self, handle: Handle, stream: str = "stdout") -> bytes:
        """Return what a workload has written so far."""
        return b"".join(c.data for c in self.provider.logs(handle, False, None, None) if c.stream == stream)

    def ready(self, handle: Handle, word: bytes = b"READY\n") -> None:
        """Wait until a workload has said a word."""
        eventually(lambda: word in self.output(handle))

    def run(self, *command: str, **fields: Any) -> tuple[Observation, bytes]:
        """Dispatch a command, wait for its end, and return that with its standard output."""
        handle = self.start(*command, **fields)
        return self.end(handle), self.output(handle)

    def live(self) -> list[str]:
        """Return the ids of the control sockets."""
        return [path.name for path in (self.root / ".live").iterdir()]

    def clean(self) -> None:
        """Kill whatever is left."""
        try:
            left = [owned.handle for owned in self.provider.list_owned(self.installation) if not owned.ended]
            for handle in left:
                self.provider.kill(handle)
        finally:
            self.provider.close()


def eventually(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait until a condition holds, and fail after `within` seconds."""
    give_up = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up, "it did not come to that in time"
        time.sleep(0.005)


def carrying(id: str) -> list[int]:
    """Return the pids of all living processes that carry a dispatch's mark in their environment."""
    mark = f"AGORA_DISPATCH_ID={id}".encode()
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdecimal() and mark in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
