"""The backend in memory of `FakeClient`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from agora.errors import Unreachable
from agora.hookspecs import hookimpl
from agora.model.base import Model
from agora.model.capabilities import FULL, Capabilities, Limits
from agora.model.cause import Cause
from agora.model.observation import Handle, LogChunk, Observation, Owned, Phase, ReceiptKind, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation, ProviderInfo

#: The exit code of a program that dies of SIGTERM, as a shell tells it: 128 + 15.
TERMINATED = 143


class FakeBackend:
    """Workloads that are only told of.

    Parameters:
        stubborn: a stop is accepted and ends nothing.
    """

    def __init__(self, stubborn: bool) -> None:
        self.stubborn = stubborn
        self.away = False
        self.workloads: dict[str, Observation] = {}
        self.specs: dict[str, Spec] = {}

    def end(self, id: str, how: Observation) -> None:
        """End a workload; the first end stands."""
        if self.workloads[id].phase is not Phase.ENDED:
            self.workloads[id] = how


#: By state directory.
BACKENDS: dict[str, FakeBackend] = {}


class FakeProvider:
    """The hooks.

    Parameters:
        backend: what they act on.
        name: of the target; part of the backend's identity.
    """

    def __init__(self, backend: FakeBackend, name: str) -> None:
        self._backend = backend
        self._name = name

    def _reach(self) -> None:
        if self._backend.away:
            raise Unreachable(f"target {self._name!r} is away")

    def _handle(self, id: str) -> Handle:
        return Handle(id=id, backend=f"fake-{self._name}", first=Observation(phase=Phase.RUNNING))

    @hookimpl
    def dispatch(self, id: str, spec: Spec, check: Callable[[], None]) -> Handle:
        """Start to tell of a workload."""
        self._reach()
        check()
        self._backend.specs[id] = spec
        self._backend.workloads.setdefault(id, Observation(phase=Phase.RUNNING))
        return self._handle(id)

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        """End it, unless it is stubborn."""
        self._reach()
        seen = self._backend.workloads[handle.id]
        if seen.phase is Phase.ENDED:
            return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)
        if not self._backend.stubborn:
            self._backend.end(handle.id, Observation(phase=Phase.ENDED, exit_code=TERMINATED, stop_reached=True))
        return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace)

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Tell."""
        self._reach()
        return [self._backend.workloads[handle.id] for handle in handles]

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Find."""
        self._reach()
        return self._handle(id) if id in self._backend.workloads else None

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """Tell of none: the state directory goes with the client."""
        return []

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Tell nothing: no program runs."""
        return iter(())


def _create(target_name: str, config: Model, installation: Installation) -> object:
    return FakeProvider(BACKENDS[str(installation.directory)], target_name)


PROVIDER = ProviderInfo(
    name="fake",
    config_model=Model,
    create=_create,
    capabilities=Capabilities(grace_per_stop=FULL, secrets=FULL, logs=FULL),
    limits=Limits(poll_interval=0.05, absence_proves_never_started=True),
)
