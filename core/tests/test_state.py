"""The pure state machine under random interleavings of every fact, from several processes, with time passing.

`Dispatches` feeds facts and keeps a history of its own; `_expected_end` is the contract's section 2 written a second
time, from that history alone, and knows nothing of the machine's fields.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

import pytest
from agora import state
from agora.model.cancel import Outcome
from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.observation import EndedBy, Handle, Observation, Phase, ReceiptKind, StopReceipt
from agora.model.record import Entry, Failure, Lease, State
from agora.state import facts
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Phases
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

START = datetime(2031, 1, 1, tzinfo=UTC)
HANDLE = Handle(id="d1", backend="machine-1")
OWNERS = ("p0", "p1", "p2")
STAGES = (
    "pending", "put off", "submitted", "found", "running", "stopping", "sending", "held", "accepted", "shortened",
    "unproven",
)  # fmt: skip

#: The table of contract 2, typed in a second time.
TRANSITIONS = {
    ("pending", "submitted"), ("pending", "failed"), ("pending", "cancelled"),
    ("submitted", "running"), ("submitted", "stopping"), ("submitted", "succeeded"), ("submitted", "failed"),
    ("submitted", "timed_out"), ("submitted", "lost"),
    ("running", "stopping"), ("running", "succeeded"), ("running", "failed"), ("running", "timed_out"),
    ("running", "lost"),
    ("stopping", "cancelled"), ("stopping", "timed_out"), ("stopping", "succeeded"), ("stopping", "failed"),
    ("stopping", "lost"),
}  # fmt: skip
ENDS = {"succeeded", "failed", "cancelled", "timed_out", "lost"}

ONCE = {
    EventType.REQUESTED, EventType.SUBMITTED, EventType.STARTED, EventType.CANCEL_REQUESTED, EventType.CANCELLED,
    EventType.TERMINATED, EventType.CONFIRMED,
}  # fmt: skip

#: What a cancel says, by the state that is stored before and after it.
ALREADY = {
    "stopping": Outcome.ALREADY_STOPPING, "succeeded": Outcome.ALREADY_SUCCEEDED, "failed": Outcome.ALREADY_FAILED,
    "cancelled": Outcome.ALREADY_CANCELLED, "timed_out": Outcome.ALREADY_TIMED_OUT, "lost": Outcome.ALREADY_LOST,
}  # fmt: skip

FILLED_ONCE = ("exit_code", "signal", "oom", "forced", "evidence")
FOR_EVER = (
    "id", "state", "reason", "cause", "ended_at", "requested_at", "submitted_at", "started_at", "stopping_at",
    "grace", "timeout", "deadline", "target", "labels", "degraded", "effective_grace",
)  # fmt: skip


def new_entry(**values: Any) -> Entry:
    """A dispatch that was just recorded by p0."""
    fields: dict[str, Any] = {
        "id": "d1", "target": "t", "provider": "p", "state": State.PENDING, "grace": 30, "timeout": 600,
        "requested_at": START, "installation": "i", "spec": {}, "digest": "x", "sequence": 1,
        "submitter": Lease(owner="p0", until=START + timedelta(seconds=15)), **values,
    }  # fmt: skip
    return Entry(**fields)


@dataclass
class Attempt:
    """What the history knows of one attempt to stop."""

    number: int
    kind: str
    until: datetime
    fate: Literal["open", "not sent", "may have reached"] = "open"


@dataclass
class History:
    """What has happened, in words of the contract, beside the machine."""

    start_at: datetime | None = None
    submitted: bool = False
    found: bool = False
    seen: bool = False
    submitter: tuple[str, datetime] | None = None
    may_have_been_sent: bool = False
    cause: Cause | None = None
    accepted: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    held: Observation | None = None

    def attempt(self, number: int) -> Attempt | None:
        """The attempt of that number."""
        return next((one for one in self.attempts if one.number == number), None)

    def claimed(self, now: datetime) -> bool:
        """Whether somebody is sending."""
        return any(one.fate == "open" and one.until > now for one in self.attempts)

    def begun(self, *, but: int | None = None) -> bool:
        """Whether some (other) attempt may have reached the backend."""
        return any(one.fate != "not sent" and one.number != but for one in self.attempts)

    def begun_before(self, number: int) -> bool:
        """Whether an earlier attempt may have reached the backend."""
        return any(one.fate != "not sent" and one.number < number for one in self.attempts)


def stopped(cause: Cause) -> str:
    """How a request that was carried out ends."""
    return "timed_out" if cause.policy == "timeout" else "cancelled"


def own_end(seen: Observation) -> str:
    """How a workload that nobody of ours stopped ended."""
    if seen.never_started:
        return "failed"
    if seen.ended_by is EndedBy.DEADLINE:
        return "timed_out"
    if seen.ended_by is EndedBy.EXTERNAL:
        return "failed"
    return "succeeded" if seen.exit_code == 0 else "failed"


def end_of(history: History, seen: Observation, *, proven_earlier: bool = False) -> str:
    """Who decides between "ended by itself" and "cancelled"."""
    if history.cause is None or not history.begun() or seen.stop_reached is False or proven_earlier:
        return own_end(seen)
    return stopped(history.cause)


observations = st.builds(
    Observation,
    phase=st.sampled_from([Phase.PENDING, Phase.RUNNING, Phase.ENDED, Phase.ENDED]),
    reachable=st.sampled_from([True, True, True, False]),
    exit_code=st.sampled_from([None, 0, 0, 42, 137, 143]),
    signal=st.sampled_from([None, 9, 15]),
    oom=st.sampled_from([None, False, True]),
    stop_reached=st.sampled_from([None, None, True, False]),
    forced=st.sampled_from([None, False, True]),
    never_started=st.sampled_from([False, False, False, True]),
    ended_by=st.sampled_from([None, None, None, EndedBy.DEADLINE, EndedBy.EXTERNAL]),
    effective_grace=st.sampled_from([None, None, 5.0, 20.0, 60.0]),
    native=st.sampled_from([{}, {"pid": 1}, {"pid": 2}]),
)
ended = observations.map(lambda seen: seen.model_copy(update={"phase": Phase.ENDED, "reachable": True}))
causes = st.builds(
    Cause,
    actor=st.sampled_from(["ann", "bob", "agora"]),
    via=st.sampled_from([Via.CLI, Via.API]),
    policy=st.sampled_from([None, None, "timeout", "health"]),
    request_id=st.uuids().map(str),
)
failures = st.sampled_from(
    [Failure(type=name, message="no") for name in ("unreachable", "permission_denied", "provider_error")]
)
owners = st.sampled_from(OWNERS)
#: Seconds that pass before a fact; most come at once, some after a claim has run out.
pauses = st.sampled_from([0.0, 0.0, 0.0, 1.0, 16.0])
flags = st.booleans()


class Dispatches(RuleBasedStateMachine):
    """One dispatch and everybody who may tell something about it."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = new_entry(holds_secrets=True)
        self.now = START
        self.history = History(submitter=("p0", START + timedelta(seconds=15)))
        self.seen_events: Counter[EventType] = Counter({EventType.REQUESTED: 1})
        self.sequence = 1

    # --- how a fact is fed, and what holds for every one ---------------------------------------------------

    def lease(self, owner: str) -> Lease:
        return Lease(owner=owner, until=self.now + timedelta(seconds=15))

    def feed(self, fact: facts.Fact, expected: str | None = None, *, at_once: bool = False) -> Any:
        """Apply a fact; `expected` is the state that the contract demands afterwards (null: the same as before).

        With `at_once`, the fact goes through `stopping` and ends the dispatch in one write.
        """
        before = self.entry
        change = state.apply(before, fact, self.now)
        self.entry = change.entry
        told = [event.type for event in change.events]
        self._check_events(before, change)
        assert self.entry.state.value == (expected or before.state.value), fact
        if before.state is not self.entry.state:
            path = (before.state.value, *(("stopping",) if at_once else ()), self.entry.state.value)
            assert TRANSITIONS.issuperset(pairwise(path))
        assert change.ended == (not before.state.terminal and self.entry.state.terminal)
        assert (EventType.TERMINATED in told) == change.ended
        if before.state.terminal:
            self._check_for_ever(before, told)
        self._check_request(before, told)
        self._check_deadline(before)
        self._check_pending()
        return change.answer

    def _check_events(self, before: Entry, change: state.Change) -> None:
        for event in change.events:
            self.sequence += 1
            assert event.sequence == self.sequence
            assert event.time == self.now
            over = self.seen_events[EventType.TERMINATED] > 0
            self.seen_events[event.type] += 1
            assert not over or event.type is EventType.CONFIRMED, "only a confirmation may follow the end"
            if event.type in ONCE:
                assert self.seen_events[event.type] == 1, f"{event.type} twice"
            if event.type is EventType.STOPPING:
                assert self.history.accepted, "stopping is said once a stop was accepted"
            if event.type in (EventType.TERMINATED, EventType.CONFIRMED):
                for name in ("exit_code", "signal", "oom", "forced", "evidence", "confirmed", "reason"):
                    assert event.data[name] == getattr(self.entry, name)
                assert event.data["state"] == self.entry.state.value
        assert change.entry.sequence == self.sequence
        if change.entry.sequence == before.sequence:
            assert not change.events

    def _check_for_ever(self, before: Entry, told: list[EventType]) -> None:
        for name in FOR_EVER:
            assert getattr(self.entry, name) == getattr(before, name), name
        confirmed = EventType.CONFIRMED in told
        for name in FILLED_ONCE:
            old, new = getattr(before, name), getattr(self.entry, name)
            assert new == old or (old is None and confirmed), f"{name} changed after the end"
        for key, value in before.native.items():
            assert self.entry.native[key] == value
        assert confirmed == (before.confirmed is False and self.entry.confirmed is True)
        if before.acknowledged is not None:
            assert self.entry.acknowledged == before.acknowledged

    def _check_request(self, before: Entry, told: list[EventType]) -> None:
        assert self.entry.cause == self.history.cause, "the first cause is kept"
        assert (EventType.CANCEL_REQUESTED in told) == (before.cause is None and self.entry.cause is not None)
        if self.entry.state in (State.STOPPING, State.CANCELLED):
            assert self.entry.cause is not None
        if self.entry.state is State.CANCELLED and self.entry.cause is not None and self.history.submitted:
            assert self.entry.cause.policy != "timeout"

    def _check_deadline(self, before: Entry) -> None:
        if before.kill_at is not None:
            assert self.entry.kill_at is not None
            assert self.entry.kill_at <= before.kill_at, "a kill deadline was extended"

    def _check_pending(self) -> None:
        if self.entry.state is State.PENDING:
            entry = self.entry
            assert not self.history.submitted
            assert (entry.handle, entry.submitted_at, entry.first_sent_at, entry.attempts) == (None, None, None, 0)
            assert self.seen_events[EventType.SUBMITTED] == self.seen_events[EventType.STARTED] == 0

    # --- where a scenario begins ---------------------------------------------------------------------------

    @initialize(stage=st.sampled_from(STAGES), cause=causes)
    def begin(self, stage: str, cause: Cause) -> None:
        """Go some of the usual way first, so that the unusual is tried from everywhere."""
        if stage == "put off":
            # Its time comes with most of the steps in which time passes; until then nobody holds it.
            self.history.start_at = START + timedelta(seconds=5)
            self.history.submitter = None
            self.entry = new_entry(holds_secrets=True, start_at=self.history.start_at, submitter=None)
            self.submit_began("p0")
            return
        if stage != "pending":
            self.submit_began("p0")
        if stage == "found":
            self.started("p0", None)
        if stage not in ("pending", "submitted", "found"):
            self.started("p0", Observation(phase=Phase.RUNNING))
        if stage in ("stopping", "sending", "held", "accepted", "shortened"):
            self.cancel_asked(cause, None, False, True, True)
        if stage in ("sending", "held", "accepted", "shortened"):
            self.attempt_began("stop", "p1")
        if stage == "held":
            self.seen(Observation(phase=Phase.ENDED, exit_code=0))
        if stage in ("accepted", "shortened"):
            self.history.attempts[0].fate = "may have reached"
            self.history.accepted = True
            self.feed(facts.AttemptAnswered(1, StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=30.0)))
        if stage == "shortened":
            self.cancel_asked(cause, 10, False, True, True)
        if stage == "unproven":
            self.lost_after()

    @rule(seconds=st.sampled_from([0.1, 1, 5, 14, 16, 31, 100]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # --- the way in ------------------------------------------------------------------------------------------

    @rule(owner=owners)
    def submit_began(self, owner: str) -> None:
        self._release()
        due = self.history.start_at is None or self.history.start_at <= self.now
        may = self.entry.state is State.PENDING and due
        if may:
            self.history.submitted = True
            self.history.submitter = (owner, self.now + timedelta(seconds=15))
        expected = "submitted" if may else self._held_end()
        assert self.feed(facts.SubmitBegan(self.lease(owner)), expected) is may

    @rule(owner=owners, pause=pauses)
    def resubmit_began(self, owner: str, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        free = self._submitter_gone()
        may = self.entry.state is State.SUBMITTED and not self.history.seen and free
        self._release()
        answer = self.feed(facts.ResubmitBegan(self.lease(owner)), self._held_end())
        assert answer is may, "a dispatch that was seen, or is being sent, is never sent again"
        if may:
            self.history.may_have_been_sent |= self.history.submitter is not None
            self.history.submitter = (owner, self.now + timedelta(seconds=15))

    @rule(owner=owners)
    def claim_kept(self, owner: str) -> None:
        self._release()
        kept = self.feed(facts.ClaimKept(self.lease(owner)), self._held_end())
        if kept:
            assert self.history.submitter is not None
            assert self.history.submitter[0] == owner, "a claim was taken from its holder"
            self.history.submitter = (owner, self.now + timedelta(seconds=15))

    @rule(owner=owners)
    def owner_kept(self, owner: str) -> None:
        self._release()
        over = self._held_end()
        may = over is None and not self.entry.state.terminal and self.entry.state is not State.STOPPING
        kept = self.feed(facts.OwnerKept(self.lease(owner)), over)
        assert kept is may
        assert not kept or self.entry.owned == self.lease(owner)

    @rule(owner=st.sampled_from([None, *OWNERS]), first=st.none() | observations, pause=pauses)
    def started(self, owner: str | None, first: Observation | None, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        expected = self._held_end()
        over = expected is not None or self.entry.state.terminal
        if self.entry.state is not State.PENDING:
            self.history.found = self.history.seen = self.history.may_have_been_sent = True
            claim = self.history.submitter
            if claim is not None and (owner is None or claim[0] == owner):
                self.history.submitter = None
            if first is not None and not over:
                expected = self._after_seen(first)
        self.feed(facts.Started(HANDLE.model_copy(update={"first": first}), owner), expected)

    @rule(owner=owners, code=st.sampled_from([None, 126, 127]))
    def submit_refusal(self, owner: str, code: int | None) -> None:
        self._release()
        expected = self._held_end()
        if expected is None and not self.entry.state.terminal and self._submits(owner):
            expected = "failed"
        self.feed(facts.SubmitRefusal(owner, "refused", "no", code), expected)

    @rule(owner=owners)
    def submit_aborted(self, owner: str) -> None:
        self._release()
        expected = self._held_end()
        if expected is None and self.entry.state is State.STOPPING and self._submits(owner):
            assert self.history.cause is not None
            expected = stopped(self.history.cause)
        self.feed(facts.SubmitAborted(owner), expected)

    @rule(owner=owners, failure=failures, sent=flags)
    def submit_unknown(self, owner: str, failure: Failure, sent: bool) -> None:
        self._release()
        expected = self._held_end()
        mine = expected is None and not self.entry.state.terminal and self._submits(owner)
        submitted = self.history.submitted
        if mine and submitted:
            self.history.may_have_been_sent |= sent
            if self.entry.state is State.STOPPING and not self.history.may_have_been_sent:
                assert self.history.cause is not None
                expected = stopped(self.history.cause)
        self.feed(facts.SubmitUnknown(owner, failure, sent), expected)
        if mine:
            self.history.submitter = None
            assert expected is None or self.entry.confirmed is True

    @rule(proves=flags, pause=pauses)
    def never_seen(self, proves: bool, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        gone = self._submitter_gone()
        self._release()
        expected = self._held_end()
        if expected is None and not self.history.seen and gone:
            if self.entry.state is State.SUBMITTED:
                expected = "lost"
            elif self.entry.state is State.STOPPING and self.history.cause is not None:
                expected = stopped(self.history.cause)
        surely_unsent = self._surely_unsent()
        self.feed(facts.NeverSeen(proves), expected)
        if expected and not self.history.seen:
            assert self.entry.confirmed is (proves or surely_unsent)

    @rule()
    def creator_gone(self) -> None:
        forsaken = self.history.start_at is None and self._submitter_gone()
        expected = "failed" if self.entry.state is State.PENDING and forsaken else None
        self._release()
        self.feed(facts.CreatorGone(), expected or self._held_end())
        if expected:
            assert (self.entry.confirmed, self.entry.reason) == (True, "never_submitted")

    # --- what is seen ----------------------------------------------------------------------------------------

    @rule(seen=observations, pause=pauses)
    def seen(self, seen: Observation, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        expected = self._held_end()
        if expected is None and self.history.found and not self.entry.state.terminal:
            expected = self._after_seen(seen)
        self.feed(facts.Seen(seen), expected)

    @rule(proves_death=flags, pause=pauses)
    def absent(self, proves_death: bool, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        expected = self._held_end()
        ends = self.history.found and not self.entry.state.terminal and not self.history.claimed(self.now)
        if expected is None and ends:
            expected = self._absent_end()
            self.feed(facts.Absent(proves_death), expected)
            assert self.entry.confirmed is proves_death
            return
        self.feed(facts.Absent(proves_death), expected)

    @rule(failure=failures, seconds=st.sampled_from([0.0, 10.0, 4000.0]), pause=pauses)
    def look_failed(self, failure: Failure, seconds: float, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        self.feed(facts.LookFailed(failure, seconds), self._held_end())

    # --- requests and attempts -------------------------------------------------------------------------------

    @rule(
        cause=causes,
        grace=st.sampled_from([None, None, 2, 10, 90]),
        force=flags,
        shorten=flags,
        kill=flags,
        pause=pauses,
    )
    def cancel_asked(
        self, cause: Cause, grace: int | None, force: bool, shorten: bool, kill: bool, pause: float = 0.0
    ) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        held = self._held_end()
        before = held or self.entry.state.value
        expected = {"pending": "cancelled", "submitted": "stopping", "running": "stopping"}.get(before, held)
        over_at_once = before == "pending" or (before == "submitted" and self._surely_unsent())
        if before == "submitted" and over_at_once:
            expected = stopped(cause)
        if before not in ALREADY:
            self.history.cause = cause
        accepted, wish = self.entry.kill_at, (self.entry.stop_grace, self.entry.force)
        asked = facts.CancelAsked(cause, grace, force, shorten, kill)
        answer = self.feed(asked, expected, at_once=over_at_once and before == "submitted")
        if over_at_once:
            assert answer is Outcome.CANCELLED
            assert (self.entry.confirmed, self.entry.reason) == (True, "never_submitted")
        else:
            assert answer is ALREADY.get(before, Outcome.STOPPING)
        if before == "stopping" and not held:
            if accepted is None and grace is None and not force:
                assert (self.entry.stop_grace, self.entry.force) == wish, "a second cancel without a wish has none"
            if accepted is not None and force and kill:
                assert self.entry.kill_at is not None
                assert self.entry.kill_at <= self.now
            if accepted is not None and force and not kill and accepted > self.now:
                assert "force" in self.entry.degraded
                assert self.entry.kill_at == accepted

    @rule(kind=st.sampled_from(["stop", "stop", "kill"]), owner=owners, pause=pauses)
    def attempt_began(self, kind: Literal["stop", "kill"], owner: str, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        claimed = self.history.claimed(self.now)
        self._release()
        number = self.feed(facts.AttemptBegan(kind, self.lease(owner)), self._held_end())
        if number is None:
            return
        assert not claimed, "two senders at once"
        assert number == len(self.history.attempts) + 1
        assert self.history.found, "there is nothing to stop yet"
        if not self.entry.state.terminal:
            assert self.history.cause is not None, "nobody asked for a stop"
            assert kind == "kill" or not self.history.accepted, "a second SIGTERM"
        for one in self.history.attempts:
            if one.fate == "open":
                one.fate = "may have reached"
        self.history.attempts.append(Attempt(number, kind, self.now + timedelta(seconds=15)))

    @precondition(lambda self: self.history.attempts)
    @rule(
        data=st.data(), receipt=st.none() | st.sampled_from(list(ReceiptKind)), failure=failures, sent=flags,
        seen=st.none() | ended, grace=st.sampled_from([None, 0.0, 10.0, 30.0, 120.0]), shorten=flags, proves=flags,
    )  # fmt: skip
    def attempt_answered(
        self, data: st.DataObject, receipt: ReceiptKind | None, failure: Failure, sent: bool, seen: Observation | None,
        grace: float | None, shorten: bool, proves: bool,
    ) -> None:  # fmt: skip
        attempt = data.draw(st.sampled_from(self.history.attempts[-2:]))
        held, mine = self.history.held, attempt.fate == "open"
        if not mine:
            held = None
            self._release()
        over = self._held_end() if not mine else None
        other = not mine and any(one.fate == "open" for one in self.history.attempts)
        terminal = over is not None or self.entry.state.terminal
        if mine:
            attempt.fate = "not sent" if receipt is None and not sent else "may have reached"
            self.history.held = None
        earlier = not self.history.begun_before(attempt.number)
        expected = over
        if receipt is None:
            answer = facts.AttemptAnswered(attempt.number, failure=failure, sent=sent)
            if not terminal and held is not None:
                expected = end_of(self.history, held)
        elif receipt is ReceiptKind.ALREADY_EXITED and seen is not None:
            answer = facts.AttemptAnswered(attempt.number, StopReceipt(kind=receipt, observation=seen))
            if not terminal:
                expected = end_of(self.history, seen, proven_earlier=earlier)
        elif receipt in (ReceiptKind.ALREADY_EXITED, ReceiptKind.NOT_FOUND):
            answer = facts.AttemptAnswered(attempt.number, StopReceipt(kind=receipt), proves_death=proves)
            if not terminal and not other:
                expected = self._absent_end() if held is None else end_of(self.history, held, proven_earlier=earlier)
        else:
            taken = StopReceipt(kind=receipt, effective_grace=grace)
            answer = facts.AttemptAnswered(attempt.number, taken, shorten=shorten)
            if not terminal:
                self.history.accepted = True
                expected = None if held is None else end_of(self.history, held)
        self.feed(answer, expected)
        taken_now = receipt in (ReceiptKind.SIGNALLED, ReceiptKind.ALREADY_STOPPING)
        if taken_now and not terminal and self.entry.state is State.STOPPING:
            assert self.entry.delivered is True
            assert self.entry.kill_at is not None

    # --- the bounds ------------------------------------------------------------------------------------------

    @rule(pause=pauses)
    def cancel_timed_out(self, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        expected = self._held_end()
        if expected is None and self.entry.state is State.STOPPING and self.history.accepted:
            assert self.history.cause is not None
            self.feed(facts.CancelTimedOut(), stopped(self.history.cause))
            assert self.entry.confirmed is False
            return
        self.feed(facts.CancelTimedOut(), expected)

    @rule(pause=pauses)
    def lost_after(self, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        expected = self._held_end()
        if expected is None and self.entry.state in (State.SUBMITTED, State.RUNNING, State.STOPPING):
            expected = "lost" if self.history.cause is None else stopped(self.history.cause)
            self.feed(facts.LostAfter(), expected)
            assert self.entry.confirmed is False
            return
        self.feed(facts.LostAfter(), expected)

    @rule(pause=pauses)
    def abandoned(self, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        self.feed(facts.Abandoned(), self._held_end())

    @rule(failure=failures, for_good=flags, kept=flags, pause=pauses)
    def secrets_told(self, failure: Failure, for_good: bool, kept: bool, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        due = self.entry.state.terminal and self.entry.holds_secrets
        fact = facts.SecretsKept(failure, for_good) if kept else facts.SecretsRemoved()
        held = self.entry.holds_secrets
        self.feed(fact, self._held_end())
        if due:
            assert self.entry.holds_secrets is (kept and not for_good)
        elif not self.entry.state.terminal:
            assert self.entry.holds_secrets is held, "a live dispatch needs its secrets"

    # --- the worker, and notes -------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(list(EventType)), pause=pauses)
    def worker_said(self, kind: EventType, pause: float = 0.0) -> None:
        self.now += timedelta(seconds=pause)
        self._release()
        expected = self._held_end()
        before = dict(self.seen_events)
        self.feed(facts.WorkerSaid(kind), expected)
        for forged in set(EventType) - {EventType.CANCELLED, EventType.PROGRESS, EventType.HEARTBEAT}:
            if not expected:
                assert self.seen_events[forged] == before.get(forged, 0), "a worker speaks only for itself"

    @rule(seconds=st.sampled_from([0.0, 5.0, 100.0]), output=st.booleans())
    def listened(self, seconds: float, output: bool) -> None:
        self._release()
        told = self.sequence
        expected = self._held_end()
        self.feed(facts.Listened(seconds, output), expected)
        assert expected or self.sequence == told, "that somebody listened is no event"

    @rule(code=st.sampled_from([0, 1]))
    def late_result(self, code: int) -> None:
        self._release()
        self.feed(facts.Noted("late_result", {"exit_code": code}), self._held_end())
        notes = [note.data for note in self.entry.notes if note.type == "late_result"]
        assert notes.count({"exit_code": code}) == 1

    # --- the contract, once more -----------------------------------------------------------------------------

    def _submits(self, owner: str) -> bool:
        return self.history.submitter is not None and self.history.submitter[0] == owner

    def _submitter_gone(self) -> bool:
        return self.history.submitter is None or self.history.submitter[1] <= self.now

    def _surely_unsent(self) -> bool:
        return self.history.submitted and self.history.submitter is None and not self.history.may_have_been_sent

    def _release(self) -> None:
        """Claims that have run out hold nothing any more; their attempts may have reached the backend."""
        for one in self.history.attempts:
            if one.fate == "open" and one.until <= self.now and self.history.held is not None:
                one.fate = "may have reached"

    def _held_end(self) -> str | None:
        """The end that is due because it was held and nobody sends any more."""
        held = self.history.held
        if held is None or self.entry.state.terminal or self.history.claimed(self.now):
            return None
        self.history.held = None
        return end_of(self.history, held)

    def _after_seen(self, seen: Observation) -> str | None:
        if not seen.reachable:
            return None
        self.history.seen = True
        if seen.phase is Phase.ENDED:
            if self.history.claimed(self.now) and seen.stop_reached is not False:
                self.history.held = seen
                return None
            for one in self.history.attempts:
                if one.fate == "open" and one.until <= self.now:
                    one.fate = "may have reached"
            return end_of(self.history, seen)
        if seen.phase is Phase.RUNNING and self.entry.state is State.SUBMITTED:
            return "running"
        return None

    def _absent_end(self) -> str:
        if self.history.accepted and self.history.cause is not None:
            return stopped(self.history.cause)
        return "lost"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_is_told_in_whatever_order_the_contract_holds() -> None:
    run_state_machine_as_test(
        Dispatches,
        settings=settings(
            max_examples=500,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=[Phases.generate, Phases.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def told(entry: Entry, *said: facts.Fact, now: datetime = START) -> tuple[Entry, list[EventType]]:
    """Apply facts in order."""
    events: list[EventType] = []
    for fact in said:
        change = state.apply(entry, fact, now)
        entry = change.entry
        events += [event.type for event in change.events]
    return entry, events


LEASE = Lease(owner="p1", until=START + timedelta(seconds=15))
CAUSE = Cause(actor="ann", via=Via.CLI, reason="enough")
RUNNING = (
    facts.SubmitBegan(LEASE),
    facts.Started(HANDLE.model_copy(update={"first": Observation(phase=Phase.RUNNING)}), "p1"),
)
SENT = (facts.AttemptBegan("stop", LEASE),)
TAKEN = facts.AttemptAnswered(1, StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=30.0), shorten=True)
EXITED = Observation(phase=Phase.ENDED, exit_code=0)


@pytest.mark.parametrize("first", ["the cancel", "the end"])
def test_of_a_cancel_and_an_end_the_first_recorded_decides_and_there_is_one_terminal_event(first: str) -> None:
    cancel = (facts.CancelAsked(CAUSE), *SENT, TAKEN)
    if first == "the cancel":
        entry, events = told(new_entry(), *RUNNING, *cancel, facts.Seen(EXITED))
        assert (entry.state, entry.exit_code, entry.confirmed) == (State.CANCELLED, 0, True)
    else:
        entry, events = told(new_entry(), *RUNNING, facts.Seen(EXITED), *cancel)
        assert (entry.state, entry.exit_code, entry.cause) == (State.SUCCEEDED, 0, None)
    assert events.count(EventType.TERMINATED) == 1


@pytest.mark.parametrize("code", [0, 42, 137, 143])
def test_no_exit_code_decides_who_ended_it(code: int) -> None:
    seen = Observation(phase=Phase.ENDED, exit_code=code)
    asked = (*RUNNING, facts.CancelAsked(CAUSE))
    stopped, _ = told(new_entry(), *asked, *SENT, TAKEN, facts.Seen(seen))
    assert (stopped.state, stopped.exit_code) == (State.CANCELLED, code)
    by_itself, _ = told(new_entry(), *asked, facts.Seen(seen))
    assert by_itself.state is (State.SUCCEEDED if code == 0 else State.FAILED)
    proven, _ = told(
        new_entry(), *asked, *SENT, TAKEN, facts.Seen(seen.model_copy(update={"stop_reached": False}))
    )  # fmt: skip
    assert proven.state is by_itself.state


def test_a_first_request_of_whoever_sends_at_once_begins_the_first_attempt() -> None:
    claimed = facts.CancelAsked(CAUSE, claim=LEASE)
    in_one, events = told(new_entry(), *RUNNING, claimed)
    in_two, twice = told(new_entry(), *RUNNING, facts.CancelAsked(CAUSE), *SENT)
    assert (in_one, events) == (in_two, twice)
    forced, _ = told(new_entry(), *RUNNING, facts.CancelAsked(CAUSE, force=True, claim=LEASE))
    assert forced.attempt is not None
    assert (forced.attempt.kind, forced.attempts) == ("kill", 1)
    unknown, _ = told(new_entry(), facts.SubmitBegan(LEASE), claimed)
    assert (unknown.state, unknown.attempt) == (State.STOPPING, None), "there is nothing to send it to"
    later = facts.CancelAsked(CAUSE, force=True, claim=Lease(owner="p2", until=LEASE.until))
    for before in (in_one, told(in_one, TAKEN)[0]):
        assert told(before, later)[0].attempt == before.attempt, "a later request takes no claim"


def test_an_end_seen_while_an_attempt_is_unanswered_is_held_until_it_is_answered() -> None:
    sending, _ = told(new_entry(), *RUNNING, facts.CancelAsked(CAUSE), *SENT)
    held, events = told(sending, facts.Seen(EXITED))
    assert (held.state, events) == (State.STOPPING, [])
    failure = Failure(type="unreachable", message="no")
    for answer, expected in (
        (facts.AttemptAnswered(1, failure=failure, sent=False), State.SUCCEEDED),
        (facts.AttemptAnswered(1, failure=failure, sent=True), State.CANCELLED),
        (TAKEN, State.CANCELLED),
        (facts.AttemptAnswered(1, StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=EXITED)), State.SUCCEEDED),
    ):
        assert told(held, answer)[0].state is expected
    gone, _ = told(held, facts.LookFailed(failure), now=START + timedelta(seconds=16))
    assert (gone.state, gone.exit_code, gone.confirmed) == (State.CANCELLED, 0, True)


def test_a_force_that_comes_while_the_stop_is_on_its_way_is_carried_out_once_it_is_answered() -> None:
    forced = facts.CancelAsked(Cause(actor="bob", via=Via.API), force=True)
    entry, events = told(new_entry(), *RUNNING, facts.CancelAsked(CAUSE), *SENT, forced, TAKEN)
    assert entry.stop_by == START
    assert entry.cause == CAUSE
    assert events.count(EventType.STOPPING) == 2
    unable = facts.AttemptAnswered(1, StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=30.0), shorten=False)
    entry, _ = told(new_entry(), *RUNNING, facts.CancelAsked(CAUSE), *SENT, forced, unable)
    assert (entry.stop_by, entry.degraded) == (None, ("force",))


def test_a_dispatch_that_ended_without_proof_is_still_claimed_by_whoever_sends() -> None:
    sending, _ = told(new_entry(), *RUNNING, facts.CancelAsked(CAUSE), *SENT, facts.LostAfter())
    assert (sending.state, sending.confirmed) == (State.CANCELLED, False)
    other = facts.AttemptBegan("kill", Lease(owner="p2", until=START + timedelta(seconds=15)))
    assert state.apply(sending, other, START).answer is None
    assert state.apply(sending, other, START + timedelta(seconds=16)).answer == 2


def test_several_supervisors_count_the_same_time_away_once() -> None:
    entry, _ = told(new_entry(), *RUNNING)
    away = Failure(type="unreachable", message="no")
    for second in range(11):
        for each in range(5):
            failed = facts.LookFailed(away, 0.0 if second == 0 else 1.0)
            entry, _ = told(entry, failed, now=START + timedelta(seconds=second, milliseconds=each))
    assert entry.away_seconds == pytest.approx(10.0, abs=0.01)
    entry, _ = told(entry, facts.Seen(Observation(phase=Phase.RUNNING)), now=START + timedelta(seconds=12))
    assert (entry.away_seconds, entry.reachable) == (0.0, True)
    entry, _ = told(entry, facts.LookFailed(away, 60.0), now=START + timedelta(seconds=60))
    assert entry.away_seconds == 0.0, "somebody had an answer in between"


def test_a_node_that_is_away_behind_an_api_that_answers_counts_too() -> None:
    entry, _ = told(new_entry(), *RUNNING)
    away = Observation(phase=Phase.RUNNING, reachable=False, reason="node_away")
    entry, _ = told(entry, facts.LookFailed(Failure(type="unreachable", message="connection refused"), 0.0))
    for second in range(11):
        entry, _ = told(entry, facts.Seen(away, 0.0 if second == 0 else 1.0), now=START + timedelta(seconds=second))
    assert (entry.state, entry.reachable, entry.reason) == (State.RUNNING, False, "node_away")
    assert entry.away_seconds == pytest.approx(10.0, abs=0.01)
    entry, _ = told(entry, facts.Seen(Observation(phase=Phase.RUNNING)), now=START + timedelta(seconds=12))
    assert (entry.away_seconds, entry.reachable, entry.reason) == (0.0, True, None)


def test_what_was_seen_or_is_being_sent_is_never_sent_again() -> None:
    later = START + timedelta(seconds=16)
    again = facts.ResubmitBegan(Lease(owner="p2", until=later + timedelta(seconds=15)))
    sent, _ = told(new_entry(), facts.SubmitBegan(LEASE))
    assert state.apply(sent, again, START).answer is False
    assert state.apply(sent, again, later).answer is True
    found, _ = told(sent, facts.Started(HANDLE))
    assert found.state is State.SUBMITTED
    assert state.apply(found, again, later).answer is False


AWAY = Failure(type="unreachable", message="connection refused")
UNSENT = (facts.SubmitBegan(LEASE), facts.SubmitUnknown(LEASE.owner, AWAY, sent=False))


def test_a_submit_that_certainly_sent_nothing_is_over_at_the_cancel() -> None:
    entry, _ = told(new_entry(), *UNSENT)
    assert (entry.state, entry.reachable) == (State.SUBMITTED, False)
    change = state.apply(entry, facts.CancelAsked(CAUSE), START)
    assert change.answer is Outcome.CANCELLED
    assert (change.entry.state, change.entry.confirmed) == (State.CANCELLED, True)
    assert (change.entry.reason, change.entry.exit_code) == ("never_submitted", None)


def test_a_request_that_came_during_the_submit_is_over_when_nothing_was_sent() -> None:
    entry, _ = told(new_entry(), facts.SubmitBegan(LEASE), facts.CancelAsked(CAUSE))
    assert entry.state is State.STOPPING
    entry, events = told(entry, facts.SubmitUnknown(LEASE.owner, AWAY, sent=False))
    assert (entry.state, entry.confirmed, events.count(EventType.TERMINATED)) == (State.CANCELLED, True, 1)


def test_what_may_have_been_sent_once_proves_nothing_any_more() -> None:
    later = START + timedelta(seconds=16)
    again = facts.ResubmitBegan(Lease(owner="p2", until=later + timedelta(seconds=15)))
    unsent_again = facts.SubmitUnknown("p2", AWAY, sent=False)
    unanswered = (facts.SubmitBegan(LEASE), facts.SubmitUnknown(LEASE.owner, AWAY), again, unsent_again)
    sender_died = (facts.SubmitBegan(LEASE), again, unsent_again)
    for way in (unanswered, sender_died, (facts.SubmitBegan(LEASE),)):
        entry, _ = told(new_entry(), *way, facts.CancelAsked(CAUSE), now=later)
        assert entry.state is State.STOPPING, way
        entry, _ = told(entry, facts.NeverSeen(proves_never_started=False), now=later + timedelta(seconds=16))
        assert (entry.state, entry.confirmed) == (State.CANCELLED, False), way
    twice, _ = told(new_entry(), *UNSENT, again, unsent_again, facts.CancelAsked(CAUSE), now=later)
    assert (twice.state, twice.confirmed) == (State.CANCELLED, True)


@pytest.mark.parametrize("over", [False, True])
def test_a_second_copy_is_noted_once_and_changes_nothing_else(over: bool) -> None:
    end = facts.Seen(Observation(phase=Phase.ENDED, exit_code=0, native={"pod": "a"}))
    entry, _ = told(new_entry(), *RUNNING, *([end] if over else []))
    copy = Observation(phase=Phase.RUNNING, reason="second_copy", message="it is killed", native={"pod": "b"})
    after, events = told(entry, facts.Seen(copy), facts.Seen(copy))
    assert events == []
    assert [note.data for note in after.notes] == [{"message": "it is killed", "pod": "b"}]
    assert after.model_copy(update={"notes": ()}) == entry
