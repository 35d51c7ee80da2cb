"""The rules of the contract's section 2, a handler per fact. No I/O, no clock, no await."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from agora.model.events import EventType
from agora.model.record import Entry, State
from agora.state import budget, facts, looking, quiet, stopping, submit
from agora.state.draft import ALLOWED, Change, Draft, EventDraft
from agora.state.ends import end, stopped_state

__all__ = ["ALLOWED", "WORKER_TYPES", "Change", "EventDraft", "apply"]

#: A worker speaks only for itself.
WORKER_TYPES = (EventType.CANCELLED, EventType.PROGRESS, EventType.HEARTBEAT)
#: Of one process of a workload: a heartbeat every 10 s of the longest timeout.
MAX_WORKER_EVENTS = 10_000
#: Processes of one workload whose events are told apart; of more, those heard of longest ago are forgotten.
MAX_WORKER_SOURCES = 8


def apply(entry: Entry, fact: facts.Fact, now: datetime) -> Change:
    """Apply one fact.

    Parameters:
        entry: the stored entry.
        fact: what happened.
        now: the store's clock.
    Returns:
        the change; a fact that comes too late changes nothing, or leaves a note.
    """
    draft = Draft(entry, now)
    if not stopping.answers_attempt(entry, fact):
        looking.release_held(draft)
    answer = _HANDLERS[type(fact)](draft, fact)
    return draft.done(answer)


def _cancel_timed_out(draft: Draft, fact: facts.CancelTimedOut) -> bool:
    entry = draft.entry
    if entry.state is not State.STOPPING or entry.accepted_at is None:
        return False
    end(draft, stopped_state(entry), confirmed=False, reason="cancel_timeout")
    return True


def _lost_after(draft: Draft, fact: facts.LostAfter) -> bool:
    entry = draft.entry
    if entry.state not in (State.SUBMITTED, State.RUNNING, State.STOPPING):
        return False
    state = stopped_state(entry) if entry.state is State.STOPPING else State.LOST
    end(draft, state, confirmed=False, reason=entry.reason or "unreachable")
    return True


def _abandoned(draft: Draft, fact: facts.Abandoned) -> bool:
    if draft.entry.state.terminal and draft.entry.confirmed is False:
        draft.set(given_up=True)
        draft.note("abandoned")
        return True
    return False


def _secrets_removed(draft: Draft, fact: facts.SecretsRemoved) -> bool:
    if not draft.entry.state.terminal or not draft.entry.holds_secrets:
        return False
    draft.set(holds_secrets=False)
    return True


def _secrets_kept(draft: Draft, fact: facts.SecretsKept) -> bool:
    if not draft.entry.state.terminal or not draft.entry.holds_secrets:
        return False
    if fact.failure is not None:
        looking.note_once(draft, "secrets_not_removed", why=fact.failure.type)
    if fact.for_good:
        draft.set(holds_secrets=False)
        draft.note("secrets_left")
    return True


def _worker_said(draft: Draft, fact: facts.WorkerSaid) -> bool:
    entry = draft.entry
    if fact.type not in WORKER_TYPES:
        # Once, however often it is said and read: the record keeps so many notes and no more.
        looking.note_once(draft, "refused_worker_event", event=fact.type.value)
        return False
    if fact.source:
        if fact.number <= entry.heard.get(fact.source, 0):
            return False
        others = {source: number for source, number in entry.heard.items() if source != fact.source}
        kept = list(others.items())[1 - MAX_WORKER_SOURCES :]
        draft.set(heard={**dict(kept), fact.source: fact.number})
    if fact.type in quiet.SIGNS:
        quiet.gets_on(draft)
    budget.worker_said(draft, fact)
    if fact.number > MAX_WORKER_EVENTS:
        return False
    if fact.type is EventType.CANCELLED:
        if entry.acknowledged is not None:
            return False
        draft.set(acknowledged=fact.data.get("clean") is not False)
    if entry.state.terminal:
        draft.note("late_worker_event", **{**fact.data, "event": fact.type.value})
        return False
    data = dict(fact.data)
    if fact.type is EventType.CANCELLED and entry.cause is not None:
        # The worker is told of a stop, not by whom.
        data["cause"] = entry.cause.model_dump(mode="json")
    draft.emit(fact.type, **data)
    return True


def _noted(draft: Draft, fact: facts.Noted) -> bool:
    if fact.type == "late_result":
        looking.note_once(draft, fact.type, **fact.data)
    else:
        draft.note(fact.type, **fact.data)
    return True


_HANDLERS: dict[type, Callable[[Draft, Any], Any]] = {
    facts.SubmitBegan: submit.submit_began,
    facts.ResubmitBegan: submit.resubmit_began,
    facts.ClaimKept: submit.claim_kept,
    facts.OwnerKept: submit.owner_kept,
    facts.Started: submit.started,
    facts.SubmitRefusal: submit.submit_refusal,
    facts.SubmitAborted: submit.submit_aborted,
    facts.SubmitUnknown: submit.submit_unknown,
    facts.Seen: looking.seen,
    facts.Absent: looking.absent,
    facts.NeverSeen: submit.never_seen,
    facts.CreatorGone: submit.creator_gone,
    facts.CancelAsked: stopping.cancel_asked,
    facts.AttemptBegan: stopping.attempt_began,
    facts.AttemptAnswered: stopping.attempt_answered,
    facts.LookFailed: looking.look_failed,
    facts.CancelTimedOut: _cancel_timed_out,
    facts.LostAfter: _lost_after,
    facts.Abandoned: _abandoned,
    facts.SecretsRemoved: _secrets_removed,
    facts.SecretsKept: _secrets_kept,
    facts.WorkerSaid: _worker_said,
    facts.Spent: budget.spent,
    facts.Listened: quiet.listened,
    facts.Noted: _noted,
}
