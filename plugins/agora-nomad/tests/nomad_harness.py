"""The provider on an emulated cluster, in the hands of a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agora.errors import AgoraError
from agora.model.cause import Cause, Via
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Observation, Phase, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation
from agora_conformance.emulators.nomad import NomadEmulator
from agora_nomad import PROVIDER, names
from agora_nomad.api import Api
from agora_nomad.cluster import quoted
from agora_nomad.provider import NomadProvider

GRACEFUL = "trap 'echo got term; exit 42' TERM; echo ready; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def never() -> None:
    """A check that never asks to stop."""


def eventually(look: Callable[[], Any], within: float = 50.0) -> Any:
    """Look until something is true."""
    until = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < until, f"not within {within} s"
        time.sleep(0.05)
    return seen


class Hands:
    """The provider on an emulator.

    Parameters:
        emulator: the cluster.
        directory: the installation's directory.
        installation: its mark.
        config: of the target.
    """

    def __init__(
        self, emulator: NomadEmulator, directory: Path, installation: str = "test-installation", **config: Any
    ) -> None:
        self.emulator = emulator
        self.installation = installation
        values = {"address": emulator.url, "image": "busybox", "driver": "raw_exec", **config}
        made = PROVIDER.create("here", PROVIDER.config_model(**values), Installation(installation, directory))
        assert isinstance(made, NomadProvider)
        self.provider = made

    @property
    def api(self) -> Api:
        """The provider's way to the cluster."""
        return self.provider._made.api

    def start(self, script: str = GRACEFUL, id: str | None = None, **fields: Any) -> Handle:
        """Dispatch a script."""
        spec = Spec(**{"command": ("/bin/sh", "-c", script), "grace": 5, **fields})
        return self.provider.dispatch(id or new_dispatch_id(), spec, never)

    def ready(self, handle: Handle) -> None:
        """Wait until the script says that it is ready."""
        eventually(lambda: b"ready" in self.output(handle))
        eventually(lambda: self.observe(handle).phase in (Phase.RUNNING, Phase.ENDED))

    def running(self, handle: Handle) -> None:
        """Wait until the cluster says that it runs."""
        eventually(lambda: self.observe(handle).phase is Phase.RUNNING)

    def stop(self, handle: Handle, grace: int = 5, reason: str = "a test") -> StopReceipt:
        """Stop a workload."""
        return self.provider.stop(handle, grace, Cause(actor="tester", via=Via.API, reason=reason))

    def observe(self, handle: Handle) -> Observation:
        """Look at one workload."""
        (seen,) = self.provider.observe([handle])
        return seen

    def end(self, handle: Handle, within: float = 50.0) -> Observation:
        """Wait for the end of a workload."""
        eventually(lambda: self.observe(handle).phase is Phase.ENDED, within)
        return self.observe(handle)

    def output(self, handle: Handle, **how: Any) -> bytes:
        """Return what a workload has written so far."""
        chunks = self.provider.logs(handle, how.get("follow", False), how.get("since"), how.get("tail"))
        wanted = how.get("stream")
        return b"".join(chunk.data for chunk in chunks if wanted in (None, chunk.stream))

    def allocations(self, handle: Handle) -> list[dict[str, Any]]:
        """List the allocations of a dispatch as the cluster shows them."""
        return self.api.allocations(names.job_id(handle.id))

    def allocation(self, handle: Handle) -> str:
        """Return the id of the only allocation."""
        (one,) = self.allocations(handle)
        return str(one["ID"])

    def job(self, handle: Handle) -> dict[str, Any] | None:
        """Return the job of a dispatch as the cluster shows it."""
        return self.api.job(names.job_id(handle.id))

    def jobs(self) -> list[str]:
        """Return the ids of the installation's jobs."""
        filter = f'Meta["{names.INSTALLATION}"] == {quoted(self.installation)}'
        return [job["ID"] for job in self.api.select("jobs", filter, meta="true")]

    def processes(self, handle: Handle) -> list[int]:
        """Return the live processes of a dispatch, seen from the node."""
        return self.emulator.processes(names.job_id(handle.id))

    def clean(self) -> None:
        """Remove everything of this installation and wait until its processes are gone."""
        with suppress(AgoraError):
            jobs = self.jobs()
            for id in jobs:
                self.api.deregister(id)
                self.api.remove_variable(f"nomad/jobs/{id}/{names.TASK}/{names.TASK}")
                for one in self.api.allocations(id):
                    with suppress(AgoraError):
                        self.api.signal(one["ID"], names.TASK, "SIGKILL")
            eventually(lambda: not [pid for id in jobs for pid in self.emulator.processes(id)])
        self.provider.close()


class Sink:
    """Gathers what a watch pushes."""

    def __init__(self) -> None:
        self.live: dict[str, Handle] = {}
        self.seen: dict[str, list[Observation]] = {}
        self.asked: list[str] = []
        self.up = 0
        self.over = threading.Event()
        self.error: AgoraError | None = None

    def connected(self) -> None:
        self.up += 1

    def push(self, dispatch_id: str, observation: Observation) -> None:
        self.seen.setdefault(dispatch_id, []).append(observation)

    def stale(self, dispatch_id: str) -> None:
        self.asked.append(dispatch_id)

    def handles(self) -> Mapping[str, Handle]:
        return dict(self.live)

    @property
    def closed(self) -> bool:
        return self.over.is_set()

    def last(self, handle: Handle) -> Observation:
        """Return the last word about a workload."""
        return self.seen.get(handle.id, [Observation(phase=Phase.ABSENT)])[-1]


@contextmanager
def watching(hands: Hands, sink: Sink) -> Iterator[threading.Thread]:
    """Watch in a thread until the block is left."""

    def watch() -> None:
        try:
            hands.provider.watch(sink)
        except AgoraError as error:
            sink.error = error

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        sink.over.set()
        thread.join(50)
        assert not thread.is_alive()
