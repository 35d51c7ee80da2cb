"""Handlers of the way in: claims, the submit, its answers."""

from __future__ import annotations

from datetime import timedelta

from agora.model.events import EventType
from agora.model.record import Entry, State
from agora.state import facts, looking
from agora.state.draft import Draft, expired, surely_unsent
from agora.state.ends import end, stopped_state


def submit_began(draft: Draft, fact: facts.SubmitBegan) -> bool:
    if draft.entry.state is not State.PENDING or not _due(draft):
        return False
    deadline = draft.now + timedelta(seconds=draft.entry.timeout)
    draft.move(
        State.SUBMITTED,
        submitter=fact.claim,
        submitted_at=draft.now,
        first_sent_at=draft.now,
        unsent=True,
        deadline=deadline,
    )
    draft.emit(EventType.SUBMITTED, target=draft.entry.target, deadline=deadline.isoformat())
    return True


def _due(draft: Draft) -> bool:
    return draft.entry.start_at is None or draft.entry.start_at <= draft.now


def resubmit_began(draft: Draft, fact: facts.ResubmitBegan) -> bool:
    entry = draft.entry
    if entry.state is not State.SUBMITTED or entry.seen or not expired(entry.submitter, draft.now):
        return False
    # A claim that nobody gave back is a sender who died, and may have sent it.
    draft.set(submitter=fact.claim, unsent=entry.unsent and entry.submitter is None)
    return True


def claim_kept(draft: Draft, fact: facts.ClaimKept) -> bool:
    claim = draft.entry.submitter
    if draft.entry.state.terminal or claim is None or claim.owner != fact.claim.owner:
        return False
    draft.set(submitter=fact.claim)
    return True


def owner_kept(draft: Draft, fact: facts.OwnerKept) -> bool:
    if draft.entry.state.terminal or draft.entry.state is State.STOPPING:
        return False
    draft.set(owned=fact.claim)
    return True


def started(draft: Draft, fact: facts.Started) -> bool:
    entry = draft.entry
    if entry.state is State.PENDING:
        return False
    late = entry.state.terminal
    claim = entry.submitter
    release = claim is not None and (fact.owner is None or claim.owner == fact.owner)
    draft.set(
        handle=fact.handle,
        seen=True,
        unsent=False,
        failure=None if entry.attempts == 0 else entry.failure,
        submitter=None if release else claim,
    )
    if late:
        if entry.handle is None:
            draft.note("started_after_end", backend=fact.handle.backend)
            draft.set(confirmed=False, given_up=False)
        return False
    if fact.handle.first is not None:
        looking.seen(draft, facts.Seen(fact.handle.first))
    return True


def submit_refusal(draft: Draft, fact: facts.SubmitRefusal) -> bool:
    entry = draft.entry
    if entry.state.terminal or not _mine(entry, fact.owner):
        return False
    if fact.exit_code is not None:
        draft.set(exit_code=fact.exit_code)
    end(draft, State.FAILED, confirmed=True, reason=fact.reason, message=fact.message)
    return True


def submit_aborted(draft: Draft, fact: facts.SubmitAborted) -> bool:
    entry = draft.entry
    if entry.state is not State.STOPPING or not _mine(entry, fact.owner):
        return False
    end(draft, stopped_state(entry), confirmed=True, reason="never_started")
    return True


def submit_unknown(draft: Draft, fact: facts.SubmitUnknown) -> bool:
    entry = draft.entry
    if entry.state.terminal or not _mine(entry, fact.owner):
        return False
    unsent = entry.unsent and not fact.sent
    draft.set(submitter=None, failure=fact.failure, reachable=False, reason=fact.failure.type, unsent=unsent)
    if unsent and entry.state is State.STOPPING:
        end(draft, stopped_state(entry), confirmed=True, reason="never_submitted")
    return True


def _mine(entry: Entry, owner: str) -> bool:
    return entry.submitter is not None and entry.submitter.owner == owner


def never_seen(draft: Draft, fact: facts.NeverSeen) -> bool:
    entry = draft.entry
    if entry.state not in (State.SUBMITTED, State.STOPPING) or entry.seen or not expired(entry.submitter, draft.now):
        return False
    state = stopped_state(entry) if entry.state is State.STOPPING else State.LOST
    proven = fact.proves_never_started or surely_unsent(entry)
    end(draft, state, confirmed=proven, reason="never_started")
    return True


def creator_gone(draft: Draft, fact: facts.CreatorGone) -> bool:
    entry = draft.entry
    if entry.state is not State.PENDING or entry.start_at is not None or not expired(entry.submitter, draft.now):
        return False
    end(draft, State.FAILED, confirmed=True, reason="never_submitted")
    return True
