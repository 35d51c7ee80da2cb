"""What to do next for one dispatch, and when: a pure function of the entry and the store's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from agora.model.record import Entry, State

#: Added to the larger of grace and effective grace: the cancel timeout (contract 2), in seconds.
CANCEL_MARGIN = 60.0


class Action(StrEnum):
    """What a supervisor does."""

    CREATOR_GONE = "creator_gone"
    SUBMIT = "submit"
    TIME_OUT = "time_out"
    OWNER_GONE = "owner_gone"
    BUDGET = "budget"
    MISSED_HEARTBEATS = "missed_heartbeats"
    OUTPUT_SILENCE = "output_silence"
    FIND = "find"
    STOP = "stop"
    KILL = "kill"
    CANCEL_TIMED_OUT = "cancel_timed_out"
    LOSE = "lose"
    ABANDON = "abandon"
    REMOVE_SECRETS = "remove_secrets"
    LEAVE_SECRETS = "leave_secrets"


@dataclass(frozen=True)
class Step:
    """The next step.

    Parameters:
        action: to be done now, or null.
        due: when to plan again at the latest, or null where only an event matters.
    """

    action: Action | None
    due: datetime | None


@dataclass(frozen=True)
class Bounds:
    """The deployment's bounds, in seconds."""

    lost_after: float
    abandon_after: float


def next_step(entry: Entry, now: datetime, bounds: Bounds) -> Step:
    """Plan."""
    if entry.state is State.PENDING:
        return _pending(entry, now)
    if entry.state.terminal:
        return _unconfirmed(entry, now, bounds) if entry.live else _settled(entry, now, bounds)
    if entry.away_seconds >= bounds.lost_after:
        return Step(Action.LOSE, None)
    if entry.state is State.STOPPING:
        return _stopping(entry, now)
    deadline = _at(entry.deadline, now, Action.TIME_OUT)
    if deadline.action is not None:
        return deadline
    if entry.exceeded is not None:
        return Step(Action.BUDGET, None)
    if (policy := _gone_quiet(entry)) is not None:
        return Step(policy, None)
    deadline = _sooner(_owner_gone(entry, now), deadline)
    if entry.handle is None and deadline.action is None:
        return _sooner(_unsubmitted(entry, now), deadline)
    return deadline


def _pending(entry: Entry, now: datetime) -> Step:
    if entry.start_at is None:
        return _at(None if entry.submitter is None else entry.submitter.until, now, Action.CREATOR_GONE)
    return _sooner(_owner_gone(entry, now), _at(entry.start_at, now, Action.SUBMIT))


def _owner_gone(entry: Entry, now: datetime) -> Step:
    return _at(None if entry.owned is None else entry.owned.until, now, Action.OWNER_GONE)


def cancel_deadline(entry: Entry) -> datetime | None:
    """When a dispatch whose stop was accepted ends at the latest, confirmed or not."""
    if entry.accepted_at is None:
        return None
    grace = max(entry.grace, entry.stop_grace or 0, entry.effective_grace or 0.0)
    return entry.accepted_at + timedelta(seconds=grace + CANCEL_MARGIN)


def _gone_quiet(entry: Entry) -> Action | None:
    """Return the policy by which a workload that gives no sign is cancelled; one that is away may well give some."""
    if entry.state is not State.RUNNING or entry.reachable is False:
        return None
    if entry.heartbeat_timeout is not None and entry.unheard.seconds >= entry.heartbeat_timeout:
        return Action.MISSED_HEARTBEATS
    if entry.silence_timeout is not None and entry.silent.seconds >= entry.silence_timeout:
        return Action.OUTPUT_SILENCE
    return None


def _stopping(entry: Entry, now: datetime) -> Step:
    if entry.attempt is not None and entry.attempt.lease.until > now:
        return Step(None, entry.attempt.lease.until)
    if entry.handle is None:
        return _unsubmitted(entry, now)
    if entry.accepted_at is None:
        return _at(entry.retry_at or now, now, Action.KILL if entry.force else Action.STOP)
    ends = _at(cancel_deadline(entry), now, Action.CANCEL_TIMED_OUT)
    if ends.action is None and entry.stop_by is not None and not entry.kill_accepted:
        at = entry.stop_by if entry.retry_at is None else max(entry.stop_by, entry.retry_at)
        return _sooner(_at(at, now, Action.KILL), ends)
    return ends


def _unsubmitted(entry: Entry, now: datetime) -> Step:
    if entry.submitter is not None and entry.submitter.until > now:
        return Step(None, entry.submitter.until)
    return Step(Action.FIND, None)


def _unconfirmed(entry: Entry, now: datetime, bounds: Bounds) -> Step:
    if entry.ended_at is None:
        return Step(None, None)
    abandon = _at(entry.ended_at + timedelta(seconds=bounds.abandon_after), now, Action.ABANDON)
    if abandon.action is not None:
        return abandon
    if entry.attempt is not None and entry.attempt.lease.until > now:
        return Step(None, entry.attempt.lease.until)
    if entry.handle is None:
        return Step(Action.FIND, None)
    if entry.retry_at is not None and entry.retry_at > now:
        return _sooner(Step(None, entry.retry_at), abandon)
    return Step(Action.STOP if entry.state is State.LOST else Action.KILL, None)


def _settled(entry: Entry, now: datetime, bounds: Bounds) -> Step:
    """What is over for everybody leaves inline secrets to remove, at most; an end without proof had its time before."""
    if not entry.holds_secrets or entry.ended_at is None:
        return Step(None, None)
    until = entry.ended_at + timedelta(seconds=(2 if entry.given_up else 1) * bounds.abandon_after)
    return Step(Action.LEAVE_SECRETS if until <= now else Action.REMOVE_SECRETS, None)


def _at(when: datetime | None, now: datetime, action: Action) -> Step:
    if when is None or when <= now:
        return Step(action, None) if when is not None else Step(None, None)
    return Step(None, when)


def _sooner(first: Step, second: Step) -> Step:
    if first.action is not None:
        return first
    if second.action is not None:
        return second
    times = [step.due for step in (first, second) if step.due is not None]
    return Step(None, min(times) if times else None)
