"""When a workload has been quiet for too long: the pure rules, against a history that is kept beside them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agora import state
from agora.engine.plan import Action, Bounds, next_step
from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.observation import Handle, Observation, Phase
from agora.model.record import Entry, Failure, State
from agora.model.spec import Spec
from agora.state import facts
from agora.state.machine import MAX_WORKER_EVENTS
from hypothesis import given, settings
from hypothesis import strategies as st

START = datetime(2031, 1, 1, tzinfo=UTC)
BOUNDS = Bounds(lost_after=3600, abandon_after=604_800)
TIMEOUT = 20
AWAY = facts.LookFailed(Failure(type="unreachable", message="away"))
BACK = facts.Seen(Observation(phase=Phase.RUNNING))


def running(**fields: Any) -> Entry:
    """A dispatch that runs."""
    values: dict[str, Any] = {
        "id": "d1", "target": "t", "provider": "p", "state": State.RUNNING, "grace": 30, "timeout": 86_400,
        "requested_at": START, "submitted_at": START, "deadline": START + timedelta(days=1), "started_at": START,
        "installation": "i", "spec": {}, "digest": "x", "sequence": 3, "seen": True, "reachable": True,
        "handle": Handle(id="d1", backend="b"), **fields,
    }  # fmt: skip
    return Entry(**values)


def after(entry: Entry, seconds: float, *told: facts.Fact) -> Entry:
    """The entry after facts that are told so many seconds after the start."""
    for fact in told:
        entry = state.apply(entry, fact, START + timedelta(seconds=seconds)).entry
    return entry


def due(entry: Entry, seconds: float) -> Action | None:
    """What is to be done so many seconds after the start."""
    return next_step(entry, START + timedelta(seconds=seconds), BOUNDS).action


class Play:
    """Two supervisors, a workload and a backend; what really happened is kept beside the entry."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        field = "heartbeat_timeout" if kind == "heartbeat" else "silence_timeout"
        self.entry = running(**{field: TIMEOUT})
        self.now = 0.0
        #: When each supervisor has read everything, without a gap since then; and the gapless times of both.
        self.readers: dict[int, float | None] = {0: None, 1: None}
        self.listened: list[tuple[float, float]] = []
        self.number = 0
        self.sign_at = 0.0
        self.away = False
        self.back_at = 0.0
        self.unread = False

    def heard_nothing(self) -> float:
        """The seconds in which anybody listened, since the last sign of the workload and of the backend."""
        total, reached = 0.0, max(self.sign_at, self.back_at)
        for begin, end in sorted(self.listened):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def speak(self) -> None:
        """The workload gives a sign, which waits in its log."""
        self.unread = True
        self.sign_at = self.now

    def read(self, reader: int) -> None:
        """One supervisor reads everything."""
        told: list[facts.Fact] = []
        if self.unread and self.kind == "heartbeat":
            self.number += 1
            told.append(facts.WorkerSaid(EventType.HEARTBEAT, {}, "w", self.number))
        before = self.readers[reader]
        seconds = 0.0 if before is None else self.now - before
        if before is not None:
            self.listened.append((before, self.now))
        told.append(facts.Listened(seconds, output=self.unread and self.kind == "output"))
        self.entry = after(self.entry, self.now, *told)
        self.readers[reader] = self.now
        self.unread = False

    def listen(self, reader: int, seconds: float) -> None:
        """One supervisor reads, again and again."""
        self.read(reader)
        self.pass_time(seconds)
        self.read(reader)

    def fail(self, reader: int) -> None:
        """One supervisor cannot read."""
        self.readers[reader] = None

    def go_away(self) -> None:
        """The backend does not answer."""
        self.entry = after(self.entry, self.now, AWAY)
        self.away = True

    def come_back(self) -> None:
        """It answers again."""
        if self.away:
            self.entry = after(self.entry, self.now, BACK)
            self.away, self.back_at = False, self.now


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass_time"), st.sampled_from([0.5, 1.0, 4.0, 7.0, 30.0, 1000.0])),
        st.tuples(st.sampled_from(["read", "fail"]), st.sampled_from([0, 1])),
        st.tuples(st.just("listen"), st.sampled_from([0, 1]), st.sampled_from([1.0, 4.0, 11.0, 19.0])),
        st.tuples(st.sampled_from(["speak", "go_away", "come_back"])),
    ),
    max_size=60,
)


@settings(max_examples=600, deadline=None)
@given(kind=st.sampled_from(["heartbeat", "output"]), steps=steps)
def test_nothing_is_cancelled_that_spoke_or_that_nobody_could_hear(kind: str, steps: list[tuple[Any, ...]]) -> None:
    play = Play(kind)
    wanted = Action.MISSED_HEARTBEATS if kind == "heartbeat" else Action.OUTPUT_SILENCE
    for name, *values in steps:
        getattr(play, name)(*values)
        action = due(play.entry, play.now)
        assert action in (None, wanted)
        if action is None:
            continue
        assert not play.away, "who is away may well speak"
        # What was given since the last reading is not known to anybody.
        assert play.unread or play.heard_nothing() >= TIMEOUT
    # However it went: who listens for as long as it takes, and hears nothing, has it cancelled.
    play.come_back()
    for _ in range(TIMEOUT + 2):
        play.read(0)
        play.pass_time(1.0)
    assert due(play.entry, play.now) is wanted


