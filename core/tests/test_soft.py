"""A cancel that asks first: the pure rules."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agora import state
from agora.engine.plan import Action, Bounds, next_step
from agora.model.cancel import Outcome
from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.observation import Handle, Observation, Phase, ReceiptKind, StopReceipt
from agora.model.record import Entry, Lease, State
from agora.state import facts
from agora.state.stopping import below

START = datetime(2031, 1, 1, tzinfo=UTC)
BOUNDS = Bounds(lost_after=3600, abandon_after=604_800)
CAUSE = Cause(actor="ann", via=Via.API, reason="enough")
ENDED = facts.Seen(Observation(phase=Phase.ENDED, exit_code=0, stop_reached=False))
SAID = facts.WorkerSaid(EventType.CANCELLED, {"clean": True, "asked": True}, "w", 1)
CLAIM = Lease(owner="p0", until=START + timedelta(seconds=15))


def running(**fields: Any) -> Entry:
    """A dispatch that runs where its worker can be asked."""
    values: dict[str, Any] = {
        "id": "d1", "target": "t", "provider": "p", "state": State.RUNNING, "grace": 30, "timeout": 600,
        "requested_at": START, "submitted_at": START, "deadline": START + timedelta(seconds=600), "started_at": START,
        "installation": "i", "spec": {}, "digest": "x", "sequence": 3, "seen": True, "reachable": True,
        "handle": Handle(id="d1", backend="b"), "askable": True, **fields,
    }  # fmt: skip
    return Entry(**values)


def tell(entry: Entry, seconds: float, *told: facts.Fact) -> Entry:
    """The entry after facts that are told so many seconds after the start."""
    for fact in told:
        entry = state.apply(entry, fact, START + timedelta(seconds=seconds)).entry
    return entry


def due(entry: Entry, seconds: float) -> Action | None:
    """What is to be done so many seconds after the start."""
    return next_step(entry, START + timedelta(seconds=seconds), BOUNDS).action


def softly(seconds: int = 60) -> facts.CancelAsked:
    """A request that asks first; its sender would send at once."""
    return facts.CancelAsked(CAUSE, claim=CLAIM, soft=seconds)


def test_no_stop_is_sent_before_its_time_and_then_by_anybody() -> None:
    change = state.apply(running(), softly(), START)
    entry = change.entry
    assert change.answer is Outcome.STOPPING
    assert (entry.state, entry.attempt, entry.attempts, entry.delivered) == (State.STOPPING, None, 0, None)
    assert [event.data["soft"] for event in change.events] == [60]
    assert due(entry, 59) is None
    assert next_step(entry, START, BOUNDS).due == START + timedelta(seconds=60)
    assert due(entry, 60) is Action.STOP


@pytest.mark.parametrize("heard", [True, False])
def test_its_own_word_decides_whether_it_ended_because_it_was_asked(heard: bool) -> None:
    entry = tell(running(), 0, softly())
    entry = tell(entry, 10, *([SAID] if heard else []), ENDED)
    assert entry.state is (State.CANCELLED if heard else State.SUCCEEDED)
    assert (entry.confirmed, entry.exit_code, entry.acknowledged) == (True, 0, True if heard else None)
    assert entry.cause == CAUSE


def test_an_end_after_the_stop_was_sent_is_as_it_always_is() -> None:
    entry = tell(running(), 0, softly())
    entry = tell(entry, 60, facts.AttemptBegan("stop", CLAIM))
    entry = tell(entry, 61, facts.AttemptAnswered(1, StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=30)))
    assert entry.delivered is True
    assert tell(entry, 62, facts.Seen(Observation(phase=Phase.ENDED, exit_code=0))).state is State.CANCELLED
    assert tell(entry, 62, ENDED).state is State.SUCCEEDED, "the backend proves that no stop had reached it"


def test_a_later_cancel_does_not_wait_and_a_later_soft_one_changes_nothing() -> None:
    entry = tell(running(), 0, softly())
    again = tell(entry, 5, softly(3))
    assert again == entry
    hard = tell(entry, 5, facts.CancelAsked(CAUSE, grace=10))
    assert (hard.delivered, hard.stop_grace) == (False, 10)
    assert due(hard, 5) is Action.STOP
    sent = tell(hard, 5, facts.AttemptBegan("stop", CLAIM))
    assert tell(sent, 6, facts.CancelAsked(CAUSE)).attempt == sent.attempt


def test_the_deadline_ends_the_asking() -> None:
    entry = tell(running(), 590, softly(60))
    assert entry.asked_until == entry.deadline
    assert due(entry, 599) is None
    assert due(entry, 600) is Action.STOP


def test_where_nobody_can_be_asked_the_stop_is_sent_at_once_and_that_is_said() -> None:
    entry = tell(running(askable=False), 0, softly())
    assert entry.degraded == ("soft",)
    assert entry.attempt is not None
    assert entry.asked_until is None
    unborn = running(state=State.SUBMITTED, handle=None, started_at=None, seen=False, first_sent_at=START)
    assert tell(unborn, 0, softly()).degraded == (), "nothing runs yet that could be asked"


def test_those_below_are_asked_too() -> None:
    child = below(softly(), "p1")
    assert (child.soft, child.claim, child.cause.policy) == (60, None, "parent_cancelled")
