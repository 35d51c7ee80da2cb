"""The blocking twin of the client: the same verbs, on an event loop in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from agora.client.batch import Batch
from agora.client.client import AgoraClient
from agora.client.combinators import Joined, Member, Raced, Settled
from agora.client.portal import Portal
from agora.config import Settings
from agora.errors import AgoraError
from agora.model.cancel import CancelResult
from agora.model.cause import Cause, Via
from agora.model.events import Event
from agora.model.observation import LogChunk
from agora.model.record import Record, State
from agora.model.run import RunOutcome, RunSummary
from agora.model.spec import Spec

if TYPE_CHECKING:
    from agora.client.blocking_run import BlockingRun
    from agora.client.targets import TargetStatus
    from agora.engine import Reaped, ReconcileReport
    from agora.plugins import ProviderStatus

    Reaps = list[Reaped]
    Providers = list[ProviderStatus]
    TargetList = list[TargetStatus]

T = TypeVar("T")
Records = list[Record]
RunSummaries = list[RunSummary]
Ids = list[str]


class BlockingHandle:
    """One dispatch in hand, blocking; see `DispatchHandle`.

    Parameters:
        client: the client that it was dispatched with.
        record: the record as it was then.
    """

    def __init__(self, client: BlockingClient, record: Record) -> None:
        self._client = client
        self.record = record

    @property
    def id(self) -> str:
        """The dispatch id."""
        return self.record.id

    def get(self, *, refresh: bool = True) -> Record:
        """Read the record."""
        return self._client.get(self.id, refresh=refresh)

    def cancel(
        self,
        *,
        reason: str | None = None,
        grace: int | None = None,
        force: bool = False,
        soft: int | None = None,
        children_grace: int | None = None,
        children_force: bool = False,
        cause: Cause | None = None,
    ) -> CancelResult:
        """Cancel it."""
        return self._client.cancel(
            self.id, reason=reason, grace=grace, force=force, soft=soft,
            children_grace=children_grace, children_force=children_force, cause=cause,
        )  # fmt: skip

    def spend(self, **amounts: float) -> Record:
        """Add to what it has spent."""
        return self._client.spend(self.id, **amounts)

    def wait(self, *, timeout: float | None = None, confirmed: bool = False) -> Record:
        """Wait for its end."""
        return self._client.wait(self.id, timeout=timeout, confirmed=confirmed)

    def result(self, *, timeout: float | None = None) -> Record:
        """Wait for its success."""
        return self._client.result(self.id, timeout=timeout)

    def events(self, *, follow: bool = False, after: int = 0) -> Iterator[Event]:
        """Its events."""
        return self._client.events(self.id, follow=follow, after=after)

    def logs(
        self, *, follow: bool = False, since: datetime | None = None, tail: int | None = None
    ) -> Iterator[LogChunk]:
        """Its output."""
        return self._client.logs(self.id, follow=follow, since=since, tail=tail)

    def __repr__(self) -> str:
        return f"<BlockingHandle {self.id} on {self.record.target}>"


class BlockingBatch:
    """Dispatches that are only planned, blocking; see `Batch`.

    Parameters:
        batch: what is planned.
        send: commits it.
    """

    def __init__(self, batch: Batch, send: Callable[[Batch], list[BlockingHandle]]) -> None:
        self._batch = batch
        self._send = send

    @property
    def ids(self) -> list[str]:
        """Ids of what is planned, in order."""
        return self._batch.ids

    def add(
        self, spec: Spec | None = None, *, target: str | None = None, parent: str | None = None,
        start_at: datetime | None = None, delay: float | None = None, **fields: Any,
    ) -> str:  # fmt: skip
        """Plan a dispatch and return the id that it will have."""
        return self._batch.add(spec, target=target, parent=parent, start_at=start_at, delay=delay, **fields)

    def remove(self, id: str) -> None:
        """Take a planned dispatch out: it never starts."""
        self._batch.remove(id)

    def commit(self) -> list[BlockingHandle]:
        """Send what is planned."""
        return self._send(self._batch)


class BlockingClient:
    """`AgoraClient` for programs without an event loop; a context manager, usable from several threads.

    Parameters and errors are those of `AgoraClient`, verb by verb.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        settings: Settings | None = None,
        actor: str | None = None,
        via: Via = Via.API,
        owner: str | None = None,
        supervisor: bool = True,
        extensions: Sequence[object] = (),
    ) -> None:
        self._client = AgoraClient(
            home, settings=settings, actor=actor, via=via, owner=owner, supervisor=supervisor, extensions=extensions
        )
        self._portal: Portal | None = None

    def __enter__(self) -> BlockingClient:
        self._portal = Portal(self._client)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        portal, self._portal = self._portal, None
        if portal is not None:
            portal.close()

    def _call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        portal = self._portal  # another thread may close the client at any moment
        if portal is None:
            raise AgoraError("the client is not open: use it as `with BlockingClient() as client`")
        return portal.call(work)

    def _iterate(self, values: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> tuple[T] | None:
            async for value in values:
                return (value,)
            return None

        try:
            while (found := self._call(following)) is not None:
                yield found[0]
        finally:
            if isinstance(values, AsyncGenerator) and self._portal is not None:
                self._call(partial(_close, values))

    def dispatch(
        self,
        spec: Spec | None = None,
        *,
        target: str | None = None,
        id: str | None = None,
        parent: str | None = None,
        start_at: datetime | None = None,
        delay: float | None = None,
        **fields: Any,
    ) -> BlockingHandle:
        """Start a workload, now or later."""
        fields |= {"target": target, "id": id, "parent": parent, "start_at": start_at, "delay": delay}
        handle = self._call(partial(self._client.dispatch, spec, **fields))
        return BlockingHandle(self, handle.record)

    def run(self, name: str) -> BlockingRun:
        """Make the scope of a run: `with client.run("nightly") as run`."""
        from agora.client.blocking_run import BlockingRun

        return BlockingRun(self._client.run(name), self._call, lambda handle: BlockingHandle(self, handle.record))

    def batch(self, key: str | None = None) -> BlockingBatch:
        """Begin a batch."""

        def send(batch: Batch) -> list[BlockingHandle]:
            return [BlockingHandle(self, handle.record) for handle in self._call(batch.commit)]

        return BlockingBatch(self._client.batch(key), send)

    def race(self, members: Sequence[Member], *, key: str | None = None, owned: bool = False) -> Raced:
        """Wait for the first success and cancel the others."""
        return self._call(partial(self._client.race, members, key=key, owned=owned))

    def join_all(self, members: Sequence[Member], *, key: str | None = None, owned: bool = False) -> tuple[Record, ...]:
        """Wait until all have succeeded, or raise at once."""
        return self._call(partial(self._client.join_all, members, key=key, owned=owned))

    def join_all_with_timeout(
        self, members: Sequence[Member], timeout: float, *, key: str | None = None, owned: bool = False
    ) -> Joined:
        """Wait for all and cancel at the timeout what has not ended."""
        return self._call(partial(self._client.join_all_with_timeout, members, timeout, key=key, owned=owned))

    def join_all_settled(self, members: Sequence[Member], *, key: str | None = None, owned: bool = False) -> Settled:
        """Wait until all have ended."""
        return self._call(partial(self._client.join_all_settled, members, key=key, owned=owned))

    def retry(self, member: Member, *, attempts: int, key: str | None = None, unhealthy: bool = False) -> Record:
        """Dispatch until one succeeds; what was cancelled is not tried again, unless for its silence where asked."""
        return self._call(partial(self._client.retry, member, attempts=attempts, key=key, unhealthy=unhealthy))

    def as_completed(
        self, members: Sequence[Member], *, key: str | None = None, owned: bool = False
    ) -> Iterator[Record]:
        """Yield records as they end; leaving the loop early cancels the members."""
        return self._iterate(self._client.as_completed(members, key=key, owned=owned))

    def cancel(
        self,
        id: str,
        *,
        reason: str | None = None,
        grace: int | None = None,
        force: bool = False,
        soft: int | None = None,
        children_grace: int | None = None,
        children_force: bool = False,
        cause: Cause | None = None,
    ) -> CancelResult:
        """Ask for a stop."""
        return self._call(partial(
            self._client.cancel, id, reason=reason, grace=grace, force=force, soft=soft,
            children_grace=children_grace, children_force=children_force, cause=cause,
        ))  # fmt: skip

    def spend(self, id: str, /, **amounts: float) -> Record:
        """Add to what a dispatch has spent."""
        return self._call(partial(self._client.spend, id, **amounts))

    def get(self, id: str, *, refresh: bool = True) -> Record:
        """Read a record."""
        return self._call(partial(self._client.get, id, refresh=refresh))

    def list(
        self,
        *,
        states: Collection[State | str] | None = None,
        live: bool | None = None,
        run: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        target: str | None = None,
        owner: str | None = None,
        older_than: timedelta | None = None,
        limit: int | None = None,
        refresh: bool = False,
    ) -> Records:
        """List records, newest first."""
        return self._call(
            partial(
                self._client.list,
                states=states,
                live=live,
                run=run,
                name=name,
                labels=labels,
                target=target,
                owner=owner,
                older_than=older_than,
                limit=limit,
                refresh=refresh,
            )
        )

    def runs(self, *, run: str | None = None, limit: int | None = None) -> RunSummaries:
        """List runs, the newest first."""
        return self._call(partial(self._client.runs, run=run, limit=limit))

    def run_outcome(self, run: str) -> RunOutcome | None:
        """Return how a run was left."""
        return self._call(partial(self._client.run_outcome, run))

    def resolve(self, text: str) -> str:
        """Find a dispatch id by the id, a unique prefix or a unique suffix."""
        return self._call(partial(self._client.resolve, text))

    def events(self, id: str, *, follow: bool = False, after: int = 0) -> Iterator[Event]:
        """Yield events."""
        return self._iterate(self._client.events(id, follow=follow, after=after))

    def run_events(self, run: str, *, follow: bool = False, after: str | None = None) -> Iterator[Event]:
        """Yield the events of a run."""
        return self._iterate(self._client.run_events(run, follow=follow, after=after))

    def hear(self, event: bytes) -> bool:
        """Take in an event of a worker that came by its `AGORA_WORKER_URL` or `AGORA_WORKER_REDIS`."""
        return self._call(partial(self._client.hear, event))

    def logs(
        self, id: str, *, follow: bool = False, since: datetime | None = None, tail: int | None = None
    ) -> Iterator[LogChunk]:
        """Yield output."""
        return self._iterate(self._client.logs(id, follow=follow, since=since, tail=tail))

    def wait(self, id: str, *, timeout: float | None = None, confirmed: bool = False) -> Record:
        """Wait for the end."""
        return self._call(partial(self._client.wait, id, timeout=timeout, confirmed=confirmed))

    def result(self, id: str, *, timeout: float | None = None) -> Record:
        """Wait for success."""
        return self._call(partial(self._client.result, id, timeout=timeout))

    def reconcile(self) -> ReconcileReport:
        """Make one pass over everything live."""
        return self._call(self._client.reconcile)

    def supervise(self, *, until_idle: bool = False) -> None:
        """Be the supervisor."""
        self._call(partial(self._client.supervise, until_idle=until_idle))

    def reap(self, *, dry_run: bool = False, installation: str | None = None) -> Reaps:
        """Stop workloads that carry our mark and that no record knows."""
        return self._call(partial(self._client.reap, dry_run=dry_run, installation=installation))

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> Ids:
        """Remove records that ended longer ago."""
        return self._call(partial(self._client.prune, older_than, dry_run=dry_run))

    def providers(self) -> Providers:
        """List the installed providers."""
        return self._client.providers()

    def targets(self) -> TargetList:
        """List the configured targets."""
        return self._client.targets()


async def _close(values: AsyncGenerator[Any, None]) -> None:
    await values.aclose()