@pytest.mark.parametrize("kind", ["heartbeat", "output"])
def test_time_in_which_nobody_listened_is_not_counted(kind: str) -> None:
    play = Play(kind)
    for _ in range(15):
        play.read(0)
        play.pass_time(1.0)
    # The supervisor dies; another one takes over a day later, and goes on where the first one stopped.
    play.pass_time(80_000.0)
    play.read(1)
    assert due(play.entry, play.now) is None
    play.pass_time(4.0)
    play.read(1)
    assert due(play.entry, play.now) is None
    play.pass_time(3.0)
    play.read(1)
    assert due(play.entry, play.now) is not None


def test_two_who_listen_count_the_same_time_once() -> None:
    play = Play("output")
    for _ in range(TIMEOUT - 1):
        play.read(0)
        play.read(1)
        play.pass_time(1.0)
    play.read(0)
    play.read(1)
    assert due(play.entry, play.now) is None
    assert play.entry.silent.seconds == TIMEOUT - 1


def test_the_last_word_of_a_worker_and_events_beyond_the_limit() -> None:
    quiet = after(
        running(heartbeat_timeout=TIMEOUT, heard={"w": MAX_WORKER_EVENTS}),
        15,
        facts.Listened(0),
    )
    quiet = after(quiet, 34, facts.Listened(19))
    # More events than are written down are signs of life all the same.
    alive = after(quiet, 34, facts.WorkerSaid(EventType.HEARTBEAT, {}, "w", MAX_WORKER_EVENTS + 1))
    assert alive.sequence == quiet.sequence
    assert (quiet.unheard.seconds, alive.unheard.seconds) == (19, 0)
    again = after(alive, 34, facts.WorkerSaid(EventType.PROGRESS, {}, "w", MAX_WORKER_EVENTS + 1))
    assert again is alive, "what was heard before is no sign"
    ending = after(quiet, 34, facts.WorkerSaid(EventType.CANCELLED, {}, "w", MAX_WORKER_EVENTS + 1))
    assert ending.unheard.seconds == 19


@pytest.mark.parametrize("place", ["env", "secrets"])
def test_heartbeats_that_somebody_hands_in_count_from_the_first_one(place: str) -> None:
    named: Any = {"AGORA_WORKER_URL": "http://x"} if place == "env" else ["AGORA_WORKER_REDIS"]
    entry = running(heartbeat_timeout=TIMEOUT, spec={place: named})
    entry = after(after(entry, 0, facts.Listened(0)), 100, facts.Listened(100))
    assert due(entry, 100) is None, "nobody hands anything in, perhaps"
    entry = after(entry, 101, facts.WorkerSaid(EventType.HEARTBEAT, {}, "w", 1), facts.Listened(1))
    entry = after(entry, 121, facts.Listened(20))
    assert due(entry, 121) is Action.MISSED_HEARTBEATS


def test_what_was_recorded_first_wins_and_only_what_runs_is_cancelled() -> None:
    quiet = {"silent": {"seconds": 100}, "unheard": {"seconds": 100}, "silence_timeout": 20, "heartbeat_timeout": 20}
    assert due(running(**quiet), 1) is Action.MISSED_HEARTBEATS
    assert due(running(**quiet, deadline=START), 1) is Action.TIME_OUT
    assert due(running(**quiet, reachable=False), 1) is None
    assert due(running(**{**quiet, "heartbeat_timeout": None}), 1) is Action.OUTPUT_SILENCE
    assert due(running(**{**quiet, "heartbeat_timeout": None, "silence_timeout": None}), 1) is None
    asked = after(running(**quiet), 1, facts.CancelAsked(Cause(actor="a", via=Via.API)))
    assert due(asked, 1) is Action.STOP
    assert after(asked, 50, facts.Listened(50)).silent == asked.silent
    assert due(running(**quiet, state=State.SUBMITTED), 1) is None


def test_a_spec_without_policies_is_the_same_as_before_there_were_any() -> None:
    plain = Spec(command=("true",))
    assert not {"heartbeat_timeout", "silence_timeout"} & plain.public().keys()
    strict = Spec(command=("true",), heartbeat_timeout=30)
    assert strict.public()["heartbeat_timeout"] == 30
    assert plain.digest() != strict.digest()
    assert strict.with_worker("d1").env["AGORA_WORKER_HEARTBEAT"] == "30"
    assert strict.with_worker("d1").digest() == strict.digest()
    assert Spec.model_validate(strict.public() | {"secrets": {}}) == strict
    for wrong in (1, 2.5, 86_401, "30"):
        with pytest.raises(ValueError, match="silence_timeout"):
            Spec.model_validate({"command": ["true"], "silence_timeout": wrong})
