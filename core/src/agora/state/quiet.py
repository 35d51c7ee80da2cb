"""How long a workload has given no sign, counted only while somebody listened who could have heard one."""

from __future__ import annotations

from agora.model.events import EventType
from agora.model.record import Entry, Quiet, State
from agora.state import facts
from agora.state.draft import Draft

#: What a worker that gets on says; its `dispatch.cancelled` is no sign of that.
SIGNS = (EventType.HEARTBEAT, EventType.PROGRESS)
#: Where a worker's events go that only somebody else can hand in.
_ELSEWHERE = ("AGORA_WORKER_URL", "AGORA_WORKER_REDIS")


def elsewhere(entry: Entry) -> bool:
    """Whether the worker's events go to where no supervisor hears them."""
    return any(name in entry.spec.get(place, ()) for place in ("env", "secrets") for name in _ELSEWHERE)


def gets_on(draft: Draft) -> None:
    """Take note of a worker's sign of life."""
    if draft.entry.heartbeat_timeout is not None:
        draft.set(unheard=Quiet(counted_at=draft.now))


def listened(draft: Draft, fact: facts.Listened) -> bool:
    entry = draft.entry
    if entry.state is not State.RUNNING:
        return False
    if entry.heartbeat_timeout is not None and (entry.heard or not elsewhere(entry)):
        draft.set(unheard=_longer(draft, entry.unheard, fact.seconds))
    if entry.silence_timeout is not None:
        draft.set(silent=Quiet(counted_at=draft.now) if fact.output else _longer(draft, entry.silent, fact.seconds))
    if entry.silence_timeout is not None or entry.budget:
        at = max(entry.output_at, fact.output_at) if entry.output_at and fact.output_at else fact.output_at
        draft.set(output_at=at or entry.output_at, output_size=fact.output_size or entry.output_size)
    return True


def _longer(draft: Draft, quiet: Quiet, seconds: float) -> Quiet:
    since = 0.0 if quiet.counted_at is None else max(0.0, (draft.now - quiet.counted_at).total_seconds())
    return Quiet(seconds=quiet.seconds + min(seconds, since), counted_at=draft.now)
