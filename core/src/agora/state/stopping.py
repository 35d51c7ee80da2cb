"""Handlers of the way out: requests, attempts, receipts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from agora.model.cancel import Outcome
from agora.model.cause import MAX_REASON, Via
from agora.model.events import EventType
from agora.model.observation import Observation, Phase, ReceiptKind, StopReceipt
from agora.model.record import ALSO_CANCELLED, Attempt, Entry, State
from agora.state import facts
from agora.state.draft import Draft, back, expired, surely_unsent
from agora.state.ends import absent, confirm, decide, end, stopped_state

#: A stop for an ended dispatch without proof of death is sent again so often, in seconds.
UNCONFIRMED_EVERY = 30.0

_ALREADY = {
    State.SUCCEEDED: Outcome.ALREADY_SUCCEEDED,
    State.FAILED: Outcome.ALREADY_FAILED,
    State.CANCELLED: Outcome.ALREADY_CANCELLED,
    State.TIMED_OUT: Outcome.ALREADY_TIMED_OUT,
    State.LOST: Outcome.ALREADY_LOST,
}


def backoff(attempts: int) -> float:
    """Seconds until the next attempt: 0.5, 1, 2, ... at most 30."""
    return float(min(30.0, 0.5 * 2 ** min(attempts - 1, 10)))


def cancel_asked(draft: Draft, fact: facts.CancelAsked) -> Outcome:
    entry = draft.entry
    if entry.state.terminal:
        if entry.state is State.CANCELLED:
            _person_asked(draft, fact)
        return _ALREADY[entry.state]
    if entry.state is State.STOPPING:
        _asked_again(draft, fact)
        _person_asked(draft, fact)
        return Outcome.ALREADY_STOPPING
    grace = entry.grace if fact.grace is None else fact.grace
    grace = grace if fact.most is None else min(grace, fact.most)
    draft.set(cause=fact.cause, stop_grace=grace, force=fact.force, requested_stop_at=draft.now)
    cause = fact.cause.model_dump(mode="json")
    soft = {} if fact.soft is None else {"soft": fact.soft}
    draft.emit(EventType.CANCEL_REQUESTED, cause=cause, grace=grace, force=fact.force, **soft)
    if entry.state is State.PENDING:
        end(draft, State.CANCELLED, confirmed=True, reason="never_submitted")
        return Outcome.CANCELLED
    draft.move(State.STOPPING, stopping_at=draft.now, delivered=False)
    if surely_unsent(entry):
        draft.set(delivered=None)
        end(draft, stopped_state(draft.entry), confirmed=True, reason="never_submitted")
        return Outcome.CANCELLED
    if fact.soft is not None and entry.state is State.RUNNING:
        if entry.askable:
            _ask(draft, fact.soft)
            return Outcome.STOPPING
        _degrade(draft, "soft")
    if fact.claim is not None:
        attempt_began(draft, facts.AttemptBegan("kill" if fact.force else "stop", fact.claim))
    return Outcome.STOPPING


def below(asked: facts.CancelAsked, parent: str) -> facts.CancelAsked:
    """Turn a request into that of a dispatch below the one that was cancelled, which keeps its own grace at most."""
    words = f"{parent} was stopped" + (f": {asked.cause.reason}" if asked.cause.reason else "")
    values = {"policy": "parent_cancelled", "reason": words[:MAX_REASON]}
    cause = asked.cause.model_copy(update=values)
    if (children := asked.children) is not None:
        return facts.CancelAsked(cause, None, children.force, most=children.grace or None)
    return facts.CancelAsked(cause, None, asked.force, soft=asked.soft)


def _ask(draft: Draft, seconds: int) -> None:
    """Let the worker end by itself first; at the deadline the stop is due whatever was asked."""
    until = draft.now + timedelta(seconds=seconds)
    if draft.entry.deadline is not None:
        until = max(draft.now, min(until, draft.entry.deadline))
    draft.set(asked_until=until, retry_at=until, delivered=None)


def _asked_again(draft: Draft, fact: facts.CancelAsked) -> None:
    """A later cancel keeps the first cause; it may only bring the kill forward."""
    entry = draft.entry
    if fact.soft is not None:
        return  # less than what it was asked for already
    if entry.asked_until is not None and entry.attempts == 0:
        draft.set(retry_at=None, delivered=False)
        draft.set(asked_until=min(draft.now, entry.asked_until))
    kill_at = entry.kill_at
    if kill_at is None:
        grace = entry.stop_grace or entry.grace
        grace = grace if fact.grace is None else min(grace, fact.grace)
        draft.set(stop_grace=grace, force=entry.force or fact.force)
        return
    wanted = draft.now if fact.force else None
    if wanted is None and fact.grace is not None:
        wanted = draft.now + timedelta(seconds=fact.grace)
    if wanted is None or wanted >= kill_at:
        return
    if not (fact.force_kill if fact.force else fact.shorten):
        _degrade(draft, "force" if fact.force else "grace")
        return
    draft.set(stop_by=wanted)
    emit_stopping(draft, deadline=wanted.isoformat())


def _person_asked(draft: Draft, fact: facts.CancelAsked) -> None:
    """Take note of the first who cancels what a policy is stopping, or has cancelled: it is their end too."""
    cause = draft.entry.cause
    if cause is None or cause.via is not Via.POLICY or fact.cause.via is Via.POLICY:
        return
    if not any(note.type == ALSO_CANCELLED for note in draft.entry.notes):
        draft.note(ALSO_CANCELLED, cause=fact.cause.model_dump(mode="json"))


def _degrade(draft: Draft, *names: str) -> None:
    draft.set(degraded=tuple(dict.fromkeys((*draft.entry.degraded, *names))))


def attempt_began(draft: Draft, fact: facts.AttemptBegan) -> int | None:
    entry = draft.entry
    if not entry.live or entry.handle is None or entry.state in (State.PENDING, State.SUBMITTED, State.RUNNING):
        return None
    if entry.attempt is not None:
        if not expired(entry.attempt.lease, draft.now):
            return None
        presume_sent(draft)
    if fact.kind == "stop" and entry.accepted_at is not None and not entry.state.terminal:
        return None
    if fact.kind == "kill" and entry.kill_accepted and not entry.state.terminal:
        return None
    number = entry.attempts + 1
    draft.set(attempts=number, attempt=Attempt(number=number, kind=fact.kind, lease=fact.lease))
    return number


def presume_sent(draft: Draft) -> None:
    """Close an attempt whose claim has run out: it may have reached the backend."""
    attempt = draft.entry.attempt
    if attempt is not None:
        _may_have_reached(draft, attempt.number)
        draft.set(attempt=None)


def _may_have_reached(draft: Draft, number: int) -> None:
    first = draft.entry.first_reached
    draft.set(first_reached=number if first is None else min(first, number))


def answers_attempt(entry: Entry, fact: facts.Fact) -> bool:
    """Whether a fact answers the attempt that is unanswered."""
    return isinstance(fact, facts.AttemptAnswered) and entry.attempt is not None and entry.attempt.number == fact.number


def attempt_answered(draft: Draft, fact: facts.AttemptAnswered) -> bool:
    entry = draft.entry
    attempt = entry.attempt if answers_attempt(entry, fact) else None
    first = entry.first_reached is None or fact.number <= entry.first_reached
    held = None
    if attempt is not None:
        held = entry.held
        draft.set(attempt=None, held=None)
    if entry.state.terminal:
        _answered_after_end(draft, fact)
        return False
    receipt = fact.receipt
    if receipt is None:
        _attempt_failed(draft, fact)
    elif receipt.kind is ReceiptKind.ALREADY_EXITED and receipt.observation is not None:
        decide(draft, receipt.observation, proven_earlier=first)
        return True
    elif receipt.kind in (ReceiptKind.NOT_FOUND, ReceiptKind.ALREADY_EXITED):
        if draft.entry.attempt is not None:
            return False  # a late word, while somebody else asks anew
        if held is not None:
            decide(draft, held, proven_earlier=first)
        else:
            absent(draft, proves_death=fact.proves_death)
        return True
    else:
        kind = attempt.kind if attempt is not None else "stop"
        _may_have_reached(draft, fact.number)
        _accepted(draft, kind, receipt, fact.shorten)
    if held is not None:
        decide(draft, held)
    return True


def _attempt_failed(draft: Draft, fact: facts.AttemptAnswered) -> None:
    entry = draft.entry
    failure = fact.failure
    if fact.sent:
        _may_have_reached(draft, fact.number)
    draft.set(
        failure=failure,
        delivered=entry.accepted_at is not None,
        retry_at=draft.now + timedelta(seconds=backoff(entry.attempts)),
    )
    if failure is not None:
        draft.set(reason=failure.type)
        if failure.type == "unreachable":
            draft.set(reachable=False)


def _accepted(draft: Draft, kind: str, receipt: StopReceipt, shorten: bool) -> None:
    entry = draft.entry
    draft.set(delivered=True, failure=None)
    back(draft)
    if receipt.degraded:
        _degrade(draft, *receipt.degraded)
    refused = kind == "kill" and "force" in receipt.degraded
    if refused:
        draft.set(stop_by=None)  # nobody can bring it forward: the grace that runs stands
    elif kind == "kill":
        draft.set(kill_accepted=True)
    if entry.accepted_at is None:
        effective = 0.0 if kind == "kill" and receipt.effective_grace is None else receipt.effective_grace
        draft.set(accepted_at=draft.now, effective_grace=effective)
        emit_stopping(draft)
        _shorten_to_asked(draft, kind, shorten and not refused)


def _shorten_to_asked(draft: Draft, kind: str, shorten: bool) -> None:
    """The backend took a longer grace than is asked for by now: bring the kill forward, or say that it cannot be."""
    entry = draft.entry
    if kind == "stop" and entry.force:
        name, wanted = "force", draft.now
    elif (entry.effective_grace or 0) > (entry.stop_grace or entry.grace) + 1:
        name, wanted = "grace", draft.now + timedelta(seconds=entry.stop_grace or entry.grace)
    else:
        return
    if not shorten:
        _degrade(draft, name)
        return
    draft.set(stop_by=wanted)
    emit_stopping(draft, deadline=wanted.isoformat())


def _answered_after_end(draft: Draft, fact: facts.AttemptAnswered) -> None:
    receipt = fact.receipt
    if draft.entry.confirmed is not False:
        return
    draft.set(retry_at=draft.now + timedelta(seconds=UNCONFIRMED_EVERY))
    if receipt is None:
        return
    if receipt.kind is ReceiptKind.ALREADY_EXITED and receipt.observation is not None:
        confirm(draft, receipt.observation)
    elif receipt.kind in (ReceiptKind.SIGNALLED, ReceiptKind.ALREADY_STOPPING):
        draft.set(accepted_at=draft.entry.accepted_at or draft.now, delivered=True, failure=None)
    elif receipt.kind is ReceiptKind.NOT_FOUND and fact.proves_death:
        confirm(draft, Observation(phase=Phase.ENDED, reason="absent"))


def emit_stopping(draft: Draft, **data: Any) -> None:
    entry = draft.entry
    kill_at = entry.kill_at
    values: dict[str, Any] = {
        "grace": entry.stop_grace,
        "effective_grace": entry.grace_in_force,
        "deadline": None if kill_at is None else kill_at.isoformat(),
        "degraded": list(entry.degraded),
    }
    draft.emit(EventType.STOPPING, **{**values, **data})
