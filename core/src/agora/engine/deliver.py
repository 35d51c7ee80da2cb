"""The way out: one claimed attempt at a time, at most 10 s each, answered on the record."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Literal

from agora.engine.core import Core, failure_of, was_sent
from agora.engine.find import Finder
from agora.engine.listen import Listener
from agora.engine.targets import STOP_SECONDS, Target
from agora.errors import AgoraError, StoreError
from agora.model.cause import Cause, Via
from agora.model.observation import ReceiptKind, StopReceipt
from agora.model.record import Attempt, Entry, Failure, State
from agora.state import AttemptAnswered, AttemptBegan, Fact, LookFailed, Seen
from agora.store import Applied

Kind = Literal["stop", "kill"]

#: An attempt of a cancel that waited for somebody else before may still take so long, in seconds.
SHORTEST_ATTEMPT = 2.0


class Deliverer:
    """Sends stops and kills.

    Parameters:
        core: the common ground.
        finder: finds a workload whose handle nobody stored.
        listener: hears the last words of a workload that ends as soon as it is asked to.
    """

    def __init__(self, core: Core, finder: Finder, listener: Listener) -> None:
        self._core = core
        self._listener = listener
        self._finder = finder

    async def deliver(self, entry: Entry, until: datetime) -> Entry:
        """See a recorded request through to its first answer, ours or another sender's.

        Parameters:
            entry: a dispatch with a recorded request.
            until: when to come back at the latest, by the store's clock.
        Returns:
            the entry as stored then.
        """
        store = self._core.store
        async with store.pulse.listen() as ear:
            while (now := store.now()) < until:
                entry = await store.read(entry.id)
                if not entry.live or (entry.accepted_at is not None and entry.state is State.STOPPING):
                    return entry
                if entry.asked_until is not None and entry.asked_until > now:
                    return entry  # its worker ends it by itself, perhaps; a supervisor goes on then
                claimed = entry.attempt is not None and entry.attempt.lease.until > now
                submitting = entry.submitter is not None and entry.submitter.until > now
                if entry.handle is not None and not claimed:
                    if (applied := await self.attempt(entry, seconds=_left(until, now))) is not None:
                        return applied.entry
                elif entry.handle is None and not submitting and await self._lost(entry):
                    return await store.read(entry.id)
                await ear.wait(min(1.0, (until - now).total_seconds()))
        return await store.read(entry.id)

    async def send_claimed(self, entry: Entry, attempt: Attempt, until: datetime) -> Entry:
        """Send the attempt that was claimed in the transaction of its request.

        Parameters:
            entry: a dispatch with a recorded request.
            attempt: ours.
            until: as for `deliver`.
        Returns:
            the entry as stored with the answer.
        """
        core = self._core
        try:
            target = await core.targets.of(entry)
        except AgoraError as error:
            return (await self._not_sent(entry, attempt.number, error)).entry
        seconds = _left(until, core.store.now())
        return (await self.send(entry, attempt.number, attempt.kind, target, seconds)).entry

    async def _lost(self, entry: Entry) -> bool:
        """Look for a workload that nobody is starting any more; true where a supervisor has to go on."""
        try:
            target = await self._core.targets.of(entry)
            return await self._finder.adopt(entry, target) is None
        except AgoraError as error:
            await self._core.apply(entry, LookFailed(failure_of(error)))
            return True

    async def attempt(
        self, entry: Entry, kind: Kind | None = None, *before: Fact, seconds: float = STOP_SECONDS
    ) -> Applied | None:
        """Claim and send one stop or kill, and write its answer.

        Parameters:
            entry: the dispatch.
            kind: what to send; by default what the request asks for.
            before: facts to write in the transaction of the claim.
            seconds: how long the attempt may take.
        Returns:
            what the answer did, or null where somebody else holds the claim or nothing is to be sent.
        """
        core = self._core
        try:
            target = await core.targets.of(entry)
        except AgoraError as error:
            applied = await core.apply(entry, AttemptBegan(kind or "stop", core.lease()), durable=True)
            if applied.answer is None:
                return None
            return await self._not_sent(entry, applied.answer, error)
        chosen: Kind = kind or ("kill" if entry.force else "stop")
        applied = await core.apply(entry, *before, AttemptBegan(chosen, core.lease()), durable=True)
        if applied.answer is None:
            return None
        return await self.send(applied.entry, applied.answer, chosen, target, seconds)

    async def _not_sent(self, entry: Entry, number: int, error: AgoraError) -> Applied:
        answer = AttemptAnswered(number, failure=failure_of(error), sent=False)
        return await self._core.apply(entry, answer, durable=True)

    async def send(self, entry: Entry, number: int, kind: Kind, target: Target, seconds: float) -> Applied:
        """Send a claimed attempt and write its answer."""
        limits = target.limits
        until = time.monotonic() + seconds
        ended: list[Fact] = []
        try:
            receipt = await self._call(entry, kind, target, seconds)
        except AgoraError as error:
            answer = AttemptAnswered(number, failure=failure_of(error), sent=was_sent(error))
        else:
            if receipt.kind is ReceiptKind.NOT_FOUND and self._settling(entry, limits.settle_time):
                failure = Failure(type="unreachable", message="the backend does not show the workload yet")
                answer = AttemptAnswered(number, failure=failure, sent=False)
            else:
                answer = AttemptAnswered(
                    number,
                    receipt=receipt,
                    shorten=target.has("shorten") and target.implements("kill"),
                    proves_death=limits.absence_proves_death,
                )
                if receipt.kind is ReceiptKind.SIGNALLED and receipt.observation is not None:
                    # It ended while the stop was being answered: nobody has to look again.
                    ended.append(Seen(receipt.observation))
                    await self._listener.drain(entry, target, until - time.monotonic(), receipt.output)
        return await self._core.apply(entry, answer, *ended, durable=True)

    async def _call(self, entry: Entry, kind: Kind, target: Target, seconds: float) -> StopReceipt:
        if entry.handle is None:
            raise StoreError(f"dispatch {entry.id} has no handle to stop it by")
        if kind == "kill" and target.implements("kill") and (target.has("force_kill") or target.has("shorten")):
            receipt: StopReceipt = await target.call("kill", seconds=seconds, handle=entry.handle)
            return receipt
        grace = entry.stop_grace or entry.grace
        if kind == "kill":
            grace = target.limits.grace_min
        cause = entry.cause or Cause(actor="agora", via=Via.POLICY, policy="unconfirmed_end")
        receipt = await target.call("stop", seconds=seconds, handle=entry.handle, grace=grace, cause=cause)
        if kind == "kill":
            receipt = receipt.model_copy(update={"degraded": (*receipt.degraded, "force")})
        return receipt

    def _settling(self, entry: Entry, settle_time: float) -> bool:
        since = entry.submitted_at or entry.requested_at
        return (self._core.store.now() - since).total_seconds() < settle_time


def _left(until: datetime, now: datetime) -> float:
    """Return how many seconds an attempt may take."""
    return min(STOP_SECONDS, max(SHORTEST_ATTEMPT, (until - now).total_seconds()))
