"""A client over a backend in memory; everything else is real: store, states, causes, events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from agora.client import AgoraClient
from agora.client.asking import owner_of
from agora.config import Settings, TargetConfig
from agora.errors import DispatchNotFound
from agora.model.observation import Observation, Phase
from agora.model.record import Record
from agora.store import Store
from agora.testing.provider import BACKENDS, FakeBackend


class FakeClient(AgoraClient):
    """An `AgoraClient` that runs nothing: a workload goes on until `finish` ends it, or a cancel does.

    It keeps state as a real one does: cancelling what has completed answers `ALREADY_SUCCEEDED`, an id is dispatched
    once, `wait()` wakes when another task cancels. Its time passes as everywhere, and faster by `advance`. A client of
    somebody else beside it is `AgoraClient(fake.home, settings=fake.settings, owner="else")`.

    Parameters:
        actor: who asks, in every cause.
        owner: for whom it acts; nobody by default, whatever `AGORA_OWNER` says.
        targets: names of the targets that there are; the first one is the default.
        stubborn: a cancel is accepted and ends nothing; `finish` does.
    """

    def __init__(
        self, *, actor: str = "test", owner: str = "", targets: Sequence[str] = ("fake",), stubborn: bool = False
    ) -> None:
        owner = owner_of(owner) or ""
        self._ahead = timedelta()
        self._folder = TemporaryDirectory(prefix="agora-fake-")
        home = Path(self._folder.name)
        self.backend = BACKENDS[str(home)] = FakeBackend(stubborn)
        made = {name: TargetConfig(name, "agora.testing.provider:PROVIDER", {}, "FakeClient") for name in targets}
        settings = Settings(default_target=targets[0], supervisor=False, targets=made)
        super().__init__(home, settings=settings, actor=actor, owner=owner, supervisor=False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await super().__aexit__(kind, error, traceback)
        finally:
            del BACKENDS[str(self.home)]
            self._folder.cleanup()

    def _store(self) -> Store:
        return Store(self.home, clock=lambda: datetime.now(UTC) + self._ahead)

    async def advance(self, seconds: float) -> None:
        """Let time pass at once; what is due by then, like a start or a deadline, is carried out.

        Parameters:
            seconds: how many.
        """
        self._ahead += timedelta(seconds=seconds)
        await self.reconcile()

    async def finish(self, id: str, *, exit_code: int = 0) -> Record:
        """End a workload by itself, and return its record.

        Parameters:
            id: the dispatch.
            exit_code: the workload's; 0 is a success.
        Raises:
            DispatchNotFound: no such workload runs.
        """
        if id not in self.backend.workloads:
            raise DispatchNotFound(f"no workload of {id} was started")
        self.backend.end(id, Observation(phase=Phase.ENDED, exit_code=exit_code))
        return await self.wait(id)
