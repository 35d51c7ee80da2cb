"""How a dispatch ends: who decides between "ended by itself" and "cancelled" (contract 2)."""

from __future__ import annotations

from typing import Any

from agora.model.events import EventType
from agora.model.observation import EndedBy, Observation
from agora.model.record import Entry, State
from agora.state.draft import Draft


def end(draft: Draft, state: State, *, confirmed: bool, reason: str | None, message: str | None = None) -> None:
    """Write a terminal state and the one `dispatch.terminated`."""
    entry = draft.entry
    if entry.state in (State.SUBMITTED, State.RUNNING) and state is State.CANCELLED:
        raise AssertionError("only a recorded request can cancel")
    if message:
        draft.note("backend_said", message=message)
    draft.move(
        state,
        confirmed=confirmed,
        reason=reason,
        ended_at=draft.now,
        # Where no proof was seen, whoever sends now keeps its claim: nobody sends beside it.
        attempt=None if confirmed else entry.attempt,
        held=None,
        submitter=None,
        # What is over needs no stop any more: whether one was taken is not known, and nobody tries again.
        delivered=None if confirmed and not entry.delivered else entry.delivered,
        # What was never sent has left nothing on the backend.
        holds_secrets=entry.holds_secrets and entry.first_sent_at is not None,
    )
    draft.emit(EventType.TERMINATED, **_terminated(draft.entry, message))


def stopped_state(entry: Entry) -> State:
    """The state that a carried out request leads to."""
    if entry.cause is not None and entry.cause.policy == "timeout":
        return State.TIMED_OUT
    return State.CANCELLED


def decide(draft: Draft, seen: Observation, *, proven_earlier: bool = False) -> None:
    """End by a proof of death.

    Parameters:
        seen: the end, as the backend tells it.
        proven_earlier: the backend's answer to the first attempt proves that the end came before it.
    """
    entry = draft.entry
    _fill(draft, seen)
    begun = entry.first_reached is not None or entry.attempt is not None
    by_stop = begun and not proven_earlier and seen.stop_reached is not False
    # Its own word that it ended because it was asked to.
    by_asking = entry.asked_until is not None and entry.acknowledged is not None
    if entry.cause is not None and (by_stop or by_asking):
        end(draft, stopped_state(entry), confirmed=True, reason=seen.reason, message=seen.message)
    else:
        state, reason = own_result(seen)
        said = seen.message or (seen.reason if seen.reason != reason else None)
        end(draft, state, confirmed=True, reason=reason, message=said)


def own_result(seen: Observation) -> tuple[State, str | None]:
    """The workload's own result: a state and a reason."""
    if seen.never_started:
        return State.FAILED, seen.reason or "never_started"
    if seen.ended_by is EndedBy.DEADLINE:
        return State.TIMED_OUT, seen.reason or "backend_deadline"
    if seen.ended_by is EndedBy.EXTERNAL:
        return State.FAILED, "stopped_externally"
    if seen.exit_code == 0:
        return State.SUCCEEDED, seen.reason
    if seen.exit_code is None and seen.signal is None:
        return State.FAILED, "exit_code_unknown"
    return State.FAILED, seen.reason


def absent(draft: Draft, *, proves_death: bool) -> None:
    """End a dispatch whose workload was seen and is not there any more."""
    entry = draft.entry
    if entry.accepted_at is not None:
        end(draft, stopped_state(entry), confirmed=proves_death, reason="absent")
    else:
        end(draft, State.LOST, confirmed=proves_death, reason="absent")


def confirm(draft: Draft, seen: Observation) -> None:
    """Turn an unconfirmed end into a confirmed one: fill nulls once, change nothing else."""
    _fill(draft, seen)
    draft.set(confirmed=True, delivered=draft.entry.delivered or None)
    data = {key: value for key, value in _terminated(draft.entry, seen.message).items() if key != "cause"}
    draft.emit(EventType.CONFIRMED, **data)


def mark_started(draft: Draft, seen: Observation) -> None:
    """Say `dispatch.started`, once."""
    if draft.entry.started_at is not None:
        return
    draft.set(started_at=draft.now)
    data: dict[str, Any] = {"native": dict(seen.native)}
    if seen.started_at is not None:
        data["backend_started_at"] = seen.started_at.isoformat()
    draft.emit(EventType.STARTED, **data)


def _fill(draft: Draft, seen: Observation) -> None:
    entry = draft.entry
    if not entry.state.terminal and not seen.never_started:
        mark_started(draft, seen)
    values: dict[str, Any] = {"reachable": True, "away_seconds": 0.0, "away_at": None, "failure": None}
    if entry.exit_code is None and not seen.never_started:
        values["exit_code"] = seen.exit_code
    for name in ("signal", "oom", "forced", "evidence"):
        if getattr(entry, name) is None:
            values[name] = getattr(seen, name)
    if values.get("forced") is None and entry.forced is None and entry.kill_accepted:
        values["forced"], values["evidence"] = True, "inferred"
    if seen.native:
        late = entry.state.terminal
        values["native"] = {**seen.native, **entry.native} if late else {**entry.native, **seen.native}
    draft.set(**values)


def _terminated(entry: Entry, message: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "state": entry.state.value,
        "reason": entry.reason,
        "exit_code": entry.exit_code,
        "signal": entry.signal,
        "oom": entry.oom,
        "confirmed": entry.confirmed,
        "forced": entry.forced,
        "acknowledged": entry.acknowledged,
        "evidence": entry.evidence,
        "cause": None if entry.cause is None else entry.cause.model_dump(mode="json"),
    }
    if message:
        data["message"] = message
    return data
