"""Handlers of what supervisors see: observations, absence, silence."""

from __future__ import annotations

from typing import Any

from agora.model.observation import SECOND_COPY, Observation, Phase
from agora.model.record import State
from agora.state import facts
from agora.state.draft import Draft, back, expired
from agora.state.ends import absent as end_absent
from agora.state.ends import confirm, decide, mark_started
from agora.state.stopping import emit_stopping, presume_sent


def release_held(draft: Draft) -> None:
    """Decide by an end that was held, once the claim of the attempt that held it has run out."""
    entry = draft.entry
    if entry.held is not None and entry.attempt is not None and expired(entry.attempt.lease, draft.now):
        presume_sent(draft)
        decide(draft, entry.held)


def seen(draft: Draft, fact: facts.Seen) -> bool:
    observation = fact.observation
    entry = draft.entry
    if entry.handle is None:
        return False
    if observation.reason == SECOND_COPY:
        # It says nothing of the first one, and so nothing of how this dispatch goes.
        note_once(draft, SECOND_COPY, message=observation.message, **observation.native)
        return False
    if entry.state.terminal:
        return _seen_after_end(draft, observation)
    if not observation.reachable:
        return _look_failed_item(draft, fact)
    back(draft)
    if observation.phase is Phase.ENDED:
        return _seen_ended(draft, observation)
    if entry.native != {**entry.native, **observation.native}:
        draft.set(native={**entry.native, **observation.native})
    if not entry.seen:
        draft.set(seen=True)
    if observation.phase is Phase.RUNNING:
        mark_started(draft, observation)
        if draft.entry.state is State.SUBMITTED:
            draft.move(State.RUNNING, reason=None)
    elif observation.reason is not None and observation.reason != entry.reason and entry.state is not State.STOPPING:
        draft.set(reason=observation.reason)
        if observation.message:
            draft.note("waiting", reason=observation.reason, message=observation.message)
    _clamp(draft, observation)
    return True


def _seen_ended(draft: Draft, seen: Observation) -> bool:
    attempt = draft.entry.attempt
    if attempt is not None and seen.stop_reached is not False:
        if not expired(attempt.lease, draft.now):
            draft.set(held=seen)
            return False
        presume_sent(draft)
    decide(draft, seen)
    return True


def _seen_after_end(draft: Draft, seen: Observation) -> bool:
    entry = draft.entry
    if seen.phase is not Phase.ENDED or not seen.reachable:
        return False
    if entry.confirmed is False:
        confirm(draft, seen)
        return True
    if seen.exit_code is not None and seen.exit_code != entry.exit_code:
        note_once(draft, "late_result", exit_code=seen.exit_code)
    return False


def note_once(draft: Draft, kind: str, **data: Any) -> None:
    if not any(note.type == kind and note.data == data for note in draft.entry.notes):
        draft.note(kind, **data)


def _look_failed_item(draft: Draft, fact: facts.Seen) -> bool:
    draft.set(reachable=False, reason=fact.observation.reason or "unreachable")
    _count_away(draft, fact.seconds)
    return False


def _count_away(draft: Draft, seconds: float) -> None:
    """Add the time since somebody asked in vain before; several who ask at once count the same time once."""
    entry = draft.entry
    since = 0.0 if entry.away_at is None else max(0.0, (draft.now - entry.away_at).total_seconds())
    draft.set(away_seconds=entry.away_seconds + min(seconds, since), away_at=draft.now)


def _clamp(draft: Draft, seen: Observation) -> None:
    entry = draft.entry
    known = entry.effective_grace if entry.effective_grace is not None else entry.stop_grace
    if entry.accepted_at is None or seen.effective_grace is None or known is None or seen.effective_grace >= known:
        return
    draft.set(effective_grace=seen.effective_grace)
    emit_stopping(draft, clamped=True)


def absent(draft: Draft, fact: facts.Absent) -> bool:
    entry = draft.entry
    if entry.handle is None:
        return False
    if entry.state.terminal:
        if entry.confirmed is False and fact.proves_death:
            confirm(draft, Observation(phase=Phase.ENDED, reason="absent"))
            return True
        return False
    if entry.attempt is not None and not expired(entry.attempt.lease, draft.now):
        return False
    end_absent(draft, proves_death=fact.proves_death)
    return True


def look_failed(draft: Draft, fact: facts.LookFailed) -> bool:
    entry = draft.entry
    if entry.state.terminal and entry.confirmed is not False:
        return False
    draft.set(reachable=False, failure=fact.failure)
    _count_away(draft, fact.seconds)
    if not entry.state.terminal:
        draft.set(reason=fact.failure.type)
    return True
