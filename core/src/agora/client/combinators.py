"""Many dispatches at once: race, join, settle, one after the other; an owner that goes takes its members along."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from agora.client.asking import Wanted, spec_of, start_of
from agora.client.batch import Batch
from agora.client.handle import DispatchHandle
from agora.client.reading import Reading
from agora.errors import DispatchConflict, InvalidRequest, NoneSucceeded
from agora.model.cause import Via
from agora.model.ids import check_dispatch_id
from agora.model.record import ALSO_CANCELLED, Record, State
from agora.model.spec import Spec

if TYPE_CHECKING:
    from agora.client.members import Members


#: The longest timeout of a join, in seconds: 30 years, which the calendar has room for.
MOST_SECONDS = 1e9


class HasId(Protocol):
    """A dispatch in hand."""

    @property
    def id(self) -> str:
        """The dispatch id."""


#: The policies that cancel what gives no sign any more.
UNHEALTHY = ("missed_heartbeats", "output_silence")

#: A handle, or what to dispatch: a spec, or its fields with `target`, `parent`, `start_at` or `delay` beside them.
Member = HasId | Spec | Mapping[str, Any]
_BESIDE = ("target", "parent", "start_at", "delay")


@dataclass(frozen=True)
class Raced:
    """How a race went.

    Parameters:
        winner: the first that succeeded.
        losers: what became of every other one, in the order given; one whose target does not answer is in `stopping`,
            and is stopped when it does.
    """

    winner: Record
    losers: tuple[Record, ...]

    @property
    def cancelled(self) -> tuple[str, ...]:
        """Ids of the losers that were cancelled."""
        return tuple(record.id for record in self.losers if record.state is State.CANCELLED)


@dataclass(frozen=True)
class Joined:
    """What had ended in time, and what was cancelled because it had not.

    Parameters:
        completed: those that ended by themselves, in the order given.
        cancelled: those that were cancelled at the timeout, or by somebody else before, as they ended; one whose target
            does not answer is in `stopping`, and is stopped when it does.
    """

    completed: tuple[Record, ...]
    cancelled: tuple[Record, ...]


@dataclass(frozen=True)
class Settled:
    """How all of them ended.

    Parameters:
        succeeded: as they say.
        failed: failed, timed out or lost.
        cancelled: as they say.
    """

    succeeded: tuple[Record, ...]
    failed: tuple[Record, ...]
    cancelled: tuple[Record, ...]


class Combinators(Reading):
    """What a client does with many dispatches.

    Members are handles, or specs that are dispatched here. Leaving by an error or by a cancellation cancels the members
    that were dispatched here (and handles too with `owned`), with the policy `owner_gone`; so does the death of this
    process, within 30 s, by the background supervisor. With a `key`, members get ids made of it and decisions are
    written down: the same call after a crash goes on with the same dispatches and gives the same answer. A handle that
    belongs to another owner is `Forbidden` in a race, with a timeout, and with `owned`.
    """

    @abstractmethod
    def _members(self, wanted: Sequence[Wanted], owned: bool, cancels: bool = False) -> Members:
        """Make a group."""

    def _group(self, members: Sequence[Member], key: str | None, owned: bool, *, cancels: bool = False) -> Members:
        return self._members(prepared(members, key), owned, cancels)

    @abstractmethod
    async def dispatch(
        self,
        spec: Spec | None = None,
        *,
        target: str | None = None,
        id: str | None = None,
        parent: str | None = None,
        start_at: datetime | None = None,
        delay: float | None = None,
        **fields: Any,
    ) -> DispatchHandle:
        """Start one."""

    def batch(self, key: str | None = None) -> Batch:
        """Begin a batch; see `Batch`.

        Parameters:
            key: names it: ids are made of it, so that the same batch made again after a crash starts nothing twice.
        """
        return Batch(self.dispatch, key)

    async def race(self, members: Sequence[Member], *, key: str | None = None, owned: bool = False) -> Raced:
        """Wait for the first success, cancel the others, and wait until every one of them is proven to be over.

        Parameters:
            members: at least one.
            key: names this call, to take it up again after a crash.
            owned: cancel handles too when this call is left.
        Raises:
            InvalidRequest: there are no members, or one is malformed.
            Forbidden: a handle belongs to another owner, so that it could not be cancelled; nothing was started.
            NoneSucceeded: all ended otherwise; carries their records.
            DispatchConflict: the key was used for another call.
        """
        async with self._group(members, key, owned, cancels=True) as group:
            decision = None if key is None else await group.decision(key)
            records: dict[str, Record] = {}
            if decision is None:
                async for record in group.ended():
                    records[record.id] = record
                    if record.state is State.SUCCEEDED:
                        decision = {"winner": record.id}
                        break
                else:
                    raise NoneSucceeded(tuple(records[id] for id in group.ids))
                if key is not None:
                    decision = await group.decide(key, decision)
            winner = _decided(decision, "winner", group.ids, key)
            losers = [id for id in group.ids if id != winner]
            ended = await group.cancel(losers, f"lost the race against {winner}")
            return Raced(await self.wait(winner), tuple(ended[id] for id in losers))

    async def join_all(
        self, members: Sequence[Member], *, key: str | None = None, owned: bool = False
    ) -> tuple[Record, ...]:
        """Wait until all have succeeded; raise as soon as one has not, without waiting for the others.

        Parameters:
            members: at least one.
            key: names this call, to take it up again after a crash.
            owned: cancel handles too when this call is left.
        Returns:
            their records, in the order given.
        Raises:
            InvalidRequest: there are no members, or one is malformed.
            DispatchCancelled, DispatchFailed, DispatchTimedOut, DispatchLost: of the first that did not succeed.
            DispatchConflict: the key was used for another call.
        """
        async with self._group(members, key, owned) as group:
            decision = None if key is None else await group.decision(key)
            if decision is not None:
                await self.result(_decided(decision, "first", group.ids, key))
            records: dict[str, Record] = {}
            async for record in group.ended():
                if record.state is not State.SUCCEEDED:
                    decision = {"first": record.id}
                    if key is not None:
                        decision = await group.decide(key, decision)
                    await self.result(_decided(decision, "first", group.ids, key))
                records[record.id] = record
            return tuple(records[id] for id in group.ids)

    async def join_all_with_timeout(
        self, members: Sequence[Member], timeout: float, *, key: str | None = None, owned: bool = False
    ) -> Joined:
        """Wait for all, cancel at the timeout what has not ended, and wait until that is proven to be over.

        Parameters:
            members: at least one.
            timeout: seconds; with a key they count from the first call of that key.
            key: names this call, to take it up again after a crash.
            owned: cancel handles too when this call is left.
        Raises:
            InvalidRequest: there are no members, or one is malformed.
            Forbidden: a handle belongs to another owner, so that it could not be cancelled; nothing was started.
            DispatchConflict: the key was used for another call.
        """
        if not 0 < timeout <= MOST_SECONDS:
            raise InvalidRequest(
                f"timeout {timeout!r} is not a number of seconds above 0, and {MOST_SECONDS:g} at most"
            )
        async with self._group(members, key, owned, cancels=True) as group:
            until = group.now() + timedelta(seconds=timeout)
            if key is not None:
                decision = await group.decide(key, {"until": until.isoformat()})
                until = datetime.fromisoformat(_decided(decision, "until", None, key))
            records: dict[str, Record] = {}
            with anyio.move_on_after(max(0.0, (until - group.now()).total_seconds())):
                async for record in group.ended():
                    records[record.id] = record
            late = [id for id in group.ids if id not in records]
            records |= await group.cancel(late, f"not ended within {timeout:g} s")
            ended = [records[id] for id in group.ids]
            cancelled = (State.CANCELLED, State.STOPPING)
            return Joined(
                tuple(record for record in ended if record.state not in cancelled),
                tuple(record for record in ended if record.state in cancelled),
            )

    async def join_all_settled(
        self, members: Sequence[Member], *, key: str | None = None, owned: bool = False
    ) -> Settled:
        """Wait until all have ended, however they do.

        Parameters:
            members: at least one.
            key: names this call, to take it up again after a crash.
            owned: cancel handles too when this call is left.
        Raises:
            InvalidRequest: there are no members, or one is malformed.
        """
        async with self._group(members, key, owned) as group:
            ended = {record.id: record async for record in group.ended()}
            records = [ended[id] for id in group.ids]
            return Settled(
                tuple(record for record in records if record.state is State.SUCCEEDED),
                tuple(record for record in records if record.state not in (State.SUCCEEDED, State.CANCELLED)),
                tuple(record for record in records if record.state is State.CANCELLED),
            )

    async def retry(self, member: Member, *, attempts: int, key: str | None = None, unhealthy: bool = False) -> Record:
        """Dispatch until one succeeds, so many times at most; what was cancelled by anybody is never tried again.

        The next attempt starts only when the one before it is proven to be over, also after its timeout.

        Parameters:
            member: a spec, or its fields.
            attempts: how many at most, the first one included.
            key: names this call, to take it up again after a crash.
            unhealthy: one that was cancelled since it gave no sign any more, by its `heartbeat_timeout` or
                `silence_timeout`, counts as failed.
        Returns:
            the record of the one that succeeded.
        Raises:
            InvalidRequest: the member is malformed or a handle.
            DispatchCancelled: one was cancelled; no other one was started.
            DispatchFailed, DispatchTimedOut, DispatchLost: of the last attempt; or of one whose end cannot be proven.
        """
        first, *others = attempts_of(member, attempts, key)
        record = await self._attempt(first)
        for one in others:
            if not await self._tried_again(record, key, unhealthy):
                break
            record = await self._attempt(replace(one, retries=record.id))
        return await self.result(record.id)

    async def _tried_again(self, record: Record, key: str | None, unhealthy: bool) -> bool:
        again = _has_failed(record, unhealthy) and record.confirmed is True
        if key is None or record.state is State.SUCCEEDED:
            return again
        # What is known of an end may still change, and so may the arguments: of one attempt it is decided once.
        decision = await self._opened.store.decided.decide(f"{record.id}/again", {"again": again})
        return bool(decision["again"])

    async def _attempt(self, one: Wanted) -> Record:
        async with self._members([one], owned=False) as group:
            return await group.proven(group.ids[0])

    async def as_completed(
        self, members: Sequence[Member], *, key: str | None = None, owned: bool = False
    ) -> AsyncGenerator[Record, None]:
        """Yield records in the order in which they end.

        Close the iterator where the loop may be left early (`contextlib.aclosing`): that cancels the members.

        Parameters:
            members: at least one.
            key: names this call, to take it up again after a crash.
            owned: cancel handles too when this call is left.
        Raises:
            InvalidRequest: there are no members, or one is malformed.
        """
        async with self._group(members, key, owned) as group:
            async for record in group.ended():
                yield record


def _decided(decision: Mapping[str, Any], word: str, ids: Sequence[str] | None, key: str | None) -> str:
    """Return what was decided.

    Parameters:
        ids: of the members, where it is one of them.
    Raises:
        DispatchConflict: by another call than this one.
    """
    found = decision.get(word)
    if found is None or (ids is not None and found not in ids):
        raise DispatchConflict(f"the key {key!r} was used for another call; use a new one")
    return str(found)


def _has_failed(record: Record, unhealthy: bool) -> bool:
    """Whether an attempt may be tried again; one that a person, a budget or an owner wanted to end may not."""
    if any(note.type == ALSO_CANCELLED for note in record.notes):
        return False
    if record.state is not State.CANCELLED:
        return record.state is not State.SUCCEEDED
    cause = record.cause
    return unhealthy and cause is not None and cause.via is Via.POLICY and cause.policy in UNHEALTHY


def attempts_of(member: Member, attempts: int, key: str | None) -> list[Wanted]:
    """Check a workload that may be tried several times, and give each attempt its id.

    Raises:
        InvalidRequest: it is a handle, malformed, or `attempts` is no whole number above 0.
    """
    if type(attempts) is not int or attempts < 1:
        raise InvalidRequest(f"attempts {attempts!r} is not a whole number above 0")
    [wanted] = prepared([member], None)
    if wanted.spec is None or wanted.id is not None:
        raise InvalidRequest("a retry dispatches anew each time: give a spec, without an id")
    ids = [None if key is None else check_dispatch_id(f"{key}-{number}") for number in range(attempts)]
    return [replace(wanted, id=id) for id in ids]


def prepared(members: Sequence[Member], key: str | None) -> list[Wanted]:
    """Check what was given, before anything starts.

    Raises:
        InvalidRequest: there are no members, one or the key is malformed, or one is given twice.
    """
    if not members:
        raise InvalidRequest("give at least one member")
    wanted = []
    for number, member in enumerate(members):
        id = None if key is None else f"{key}-{number}"
        if isinstance(member, Spec):
            wanted.append(Wanted(id, member))
        elif isinstance(member, Mapping):
            fields = dict(member)
            beside = {name: fields.pop(name) for name in _BESIDE if name in fields}
            start_of(beside.get("start_at"), beside.get("delay"))
            wanted.append(Wanted(fields.pop("id", id), spec_of(None, fields), **beside))
        else:
            wanted.append(Wanted(member.id))
    for one in wanted:
        if one.spec is not None and one.id is not None:
            check_dispatch_id(one.id)
    given = [one.id for one in wanted if one.id is not None]
    if len(set(given)) < len(given):
        raise InvalidRequest("a member is given twice")
    return wanted
