"""The async client: every front door uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc
import anyio.to_thread
from pydantic import ValidationError

from agora.client.asking import Wanted, age_of, invalid, spec_of, states_of, user_name
from agora.client.combinators import Combinators
from agora.client.following import follow_end, follow_events, follow_logs
from agora.client.handle import DispatchHandle
from agora.client.opened import Opened
from agora.config import Settings, settings_or_problem
from agora.errors import (
    AgoraError,
    DispatchCancelled,
    DispatchEnded,
    DispatchFailed,
    DispatchLost,
    DispatchTimedOut,
    InvalidRequest,
)
from agora.model.cancel import CancelResult
from agora.model.cause import Cause, Via
from agora.model.events import Event
from agora.model.observation import LogChunk
from agora.model.record import Entry, Record, State
from agora.model.spec import Spec
from agora.store import Filter, Store, default_home

if TYPE_CHECKING:
    from agora.client.members import Members
    from agora.client.targets import TargetStatus
    from agora.engine import Reaped, ReconcileReport
    from agora.plugins import ProviderStatus

    Reaps = list[Reaped]
    Providers = list[ProviderStatus]
    TargetList = list[TargetStatus]

Records = list[Record]
Ids = list[str]

#: A read asks the target for so long, then shows what is stored (contract 7), in seconds.
REFRESH_SECONDS = 2.0
#: Leaving the client waits so long for submits under way, in seconds.
LEAVE_SECONDS = 10.0

NOT_OPEN = "the client is not open: use it as `async with AgoraClient() as client`"

_RAISES: dict[State, type[DispatchEnded]] = {
    State.CANCELLED: DispatchCancelled,
    State.FAILED: DispatchFailed,
    State.TIMED_OUT: DispatchTimedOut,
    State.LOST: DispatchLost,
}


class AgoraClient(Combinators):
    """A client of one state directory; an async context manager, on asyncio.

    Parameters:
        home: the state directory; `AGORA_HOME` or the platform's user state directory by default.
        settings: the configuration; read from files and variables by default.
        actor: who asks, in every cause; the user's name by default.
        via: the front door, in every cause.
        supervisor: false leaves dispatches that outlive the client without anybody, and says so on their records.
        extensions: hook wrappers and listeners besides the installed ones.
    Raises:
        StoreError: the state directory cannot be used (when entered).
        ConfigError: the configuration is wrong (when it is needed: what runs can be stopped all the same).
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        settings: Settings | None = None,
        actor: str | None = None,
        via: Via = Via.API,
        supervisor: bool = True,
        extensions: Sequence[object] = (),
    ) -> None:
        self.home = home or default_home()
        self._settings = settings
        self._actor = actor
        self._via = via
        self._wants_supervisor = supervisor
        self._extensions = tuple(extensions)
        self._parts: Opened | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings or settings_or_problem()
        store = await anyio.to_thread.run_sync(Store, self.home, abandon_on_cancel=True)
        self._settings = settings
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        background = self._wants_supervisor and settings.supervisor
        self._parts = Opened(store, settings, tasks, extensions=self._extensions, background=background)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        parts = self._opened
        with anyio.move_on_after(LEAVE_SECONDS, shield=True):
            await parts.sent()
        parts.tasks.cancel_scope.cancel()
        with suppress(anyio.get_cancelled_exc_class()):
            await parts.tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await parts.close()
        self._parts = None
        return None

    @property
    def _opened(self) -> Opened:
        if self._parts is None:
            raise AgoraError(NOT_OPEN)
        return self._parts

    @property
    def settings(self) -> Settings:
        """The configuration in use."""
        return self._opened.settings

    def _cause(self, reason: str | None) -> Cause:
        actor = self._actor or self._opened.settings.actor or user_name()
        try:
            return Cause(actor=actor, via=self._via, reason=reason)
        except ValidationError as error:
            raise invalid("cause", error) from None

    async def dispatch(
        self,
        spec: Spec | None = None,
        *,
        target: str | None = None,
        id: str | None = None,
        parent: str | None = None,
        **fields: Any,
    ) -> DispatchHandle:
        """Start a workload.

        Cancelling the caller does not cancel the dispatch.

        Parameters:
            spec: what to run; or its fields as keyword arguments.
            target: where; the default target if none is named.
            id: the dispatch id and idempotency key; a new one by default.
            parent: a dispatch whose cancel cancels this one too; in a workload of this store, its own by default,
                and none where this is empty.
            fields: fields of `Spec`.
        Returns:
            its handle; the same one for the same id and spec. A definite refusal to start is a record in `failed`.
        Raises:
            InvalidRequest: the spec, the target or the configuration is wrong; nothing was recorded.
            DispatchConflict: the id, or the name in its run, is taken by another spec.
            StoreError: the store cannot be written; nothing was started.
        """
        entry = await self._opened.dispatcher.dispatch(spec_of(spec, fields), target, id, parent)
        return DispatchHandle(self, entry.public())

    def _members(self, wanted: Sequence[Wanted], owned: bool) -> Members:
        from agora.client.members import Members

        leaving = self._cause("its group was left").model_copy(update={"policy": "owner_gone"})
        return Members(self, self._opened, wanted, owned, leaving)

    async def cancel(
        self,
        id: str,
        *,
        reason: str | None = None,
        grace: int | None = None,
        force: bool = False,
        soft: int | None = None,
        cause: Cause | None = None,
    ) -> CancelResult:
        """Ask for a stop; best-effort and not synchronous: `wait()` waits for the end.

        Parameters:
            id: the dispatch.
            reason: why.
            grace: seconds until SIGKILL, whole, at least 2; the dispatch's own by default.
            force: kill without grace.
            soft: seconds for which its worker is asked to end by itself, before the stop is sent.
            cause: the whole cause, instead of this client's actor and `reason`.
        Returns:
            what became of it, within 10 s.
        Raises:
            InvalidRequest: malformed; nothing was recorded.
            StoreError: the store cannot be reached.
        """
        result = await self._opened.engine.cancel(id, cause or self._cause(reason), grace, force, soft)
        if result.state is not None:
            entry = await self._opened.store.read(id)
            if entry.unsettled:
                await self._opened.supervision.ensure_background(entry)
        return result

    async def get(self, id: str, *, refresh: bool = True) -> Record:
        """Read a record.

        Parameters:
            id: the dispatch.
            refresh: ask the target first, for at most 2 s.
        Raises:
            DispatchNotFound: there is no such dispatch.
        """
        entry = await self._opened.store.read(id)
        [shown] = await self._refreshed([entry]) if refresh else [entry]
        return shown.public()

    async def list(
        self,
        *,
        states: Collection[State | str] | None = None,
        live: bool | None = None,
        run: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        target: str | None = None,
        older_than: timedelta | None = None,
        limit: int | None = None,
        refresh: bool = False,
    ) -> Records:
        """List records, newest first.

        Parameters:
            states, live, run, name, labels, target: only those that match all that is given; states by their names too.
            older_than: only those requested at least so long ago.
            limit: at most so many.
            refresh: ask the targets of live ones first, for at most 2 s.
        Raises:
            InvalidRequest: there is no such state, or a number is below 0.
        """
        if limit is not None and limit < 0:
            raise InvalidRequest(f"limit {limit} is below 0")
        store = self._opened.store
        before = None if older_than is None else store.now() - age_of(older_than)
        wanted = Filter(
            None if states is None else states_of(states), live, run, name, target, dict(labels or {}), before, limit
        )
        entries = await store.listed(wanted)
        if refresh and any(entry.unsettled for entry in entries):
            entries = list(await self._refreshed(entries))
        return [entry.public() for entry in entries]

    async def _refreshed(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        unsettled = [entry for entry in entries if entry.unsettled]
        if not unsettled:
            return entries
        parts = self._opened
        await parts.supervision.ensure_background(unsettled[0])
        live = [entry for entry in unsettled if entry.live]
        away = await parts.engine.refresh(live, REFRESH_SECONDS)
        fresh = {entry.id: entry for entry in await parts.store.read_many(entry.id for entry in live)}
        shown = [fresh.get(entry.id, entry) for entry in entries]
        return [
            entry.model_copy(update={"reachable": False}) if entry.id in away and entry.handle else entry
            for entry in shown
        ]

    async def resolve(self, text: str) -> str:
        """Find a dispatch id by the id, a unique prefix or a unique suffix.

        Raises:
            DispatchNotFound: nothing matches.
            AmbiguousId: more than one matches.
        """
        return await self._opened.store.resolve(text)

    def events(self, id: str, *, follow: bool = False, after: int = 0) -> AsyncIterator[Event]:
        """Yield the events of a dispatch, in order.

        Parameters:
            id: the dispatch.
            follow: go on until its end (and its confirmation, where that is still to come).
            after: begin behind this sequence number.
        Raises:
            DispatchNotFound: there is no such dispatch.
        """
        return follow_events(self._opened, id, follow, after)

    async def hear(self, event: bytes) -> bool:
        """Take in an event of a worker that came by its `AGORA_WORKER_URL` or `AGORA_WORKER_REDIS`.

        Parameters:
            event: as the worker sent it, JSON.
        Returns:
            whether it is new.
        Raises:
            InvalidRequest: it is no event of a worker.
            DispatchNotFound: there is no such dispatch.
        """
        return await self._opened.engine.listener.take(event)

    def logs(
        self, id: str, *, follow: bool = False, since: datetime | None = None, tail: int | None = None
    ) -> AsyncIterator[LogChunk]:
        """Yield the output of a dispatch.

        Parameters:
            id: the dispatch.
            follow: go on until its end.
            since: only what was received later.
            tail: begin with the last so many lines.
        Raises:
            DispatchNotFound: there is no such dispatch.
            ProviderError: the target keeps no logs, or cannot be asked.
        """
        return follow_logs(self._opened, id, follow, since, tail)

    async def wait(self, id: str, *, timeout: float | None = None, confirmed: bool = False) -> Record:
        """Wait for the end, whatever it is; supervise the dispatch meanwhile.

        Cancelling the waiter does not cancel the dispatch. Waits for the state, never for an event.

        Parameters:
            id: the dispatch.
            timeout: seconds; forever by default (every dispatch has a deadline), and 0 for a look.
            confirmed: wait for the proof of death too, where it is still to come.
        Raises:
            DispatchNotFound: there is no such dispatch.
            TimeoutError: it has not ended in time.
        """
        entry = await follow_end(self._opened, id, timeout, confirmed)
        return entry.public()

    async def result(self, id: str, *, timeout: float | None = None) -> Record:
        """Wait for success.

        Parameters:
            id: the dispatch.
            timeout: seconds; forever by default.
        Raises:
            DispatchCancelled, DispatchFailed, DispatchTimedOut, DispatchLost: it ended otherwise; each carries the
                record and the cause.
            TimeoutError: it has not ended in time.
        """
        record = await self.wait(id, timeout=timeout)
        if error := _RAISES.get(record.state):
            raise error(record)
        return record

    async def reconcile(self) -> ReconcileReport:
        """Make one pass over everything live: look, keep deadlines, carry out recorded requests."""
        return await self._opened.engine.reconcile()

    async def supervise(self, *, until_idle: bool = False) -> None:
        """Be the supervisor, in the foreground.

        Parameters:
            until_idle: return when nothing is live any more.
        """
        await self._opened.engine.supervise(until_idle=until_idle)

    async def reap(self, *, dry_run: bool = False, installation: str | None = None) -> Reaps:
        """Stop workloads that carry our mark and that no record knows.

        Parameters:
            dry_run: only say what would be done.
            installation: take those of another, lost installation.
        Raises:
            AgoraError: a target cannot be asked.
        """
        return await self._opened.engine.reap(self._cause(None).actor, dry_run=dry_run, installation=installation)

    async def prune(self, older_than: timedelta, *, dry_run: bool = False) -> Ids:
        """Remove records that ended longer ago, with their logs.

        Parameters:
            older_than: since the end.
            dry_run: only say which.
        Raises:
            InvalidRequest: the age is below 0.
        """
        return await self._opened.engine.prune(age_of(older_than), dry_run=dry_run)

    def providers(self) -> Providers:
        """List the installed providers, broken ones with their error."""
        from agora.plugins import list_providers

        return list_providers()

    def targets(self) -> TargetList:
        """List the configured targets, wrong ones with their error."""
        from agora.client.targets import target_statuses

        return target_statuses(self._opened.settings)
