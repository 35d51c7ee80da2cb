"""A change in the making: one entry, its next values, the events that report them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agora.model.events import EventType
from agora.model.record import Entry, Lease, Note, Quiet, State

MAX_NOTES = 50
#: A worker may say any number of things too late or out of turn: of too many notes these go first.
_LOOSE = ("late_worker_event", "refused_worker_event")

#: Reasons of a live record that say why nobody can be asked; taken back when the target answers.
AWAY_REASONS = frozenset({"unreachable", "permission_denied", "target_missing", "provider_error"})

#: Every transition there is (contract 2).
ALLOWED: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.SUBMITTED, State.FAILED, State.CANCELLED}),
    State.SUBMITTED: frozenset(
        {State.RUNNING, State.STOPPING, State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.LOST}
    ),
    State.RUNNING: frozenset({State.STOPPING, State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.LOST}),
    State.STOPPING: frozenset({State.CANCELLED, State.TIMED_OUT, State.SUCCEEDED, State.FAILED, State.LOST}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.TIMED_OUT: frozenset(),
    State.LOST: frozenset(),
}


@dataclass(frozen=True)
class EventDraft:
    """An event before the store gives it an id."""

    type: EventType
    sequence: int
    time: datetime
    data: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What a fact did.

    Parameters:
        entry: the entry as it is now; the same object where nothing changed.
        events: to be written in the same transaction.
        answer: what the one who brought the fact is told.
    """

    entry: Entry
    events: tuple[EventDraft, ...]
    answer: Any = None

    @property
    def ended(self) -> bool:
        """Whether this change ended the dispatch."""
        return any(event.type is EventType.TERMINATED for event in self.events)


class Draft:
    """Collects the next values of an entry, checks transitions and numbers events."""

    def __init__(self, entry: Entry, now: datetime) -> None:
        self._before = entry
        self.entry = entry
        self.now = now
        self._events: list[EventDraft] = []

    def set(self, **values: Any) -> None:
        """Set fields of the entry."""
        self.entry = self.entry.model_copy(update=values)

    def move(self, state: State, **values: Any) -> None:
        """Change the state along the table; anything else is a bug in the rules."""
        if state not in ALLOWED[self.entry.state]:
            raise AssertionError(f"no transition {self.entry.state.value} -> {state.value}")
        self.set(state=state, **values)

    def emit(self, kind: EventType, /, **data: Any) -> None:
        """Add an event with the next sequence number."""
        sequence = self.entry.sequence + 1
        self._events.append(EventDraft(kind, sequence, self.now, data))
        self.set(sequence=sequence)

    def note(self, kind: str, /, **data: Any) -> None:
        """Add a note; the oldest go when there are too many, those of a worker first."""
        notes = [*self.entry.notes, Note(type=kind, at=self.now, data=data)]
        if len(notes) > MAX_NOTES:
            del notes[next((number for number, note in enumerate(notes) if note.type in _LOOSE), 0)]
        self.set(notes=tuple(notes))

    def done(self, answer: Any = None) -> Change:
        """Finish."""
        return Change(self.entry, tuple(self._events), answer)


def expired(lease: Lease | None, now: datetime) -> bool:
    """Whether nobody holds this claim any more."""
    return lease is None or lease.until <= now


def surely_unsent(entry: Entry) -> bool:
    """Whether nothing of a dispatch has reached its backend, and nobody is sending it."""
    return entry.unsent and entry.submitter is None


def back(draft: Draft) -> None:
    """The target answered: take back what said that it did not."""
    entry = draft.entry
    if entry.reachable is not True or entry.away_at is not None:
        reason = None if entry.reachable is False or entry.reason in AWAY_REASONS else entry.reason
        draft.set(reachable=True, away_seconds=0.0, away_at=None, reason=reason)
    if entry.reachable is False:
        # What it said meanwhile may take a while to arrive.
        draft.set(unheard=Quiet(), silent=Quiet())
