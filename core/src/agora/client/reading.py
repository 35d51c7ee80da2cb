"""What a client reads: records, events, output, and the end that it waits for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from agora.client.asking import age_of, states_of
from agora.client.following import follow_end, follow_events, follow_logs, follow_run
from agora.client.opened import Opened
from agora.errors import (
    DispatchCancelled,
    DispatchEnded,
    DispatchFailed,
    DispatchLost,
    DispatchTimedOut,
    InvalidRequest,
)
from agora.model.events import Event
from agora.model.observation import LogChunk
from agora.model.record import Entry, Record, State
from agora.model.run import RunOutcome, RunSummary
from agora.store import Filter

Records = list[Record]
RunSummaries = list[RunSummary]

#: A read asks the target for so long, then shows what is stored (contract 7), in seconds.
REFRESH_SECONDS = 2.0

_RAISES: dict[State, type[DispatchEnded]] = {
    State.CANCELLED: DispatchCancelled,
    State.FAILED: DispatchFailed,
    State.TIMED_OUT: DispatchTimedOut,
    State.LOST: DispatchLost,
}


class Reading(ABC):
    """The verbs that change nothing."""

    @property
    @abstractmethod
    def _opened(self) -> Opened:
        """The parts of the open client."""

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
        owner: str | None = None,
        older_than: timedelta | None = None,
        limit: int | None = None,
        refresh: bool = False,
    ) -> Records:
        """List records, newest first.

        Parameters:
            states, live, run, name, labels, target, owner: only those that match all that is given; states by their
                names too.
            older_than: only those requested at least so long ago.
            limit: at most so many.
            refresh: ask the targets of live ones first, for at most 2 s.
        Raises:
            InvalidRequest: there is no such state, or a number is below 0.
        """
        store = self._opened.store
        before = None if older_than is None else store.now() - age_of(older_than)
        wanted = Filter(
            None if states is None else states_of(states),
            live,
            run,
            name,
            target,
            owner,
            dict(labels or {}),
            before,
            _checked(limit),
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

    async def runs(self, *, run: str | None = None, limit: int | None = None) -> RunSummaries:
        """List runs, the newest first: how each was left, and how its dispatches stand.

        Parameters:
            run: only the one of this name.
            limit: at most so many.
        Raises:
            InvalidRequest: a number is below 0.
        """
        return await self._opened.store.decided.runs(run, _checked(limit))

    async def run_outcome(self, run: str) -> RunOutcome | None:
        """Return how a run was left; null where it is open, or there is none of that name.

        Raises:
            DamagedRecord: what is written cannot be read.
        """
        return await self._opened.store.decided.outcome(run)

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

    def run_events(self, run: str, *, follow: bool = False, after: str | None = None) -> AsyncIterator[Event]:
        """Yield the events of all dispatches of a run, in the order in which they were committed.

        Parameters:
            run: its name.
            follow: go on, also with dispatches that come later, until nothing of the run is live any more.
            after: begin behind the event with this `id`, in the order of the whole store.
        Raises:
            DispatchNotFound: the run has no dispatch.
            InvalidRequest: there is no event `after`.
        """
        return follow_run(self._opened, run, follow, after)

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


def _checked(limit: int | None) -> int | None:
    if limit is not None and limit < 0:
        raise InvalidRequest(f"limit {limit} is below 0")
    return limit
