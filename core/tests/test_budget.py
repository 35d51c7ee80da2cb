"""What a dispatch has spent, and when that is too much: the pure rules, against sums that are kept beside them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, BlockingClient, DispatchNotFound, InvalidRequest, state
from agora.config import Settings
from agora.engine.listen import facts_of
from agora.engine.plan import Action, Bounds, next_step
from agora.model import spec as model
from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.observation import Handle
from agora.model.record import Entry, Lease, State
from agora.model.spec import Spec
from agora.state import budget, facts
from agora.state.machine import MAX_WORKER_EVENTS
from agora.worker import spending as worker
from hypothesis import given
from hypothesis import strategies as st

START = datetime(2031, 1, 1, tzinfo=UTC)
BOUNDS = Bounds(lost_after=3600, abandon_after=604_800)


def running(**fields: Any) -> Entry:
    """A dispatch that runs."""
    values: dict[str, Any] = {
        "id": "d1", "target": "t", "provider": "p", "state": State.RUNNING, "grace": 30, "timeout": 86_400,
        "requested_at": START, "submitted_at": START, "deadline": START + timedelta(days=1), "started_at": START,
        "installation": "i", "spec": {}, "digest": "x", "sequence": 3, "seen": True, "reachable": True,
        "handle": Handle(id="d1", backend="b"), **fields,
    }  # fmt: skip
    return Entry(**values)


def after(entry: Entry, *told: facts.Fact) -> Entry:
    """The entry after some facts."""
    for fact in told:
        entry = state.apply(entry, fact, START + timedelta(seconds=1)).entry
    return entry


def due(entry: Entry) -> Action | None:
    """What is to be done."""
    return next_step(entry, START + timedelta(seconds=2), BOUNDS).action


def said(number: int, source: str = "a", **spent: object) -> facts.WorkerSaid:
    """A process of the workload tells its totals."""
    return facts.WorkerSaid(EventType.PROGRESS, {"spent": spent}, source, number)


amounts = st.integers(0, 50) | st.floats(0, 50, allow_nan=False)
calls = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "outside"]), st.sampled_from("xy"), amounts), max_size=40)


@given(calls=calls, seen=st.lists(st.booleans(), min_size=40, max_size=40))
def test_totals_are_those_of_all_and_a_budget_is_exceeded_as_soon_as_they_are(
    calls: list[tuple[str, str, float]], seen: list[bool]
) -> None:
    entry = running(budget={"x": 100.0})
    kits = {source: worker.Spending({}) for source in "abc"}
    told: dict[tuple[str, str], float] = {}
    for number, ((source, unit, amount), is_seen) in enumerate(zip(calls, seen, strict=False), 1):
        if source == "outside":
            entry = after(entry, facts.Spent({unit: amount}))
            told[source, unit] = told.get((source, unit), 0) + amount
        else:
            kits[source].add({unit: amount})
            if is_seen:  # what is told again later includes what got lost
                fact = said(number, source, **kits[source].totals())
                entry = after(entry, fact, fact)
                told |= {(source, name): total for name, total in kits[source].totals().items()}
        for name in "xy":
            real = sum(total for (_, of), total in told.items() if of == name)
            assert entry.spent.get(name, 0) == pytest.approx(real, rel=1e-9)
        assert (entry.exceeded is not None) is (entry.spent.get("x", 0) > 100)
        assert due(entry) is (Action.BUDGET if entry.exceeded else None)


def test_a_process_that_is_started_again_adds_to_the_sum_and_says_what_is_exceeded() -> None:
    entry = running(budget={"usd": 5.0, "tokens": 200_000.0})
    entry = after(entry, said(1, "a", tokens=150_000, usd=1.5), said(2, "a", tokens=160_000, usd=1.5))
    assert (entry.spent, entry.exceeded, due(entry)) == ({"tokens": 160_000, "usd": 1.5}, None, None)
    entry = after(entry, said(1, "b", tokens=40_000))
    assert (entry.exceeded, due(entry)) == (None, None), "all of it, and no more"
    entry = after(entry, said(2, "b", tokens=40_123))
    assert (entry.exceeded, due(entry)) == ("200000 tokens exceeded: 200123", Action.BUDGET)
    assert (entry.public().spent, entry.public().budget) == (entry.spent, entry.budget)


def test_sums_of_fractions_exceed_nothing() -> None:
    kit = worker.Spending({"usd": 0.3})
    assert [kit.add({"usd": 0.1}) for _ in range(3)] == [False] * 3
    entry = after(running(budget={"usd": 0.3}), *[facts.Spent({"usd": 0.1})] * 3)
    assert (kit.totals(), entry.spent, entry.exceeded) == ({"usd": 0.3}, {"usd": 0.3}, None)
    assert kit.add({"usd": 1e-9})
    assert after(entry, facts.Spent({"usd": 1e-9})).exceeded


def test_only_what_was_not_asked_to_stop_is_cancelled_and_the_deadline_goes_first() -> None:
    spent: dict[str, Any] = {"budget": {"x": 1.0}, "spent": {"x": 2.0}}
    lease = Lease(owner="o", until=START + timedelta(seconds=10))
    assert due(running(**spent, state=State.SUBMITTED, handle=None, submitter=lease)) is Action.BUDGET
    assert due(running(**spent, deadline=START)) is Action.TIME_OUT
    assert due(running(**spent, reachable=False)) is Action.BUDGET, "who is away has spent it all the same"
    assert due(running(**spent, state=State.PENDING, handle=None, submitter=lease)) is None
    assert due(running(**spent, state=State.CANCELLED, confirmed=True)) is None
    asked = after(running(**spent), facts.CancelAsked(Cause(actor="ann", via=Via.API)))
    assert due(asked) is Action.STOP
    assert asked.cause is not None
    assert asked.cause.actor == "ann"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, True, "7", None, [1], 10**400, 2e15])
def test_what_is_no_amount_is_refused_by_the_worker_and_ignored_in_an_event(wrong: Any) -> None:
    kit = worker.Spending({})
    kit.add({"x": 1})
    with pytest.raises(ValueError, match="no number from 0"):
        kit.add({"y": 1, "x": wrong})
    assert kit.totals() == {"x": 1}, "all or none"
    with pytest.raises(InvalidRequest, match="'x'"):
        budget.checked({"y": 1, "x": wrong})
    entry = after(running(budget={"x": 1.0}), said(1, x=wrong, y=2), said(2, x=wrong, y=3))
    assert (entry.spent, entry.exceeded) == ({"y": 3}, None)
    assert [(note.type, note.data) for note in entry.notes] == [("refused_spending", {"why": "no number from 0 on"})]
    odd = after(running(), facts.WorkerSaid(EventType.PROGRESS, {"spent": wrong}, "a", 1))
    assert odd.spent == {}


@given(name=st.text(alphabet="aZ09_.-é \n", max_size=26))
def test_the_worker_and_the_spec_agree_about_units(name: str) -> None:
    assert worker.is_unit(name) is (budget._UNIT.fullmatch(name) is not None)
    assert (worker.MOST_UNITS, worker.MOST, worker.KEY) == (model.MAX_UNITS, model.MAX_AMOUNT, budget.KEY)


def test_units_and_processes_are_counted_up_to_a_bound_and_what_has_a_budget_always_is() -> None:
    many = {f"u{number}": 1.0 for number in range(model.MAX_UNITS)}
    entry = after(running(budget={"x": 10.0}), facts.Spent(many), facts.Spent({"x": 11}))
    assert entry.exceeded == "10 x exceeded: 11"
    assert len(entry.spent) == model.MAX_UNITS
    assert [note.data["why"] for note in entry.notes] == ["more than 16 units"]
    with pytest.raises(ValueError, match="more than 16 units"):
        worker.Spending({}).add({**many, "x": 1})
    full = running(budget={"x": 1e9}, spending={f"{number:x}": {"x": 1.0} for number in range(budget.MAX_SOURCES)})
    full = after(full, said(1, "new", x=5), said(1, "1", x=2), facts.Spent({"x": 1}))
    assert full.spent == {"x": budget.MAX_SOURCES + 2}
    assert [note.data["why"] for note in full.notes] == ["more than 1000 processes"]


def test_events_beyond_the_limit_and_a_progress_without_totals() -> None:
    entry = after(running(budget={"x": 1.0}), said(MAX_WORKER_EVENTS + 1, x=2))
    assert (entry.sequence, due(entry)) == (3, Action.BUDGET)
    assert after(running(), facts.WorkerSaid(EventType.PROGRESS, {"done": 1}, "a", 1)).spending == {}
    assert after(running(), facts.WorkerSaid(EventType.HEARTBEAT, {"spent": {"x": 1}}, "a", 1)).spending == {}


def test_what_is_heard_after_the_end_is_counted_once_and_changes_nothing_else() -> None:
    def mark(number: int, source: str, total: float) -> bytes:
        event = {"id": f"{source}.{number}", "type": "dispatch.progress", "subject": "d1", "sequence": number}
        return json.dumps({**event, "data": {"spent": {"x": total}}}).encode()

    ended = running(state=State.SUCCEEDED, confirmed=True, ended_at=START, budget={"x": 1.0}, spending={"a": {"x": 1}})
    marks = [mark(1, "a", 1), mark(2, "a", 5), *(mark(1, f"{number:x}", 1) for number in range(20, 40))]
    late = after(ended, *facts_of(ended, marks))
    assert (late.state, late.spent, due(late)) == (State.SUCCEEDED, {"x": 25}, None)
    assert facts_of(late, marks) == [], "however many processes it had"


def test_a_spec_without_a_budget_is_the_same_as_before_there_were_any() -> None:
    plain, bounded = Spec(command=("true",)), Spec(command=("true",), budget={"tokens": 200_000, "usd": 0.1})
    assert "budget" not in plain.public()
    assert plain.digest() == "de0aa0a6eb21bd850f20ed70fa08d4e1b4c2059d"
    assert bounded.public()["budget"] == {"tokens": 200_000.0, "usd": 0.1}
    assert bounded.with_worker("d1").env["AGORA_WORKER_BUDGET"] == "tokens=200000.0,usd=0.1"
    assert bounded.with_worker("d1").digest() == bounded.digest() != plain.digest()
    assert Spec.model_validate(bounded.public() | {"secrets": {}}) == bounded
    assert Spec(command=("true",), budget={"usd": 0.1, "tokens": 200_000.0}).digest() == bounded.digest()
    wrong: list[Any] = [{"x": 0}, {"x": -1}, {"x": float("nan")}, {"x": float("inf")}, {"x": True}, {"x": "7"}, {"": 1}]
    wrong += [{"a b": 1}, {"a" * 25: 1}, {f"u{number}": 1 for number in range(17)}, {"x": 2e15}, ["x"]]
    for one in wrong:
        with pytest.raises(ValueError, match="budget"):
            Spec(command=("true",), budget=one)


def test_a_client_adds_what_was_counted_outside(home: Path, paper_settings: Callable[..., Settings]) -> None:
    with BlockingClient(home, settings=paper_settings()) as client:
        handle = client.dispatch(command=("true",), id="d1", budget={"tokens": 10})
        assert handle.record.spent == {}
        assert handle.spend(tokens=4, id=1).spent == {"tokens": 4, "id": 1}
        assert client.spend("d1", tokens=6).spent == {"tokens": 10, "id": 1}
        for wrong in ({}, {"tokens": -1}, {"a b": 1}):
            with pytest.raises(InvalidRequest):
                client.spend("d1", **wrong)
        with pytest.raises(DispatchNotFound):
            client.spend("d2", tokens=1)
    with BlockingClient(home, settings=paper_settings()) as again:
        assert again.get("d1", refresh=False).spent == {"tokens": 10, "id": 1}


def test_an_event_that_is_handed_in_exceeds_a_budget(
    home: Path, paper_settings: Callable[..., Settings], run: Callable[..., Any]
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            env = {"AGORA_WORKER_URL": "http://127.0.0.1:1/"}
            handle = await client.dispatch(command=("true",), id="d1", budget={"tokens": 10}, env=env)
            data = {"done": 1, "spent": {"tokens": 11}}
            event = {"id": "abc.1", "type": "dispatch.progress", "subject": "d1", "sequence": 1, "data": data}
            assert await client.hear(json.dumps(event).encode())
            await client.reconcile()
            record = await handle.get(refresh=False)
            assert record.cause is not None
            assert (record.cause.actor, record.cause.via, record.cause.policy) == ("agora", Via.POLICY, "budget")
            assert record.cause.reason == "budget of 10 tokens exceeded: 11"

    run(work())
