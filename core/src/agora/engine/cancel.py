"""Cancel: what every front door calls. The request is recorded first, then the stop is sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import anyio
import anyio.to_thread

from agora.engine.core import Core
from agora.engine.deliver import SHORTEST_ATTEMPT, Deliverer
from agora.engine.inbox import tell
from agora.errors import ConfigError, DispatchNotFound, InvalidRequest
from agora.model.cancel import CancelResult, Outcome
from agora.model.cause import Cause
from agora.model.ids import check_dispatch_id
from agora.model.record import Entry, Failure, State
from agora.model.spec import MAX_TIMEOUT, MIN_GRACE
from agora.state import CancelAsked, Children
from agora.store import Applied

#: A cancel comes back after so long at the latest (contract 4), in seconds.
CANCEL_SECONDS = 10.0
#: The stops of those below it are sent so long before its own, in seconds; one that answers late holds nothing up.
CHILDREN_FIRST = 1.0

_ASKED = (Outcome.STOPPING, Outcome.CANCELLED, Outcome.ALREADY_STOPPING)
_WAITING = (Outcome.STOPPING, Outcome.ALREADY_STOPPING, Outcome.ALREADY_CANCELLED)


class Canceller:
    """Carries out cancels.

    Parameters:
        core: the common ground.
        deliverer: sends the stop.
    """

    def __init__(self, core: Core, deliverer: Deliverer) -> None:
        self._core = core
        self._deliverer = deliverer

    async def cancel(
        self,
        id: str,
        cause: Cause,
        grace: int | None,
        force: bool,
        soft: int | None = None,
        children: Children | None = None,
        owner: str | None = None,
    ) -> tuple[CancelResult, Entry | None]:
        """Record a request and make the first attempt; comes back within 10 s.

        Parameters:
            id: the dispatch.
            cause: who asks and why.
            grace: seconds, whole, at least 2; 0 only with `force`; the dispatch's own by default.
            force: kill without grace.
            soft: seconds for which its worker is asked to end by itself, before the stop is sent.
            children: how those below it are stopped; by default like it, each with its own grace.
            owner: for whom; what belongs to anybody else is left alone. Null may cancel everything.
        Returns:
            the answer, and the entry as it was stored then.
        Raises:
            InvalidRequest: malformed; nothing was recorded.
            StoreError: the store cannot be reached.
        """
        check_dispatch_id(id)
        check_grace(grace, force)
        check_soft(soft, force)
        check_children(children)
        until = self._core.store.now() + timedelta(seconds=CANCEL_SECONDS - SHORTEST_ATTEMPT)
        try:
            entry = await self._core.store.read(id)
        except DispatchNotFound:
            return CancelResult(id=id, outcome=Outcome.NOT_FOUND), None
        if (why := entry.forbids(owner)) is not None:
            return CancelResult(id=id, outcome=Outcome.FORBIDDEN, error=_forbidden(why)), None
        asked = replace(await self._asked(entry, cause, grace or None, force), soft=soft, children=children)
        requested = await self._core.request(entry, asked)
        below = [one for one in requested.below if one.answer in _ASKED]
        results = {one.entry.id: _result(one.entry, one.answer) for one in requested.below}
        results |= {one: _not_recorded(one, why) for one, why in requested.damaged}
        left = len(below)
        told = anyio.Event()

        async def carry_out(one: Applied) -> None:
            nonlocal left
            if one.answer is Outcome.ALREADY_STOPPING and children is not None:
                one = await self._hastened(one, cause, children)
            results[one.entry.id], _ = await self._carried_out(one, until)
            left -= 1
            if left == 0:
                told.set()

        async with anyio.create_task_group() as tasks:
            for one in below:
                tasks.start_soon(carry_out, one)
            if below:
                # First those below: the end of what started them may take them along, unasked.
                with anyio.move_on_after(CHILDREN_FIRST):
                    await told.wait()
            first, after = await self._carried_out(requested.first, until)
        return first.model_copy(update={"children": tuple(results.values()), "more_children": requested.more}), after

    async def _hastened(self, one: Applied, cause: Cause, children: Children) -> Applied:
        """Bring forward the kill of a child that was being stopped already, as far as its target can."""
        if not children.grace:
            return one
        asked = await self._asked(one.entry, cause, children.grace, force=False)
        return await self._core.apply(one.entry, asked, durable=True)

    async def _carried_out(self, applied: Applied, until: datetime) -> tuple[CancelResult, Entry]:
        """Send a recorded request in what is left of the time, and say what became of it."""
        outcome: Outcome = applied.answer
        after = applied.entry
        left = (until - self._core.store.now()).total_seconds() + SHORTEST_ATTEMPT
        with anyio.move_on_after(left) as scope:
            if told := _news(after, self._core.store.now()):
                work = partial(tell, self._core.store.home, after, **told)
                await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
            after = await self._sent(after, outcome, until)
        if scope.cancelled_caught:
            after = await self._core.store.read(after.id)
        return _result(after, outcome), after

    async def _asked(self, entry: Entry, cause: Cause, grace: int | None, force: bool) -> CancelAsked:
        """Put the request into a fact, by what the provider claims: its target is made only once this is recorded."""
        try:
            claims = (await self._core.targets.provider_of(entry)).capabilities
        except ConfigError:
            return CancelAsked(cause, grace, force, shorten=False, force_kill=False, claim=self._core.lease())
        return CancelAsked(
            cause,
            grace,
            force,
            shorten=claims.has("shorten"),
            force_kill=claims.has("force_kill"),
            claim=self._core.lease(),
        )

    async def _sent(self, after: Entry, outcome: Outcome, until: datetime) -> Entry:
        """Make the first attempt, or the kill that a force asks for, unless somebody else does."""
        if outcome is Outcome.STOPPING and after.attempt is not None:
            after = await self._deliverer.send_claimed(after, after.attempt, until)
        elif outcome in _WAITING and after.live and after.accepted_at is None:
            after = await self._deliverer.deliver(after, until)
        left = (until - self._core.store.now()).total_seconds()
        due = after.stop_by is not None and after.stop_by <= self._core.store.now() and not after.kill_accepted
        if due and left > 0:
            killed = await self._deliverer.attempt(after, "kill", seconds=left + SHORTEST_ATTEMPT)
            return after if killed is None else killed.entry
        return after


def check_grace(grace: int | None, force: bool, whose: str = "") -> None:
    """Refuse a malformed grace.

    Parameters:
        whose: what the names of both begin with.
    Raises:
        InvalidRequest: not a whole number of seconds, below 2, above the cap, or 0 without force.
    """
    if grace is None:
        return
    if isinstance(grace, bool) or not isinstance(grace, int):
        raise InvalidRequest(f"{whose}grace {grace!r} is not a whole number of seconds")
    if grace == 0 and force:
        return
    if grace == 0:
        raise InvalidRequest(f"{whose}grace 0 kills without grace: say so with {whose}force")
    if not MIN_GRACE <= grace <= MAX_TIMEOUT:
        raise InvalidRequest(f"{whose}grace {grace} s is outside {MIN_GRACE} to {MAX_TIMEOUT} s")


def check_children(children: Children | None) -> None:
    """Refuse a malformed choice for those below.

    Raises:
        InvalidRequest: the grace is malformed, or given together with force.
    """
    if children is None:
        return
    check_grace(children.grace, children.force, "children_")
    if children.force and children.grace:
        raise InvalidRequest("children_grace gives those below it time and children_force kills them: choose one")


def check_soft(soft: int | None, force: bool) -> None:
    """Refuse a malformed time to end by itself.

    Raises:
        InvalidRequest: not a whole number of seconds from 1 to the cap, or together with force.
    """
    if soft is None:
        return
    if isinstance(soft, bool) or not isinstance(soft, int):
        raise InvalidRequest(f"soft {soft!r} is not a whole number of seconds")
    if not 1 <= soft <= MAX_TIMEOUT:
        raise InvalidRequest(f"soft {soft} s is outside 1 to {MAX_TIMEOUT} s")
    if force:
        raise InvalidRequest("soft asks it to end by itself, and force kills it at once: choose one")


def _news(entry: Entry, now: datetime) -> dict[str, float]:
    """Return what the worker of a dispatch that is being stopped cannot know yet."""
    if not entry.askable or entry.state is not State.STOPPING:
        return {}
    told: dict[str, float] = {}
    if entry.asked_until is not None and entry.asked_until > now:
        told["ask"] = (entry.asked_until - now).total_seconds()
    if entry.stop_grace is not None and entry.stop_grace < entry.grace:
        told["grace"] = entry.stop_grace
    return told


_ENDED = {
    State.SUCCEEDED: Outcome.ALREADY_SUCCEEDED,
    State.FAILED: Outcome.ALREADY_FAILED,
    State.LOST: Outcome.ALREADY_LOST,
}


def _result(entry: Entry, outcome: Outcome) -> CancelResult:
    if outcome in _WAITING and entry.state in _ENDED:
        outcome = _ENDED[entry.state]
    delivered = entry.delivered
    if outcome is Outcome.CANCELLED:
        delivered = None
    return CancelResult(
        id=entry.id,
        outcome=outcome,
        state=entry.state,
        cause=entry.cause,
        delivered=delivered,
        degraded=entry.degraded,
        effective_grace=entry.grace_in_force,
        error=_error(entry) if delivered is False else None,
    )


def _not_recorded(id: str, why: str) -> CancelResult:
    error = Failure(type="damaged_record", message=why, retryable=False)
    return CancelResult(id=id, outcome=Outcome.NOT_RECORDED, error=error)


def _forbidden(why: str) -> Failure:
    return Failure(type="forbidden", message=f"{why}; nothing was changed", retryable=False)


def _error(entry: Entry) -> Failure:
    if entry.failure is not None:
        return entry.failure
    if entry.handle is None:
        return Failure(type="unreachable", message="the dispatch is still being started; the stop follows")
    return Failure(type="unreachable", message="another process is sending the stop and has no answer yet")
