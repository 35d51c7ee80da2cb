"""Starts that are put off: never before their time, never twice, and never after a cancel."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from agora import AgoraClient, DispatchConflict, InvalidRequest, Outcome, State, hookimpl
from agora.client import supervision
from agora.client.combinators import Member
from agora.client.handle import DispatchHandle
from agora.config import Settings
from agora.engine.plan import Action, Bounds, Step, next_step
from agora.errors import Unreachable, Vetoed
from agora.model.cause import Cause, Via
from agora.model.record import Entry, Lease, Record
from agora.state import CancelAsked, CreatorGone, Fact, SubmitBegan, apply
from agora.testing import FakeClient

Make = Callable[..., Entry]
MakeSettings = Callable[..., Settings]
Run = Callable[..., Any]

BOUNDS = Bounds(lost_after=3600, abandon_after=86_400)
START = datetime(2031, 1, 1, tzinfo=UTC)
SOON = START + timedelta(seconds=600)
CAUSE = Cause(actor="ann", via=Via.CLI)


def lease(owner: str, at: datetime) -> Lease:
    """A claim of 15 s."""
    return Lease(owner=owner, until=at + timedelta(seconds=15))


@pytest.fixture
def timer(make_entry: Make) -> Entry:
    """A dispatch that starts in ten minutes, recorded by a process that nobody has heard of since."""
    return make_entry("d1", requested_at=START, start_at=SOON, submitter=None)


# --- the rules, by a clock of the test's own -----------------------------------------------------------------


def test_it_is_due_at_its_time_and_not_before(timer: Entry) -> None:
    for seconds in (0, 16, 599.999):
        now = START + timedelta(seconds=seconds)
        assert next_step(timer, now, BOUNDS) == Step(None, SOON)
        assert not apply(timer, SubmitBegan(lease("p1", now)), now).answer, "a claim before its time"
        assert not apply(timer, CreatorGone(), now).answer, "it waits for no process"
    assert next_step(timer, SOON, BOUNDS).action is Action.SUBMIT
    year_late = SOON + timedelta(days=365)
    assert next_step(timer, year_late, BOUNDS).action is Action.SUBMIT
    change = apply(timer, SubmitBegan(lease("p1", year_late)), year_late)
    assert (change.entry.state, change.entry.submitted_at) == (State.SUBMITTED, year_late)
    assert change.entry.deadline == year_late + timedelta(seconds=timer.timeout), "the deadline counts from there"


def test_a_cancelled_timer_never_fires(timer: Entry) -> None:
    asked = apply(timer, CancelAsked(CAUSE), START)
    assert asked.answer is Outcome.CANCELLED
    assert (asked.entry.state, asked.entry.confirmed, asked.entry.reason) == (State.CANCELLED, True, "never_submitted")
    for later in (START, SOON, SOON + timedelta(days=1)):
        assert next_step(asked.entry, later, BOUNDS) == Step(None, None)
        fired = apply(asked.entry, SubmitBegan(lease("p1", later)), later)
        assert (fired.answer, fired.entry, fired.events) == (False, asked.entry, ())


@pytest.mark.parametrize("first", ["the cancel", "the start"])
def test_in_one_instant_the_first_recorded_wins(timer: Entry, first: str) -> None:
    facts: list[Fact] = [SubmitBegan(lease("p1", SOON)), CancelAsked(CAUSE), SubmitBegan(lease("p2", SOON))]
    if first == "the cancel":
        facts[:2] = facts[1::-1]
    entry, answers = timer, []
    for fact in facts:
        change = apply(entry, fact, SOON)
        entry = change.entry
        answers.append(change.answer)
    if first == "the cancel":
        assert answers == [Outcome.CANCELLED, False, False]
        assert (entry.state, entry.submitted_at, entry.submitter) == (State.CANCELLED, None, None)
    else:
        assert answers == [True, Outcome.STOPPING, False]
        assert (entry.state, entry.submitted_at) == (State.STOPPING, SOON)
        assert entry.submitter == lease("p1", SOON), "and its sender sees the request before it sends"


def test_an_owner_that_dies_before_its_time_takes_it_along(timer: Entry) -> None:
    owned = timer.model_copy(update={"owned": lease("p1", START)})
    assert next_step(owned, START, BOUNDS).due == START + timedelta(seconds=15)
    assert next_step(owned, SOON, BOUNDS).action is Action.OWNER_GONE


def test_one_without_a_start_whose_creator_died_still_fails(make_entry: Make) -> None:
    entry = make_entry("d1", submitter=lease("gone", START))
    later = START + timedelta(seconds=16)
    assert next_step(entry, later, BOUNDS).action is Action.CREATOR_GONE
    assert apply(entry, CreatorGone(), later).entry.state is State.FAILED


# --- many processes ------------------------------------------------------------------------------------------


def test_cancels_in_the_instant_of_the_start_and_two_supervisors_start_each_once_or_never(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    before, *raced, after = [f"d{number}" for number in range(30)]
    outcomes: dict[str, Outcome] = {}

    async def work() -> None:
        async with (
            AgoraClient(home, settings=paper_settings()) as one,
            AgoraClient(home, settings=paper_settings()) as two,
            AgoraClient(home, settings=paper_settings()) as third,
        ):
            start_at = datetime.now(UTC) + timedelta(seconds=5)
            for id in (before, *raced, after):
                handle = await one.dispatch(command=("true",), id=id, start_at=start_at)
                assert handle.record.state is State.PENDING

            async def cancel(id: str, seconds: float = 0.0) -> None:
                await anyio.sleep(max(0.0, (start_at - datetime.now(UTC)).total_seconds() + seconds))
                outcomes[id] = (await third.cancel(id)).outcome

            async def settled() -> bool:
                records = await one.list(limit=30)
                return all(record.id in paper.STARTED or record.state is State.CANCELLED for record in records)

            outcomes[before] = (await third.cancel(before)).outcome
            async with anyio.create_task_group() as tasks, one._opened.store.pulse.listen() as ear:
                for client in (one, two):
                    tasks.start_soon(client.supervise)
                async with anyio.create_task_group() as cancels:
                    for number, id in enumerate(raced):
                        cancels.start_soon(cancel, id, (number - 10) * 0.005)
                while not await settled():
                    await ear.wait(1.0)
                await cancel(after)
                tasks.cancel_scope.cancel()
            started = Counter(paper.STARTED)
            for id in (before, *raced, after):
                record = await one.get(id, refresh=False)
                if outcomes[id] is Outcome.CANCELLED:
                    assert (started[id], record.state, record.submitted_at) == (0, State.CANCELLED, None)
                else:
                    assert outcomes[id] is Outcome.STOPPING
                    assert started[id] == (0 if record.state is State.CANCELLED else 1), "given up, or started once"
            assert (outcomes[before], outcomes[after]) == (Outcome.CANCELLED, Outcome.STOPPING)
            assert started[after] == 1

    run(work())


def test_it_is_on_record_and_looked_after_though_who_asked_was_cancelled(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_after: list[int] = []
    monkeypatch.setattr(supervision, "start", lambda home, settings: looked_after.append(1))
    paper.SILENT.add("check")

    async def work() -> None:
        async with AgoraClient(home, settings=replace(paper_settings(), supervisor=True)) as client:
            caller = asyncio.create_task(client.dispatch(command=("true",), id="d1", delay=600))
            await anyio.lowlevel.checkpoint()  # the target is being asked
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            paper.RELEASE.set()
        async with AgoraClient(home, settings=paper_settings()) as client:
            assert [record.id for record in await client.list(states=["pending"])] == ["d1"]
        assert looked_after == [1]

    run(work())


# --- what is refused, and what is kept -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"delay": -1}, "delay -1"), ({"delay": float("nan")}, "delay nan"), ({"delay": True}, "delay True"),
        ({"delay": "10m"}, "delay '10m'"), ({"delay": 1e12}, "3660 days"), ({"start_at": "2031-01-01"}, "start_at"),
        ({"start_at": datetime(2031, 1, 1)}, "time zone"),  # noqa: DTZ001 - that is what is wrong
        ({"start_at": datetime.max.replace(tzinfo=UTC)}, "3660 days"),
        ({"start_at": datetime.min.replace(tzinfo=UTC)}, "no year"),
        ({"start_at": SOON, "delay": 5}, "one of them"), ({"delay": 5, "secrets": {"TOKEN": "hunter2"}}, "TOKEN"),
        ({"delay": 5, "target": "nowhere"}, "nowhere"), ({"delay": 5, "options": {"x": 1}}, "options.x"),
        ({"delay": 5, "grace": 1}, "grace"), ({"delay": 5, "parent": "nobody"}, "nobody"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_anything_is_recorded(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, fields: dict[str, Any], words: str
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            with pytest.raises(InvalidRequest, match=words) as refused:
                await client.dispatch(**{"command": ("true",), **fields})
            assert "hunter2" not in str(refused.value)
            assert await client.list() == []
            if set(fields) <= {"start_at", "delay"}:
                with pytest.raises(InvalidRequest, match=words):
                    client.batch().add(command=("true",), **fields)
                with pytest.raises(InvalidRequest, match=words):
                    await client.join_all([{"command": ("true",)}, {"command": ("true",), **fields}])
            assert await client.list() == []

    run(work())


def test_the_check_of_its_target_refuses_it_when_it_is_asked_for(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        paper.FAILS["check"] = InvalidRequest("not that way")
        async with AgoraClient(home, settings=paper_settings()) as client:
            with pytest.raises(InvalidRequest, match="not that way"):
                await client.dispatch(command=("true",), delay=600)
            assert await client.list() == []

    try:
        run(work())
    finally:
        paper.FAILS.clear()


def test_of_one_id_the_first_time_stands_and_another_one_is_a_conflict(run: Run) -> None:
    async def work() -> None:
        async with FakeClient() as client:
            at = datetime.now(UTC) + timedelta(hours=1)
            first = await client.dispatch(command=["x"], id="d1", start_at=at)
            assert first.record.start_at == at
            for again in ({"start_at": at}, {"start_at": at.astimezone()}, {"delay": 7200}, {}):
                handle = await client.dispatch(command=["x"], id="d1", **again)
                assert (handle.record.start_at, handle.record.state) == (at, State.PENDING), again
            with pytest.raises(DispatchConflict, match="new id"):
                await client.dispatch(command=["x"], id="d1", start_at=at + timedelta(seconds=1))
            with pytest.raises(DispatchConflict, match="another spec"):
                await client.dispatch(command=["y"], id="d1", start_at=at)
            await client.dispatch(command=["x"], id="now")
            with pytest.raises(DispatchConflict, match="at once"):
                await client.dispatch(command=["x"], id="now", start_at=at)

    run(work())


def test_a_record_says_when_it_starts_and_one_that_started_at_once_says_nothing(run: Run) -> None:
    async def work() -> tuple[Record, Record]:
        async with FakeClient() as client:
            later = await client.dispatch(command=["x"], delay=3600)
            assert later.record.start_at is not None
            [told] = [event.data["start_at"] async for event in later.events()]
            assert told == later.record.start_at.isoformat()
            return later.record, (await client.dispatch(command=["x"])).record

    later, at_once = run(work())
    assert later.start_at is not None
    assert (later.start_at - later.requested_at, later.deadline) == (timedelta(hours=1), None)
    assert "start_at" in later.model_dump(mode="json")
    assert "start_at" not in at_once.model_dump(mode="json")


# --- the start itself ----------------------------------------------------------------------------------------


def test_a_start_that_gets_no_answer_is_tried_again_and_ends_at_its_deadline(run: Run) -> None:
    async def work() -> None:
        async with FakeClient() as client:
            client.backend.away = True
            for id in ("d1", "d2"):
                await client.dispatch(command=["x"], id=id, timeout=600, delay=60)
            await client.advance(61)
            record = await client.get("d1", refresh=False)
            assert (record.state, record.reachable, record.reason) == (State.SUBMITTED, False, "unreachable")
            client.backend.away = False
            await client.advance(20)
            assert (await client.get("d1", refresh=False)).state is State.RUNNING
            assert (await client.finish("d1")).state is State.SUCCEEDED

    run(work())


def test_a_veto_at_its_time_is_a_failed_record(paper: Any, paper_settings: MakeSettings, home: Path, run: Run) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            handle = await client.dispatch(command=("true",), delay=0)
            paper.FAILS["dispatch"] = Vetoed("not today")
            record = await handle.wait(timeout=20)
            assert (record.state, record.reason, record.confirmed) == (State.FAILED, "vetoed", True)

    try:
        run(work())
    finally:
        paper.FAILS.clear()


def test_it_starts_on_the_backend_that_its_target_was_when_it_was_asked_for_and_on_no_other(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    @hookimpl
    def another(self: object) -> str:
        return "paper-2"

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            await client.dispatch(command=("true",), id="d1", delay=0, timeout=60)
        monkeypatch.setattr(paper.Paper, "identity", another)
        async with AgoraClient(home, settings=paper_settings()) as client:
            await client.reconcile()
            record = await client.get("d1", refresh=False)
            assert (record.state, record.reason, paper.STARTED) == (State.SUBMITTED, "unreachable", [])
            assert (await client.cancel("d1")).outcome is Outcome.CANCELLED, "nothing was sent"
            assert paper.STARTED == []

    run(work())


def test_a_backend_that_cannot_be_asked_now_keeps_nobody_from_planning(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        paper.FAILS["identity"] = Unreachable("switched off until then")
        async with AgoraClient(home, settings=paper_settings()) as client:
            handle = await client.dispatch(command=("true",), delay=0)
            paper.FAILS.clear()
            async with anyio.create_task_group() as tasks, client._opened.store.pulse.listen() as ear:
                tasks.start_soon(client.supervise)
                while (await handle.get(refresh=False)).state is not State.RUNNING:
                    await ear.wait(1.0)
                tasks.cancel_scope.cancel()

    try:
        run(work())
    finally:
        paper.FAILS.clear()


def test_the_deadline_of_a_start_that_takes_long_is_kept_by_the_supervisor_that_starts_it(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        paper.SILENT.add("dispatch")  # a pull that goes on and on
        async with AgoraClient(home, settings=paper_settings()) as client:
            handle = await client.dispatch(command=("true",), delay=0, timeout=1)
            async with anyio.create_task_group() as tasks, client._opened.store.pulse.listen() as ear:
                tasks.start_soon(client.supervise)
                while (record := await handle.get(refresh=False)).state is not State.STOPPING:
                    assert await ear.wait(20)
                assert record.cause is not None
                assert record.cause.policy == "timeout"
                paper.RELEASE.set()
                tasks.cancel_scope.cancel()

    run(work())


# --- groups, and tests of users ------------------------------------------------------------------------------


def test_advance_the_clock_and_a_cancelled_timer_has_not_fired(run: Run) -> None:
    async def work() -> None:
        async with FakeClient() as client:
            cancelled = await client.dispatch(command=["x"], delay=600)
            other = await client.dispatch(command=["x"], delay=600, timeout=60)
            result = await cancelled.cancel(reason="not needed")
            assert (result.outcome, result.exit_code) == (Outcome.CANCELLED, 0)
            await client.advance(599)
            assert client.backend.workloads == {}
            await client.advance(2)
            assert set(client.backend.workloads) == {other.id}
            assert (await other.get()).state is State.RUNNING
            await client.advance(61)
            assert (await other.wait()).state is State.TIMED_OUT
            assert set(client.backend.workloads) == {other.id}

    run(work())


def test_a_parent_that_is_cancelled_takes_along_what_would_start_later(run: Run) -> None:
    async def work() -> None:
        async with FakeClient(actor="ann") as client:
            parent = await client.dispatch(command=["x"])
            child = await client.dispatch(command=["x"], parent=parent.id, delay=600)
            ended = await client.dispatch(command=["x"])
            orphan = await client.dispatch(command=["x"], parent=ended.id, delay=600)
            await client.finish(ended.id)
            result = await parent.cancel(reason="enough")
            assert [(one.id, one.outcome) for one in result.children] == [(child.id, Outcome.CANCELLED)]
            record = await child.get()
            assert (record.state, record.cause and record.cause.policy) == (State.CANCELLED, "parent_cancelled")
            await client.advance(601)
            assert child.id not in client.backend.workloads
            assert orphan.id in client.backend.workloads, "a parent that ended by itself stops nothing"

    run(work())


def test_members_of_groups_and_batches_may_start_later(run: Run) -> None:
    async def work() -> None:
        async with FakeClient() as client:
            members: list[Member] = [{"command": ["a"], "id": "a"}, {"command": ["b"], "id": "b", "delay": 3600}]
            raced = asyncio.create_task(client.race(members))
            await started(client, "a")
            await client.finish("a")
            [loser] = (await raced).losers
            assert (loser.state, loser.submitted_at) == (State.CANCELLED, None)

            members = [{"command": ["c"], "id": "c"}, {"command": ["d"], "id": "d", "delay": 3600}]
            async with aclosing(client.as_completed(members)) as records:
                first = asyncio.create_task(anext(records))
                await started(client, "c")
                await client.finish("c")
                assert (await first).id == "c"
                assert (await client.get("d")).state is State.PENDING
            left = await client.get("d")
            assert (left.state, left.cause and left.cause.policy) == (State.CANCELLED, "owner_gone")

            batch = client.batch("nightly")
            batch.add(command=["x"], delay=600)
            batch.add(command=["y"])
            later, at_once = await batch.commit()
            assert (later.record.state, at_once.record.state) == (State.PENDING, State.RUNNING)

            async def left_by_an_error() -> None:
                async with client.run("nightly") as scope:
                    scoped.append(await scope.dispatch("later", command=["x"], delay=600))
                    raise ZeroDivisionError

            scoped: list[DispatchHandle] = []
            with pytest.raises(ZeroDivisionError):
                await left_by_an_error()
            [member] = scoped
            assert (await client.get(member.id)).state is State.CANCELLED
            assert set(client.backend.workloads) == {"a", "c", at_once.id}

    run(work())


async def started(client: FakeClient, id: str) -> None:
    """Wait until a workload is there."""
    async with client._opened.store.pulse.listen() as ear:
        while id not in client.backend.workloads:
            await ear.wait(1.0)
