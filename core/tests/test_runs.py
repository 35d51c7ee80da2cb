"""Runs on a backend in memory: which outcome is written, when, and what a run that is over takes."""

import asyncio
import pickle
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import anyio
import pytest
from agora import (
    AgoraError,
    DispatchCancelled,
    DispatchConflict,
    DispatchFailed,
    InvalidRequest,
    Outcome,
    Run,
    RunOutcome,
    State,
)
from agora.errors import DamagedRecord, StoreError
from agora.model.ids import check_dispatch_id, member_id
from agora.testing import FakeClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Use what the client runs on."""
    return "asyncio"


async def leave(client: FakeClient, name: str, program: Callable[[Run], Awaitable[object]]) -> Run:
    """Run a program in the scope of a run."""
    async with client.run(name) as run:
        await program(run)
    return run


async def cancelled(run: Run, name: str, reason: str = "enough") -> DispatchCancelled:
    """Dispatch a member and cancel it; return what its result raises."""
    await run.dispatch(name, command=["x"])
    await run.cancel(name, reason=reason)
    with pytest.raises(DispatchCancelled) as raised:
        await run.result(name, timeout=30)
    return raised.value


# --- outcomes ------------------------------------------------------------------------------------------------


async def test_a_run_that_is_left_normally_waits_for_its_members_and_has_succeeded() -> None:
    async with FakeClient() as client:
        last = anyio.Event()

        async def finish() -> None:
            await last.wait()
            await client.finish("nightly-two", exit_code=3)

        async with anyio.create_task_group() as tasks, client.run("nightly") as run:
            tasks.start_soon(finish)
            await run.dispatch("one", command=["x"])
            await client.finish("nightly-one")
            await run.dispatch("two", command=["x"])
            last.set()
        assert run.outcome is not None
        assert run.outcome == await client.run_outcome("nightly")
        assert (run.outcome.state, run.outcome.dispatch_id, run.outcome.error) == (State.SUCCEEDED, None, None)
        two = await client.get("nightly-two")
        assert two.state is State.FAILED
        assert two.ended_at is not None
        assert two.ended_at <= run.outcome.ended_at


async def test_a_cancelled_member_that_is_caught_does_not_end_its_run() -> None:
    async with FakeClient(actor="ann") as client:
        async with client.run("nightly") as run:
            error = await cancelled(run, "slow", "too slow")
            assert (error.dispatch_id, error.run, error.name, error.reason) == (
                "nightly-slow", "nightly", "slow", "too slow",
            )  # fmt: skip
            assert (await client.finish((await run.dispatch("next", command=["x"])).id)).state is State.SUCCEEDED
        assert run.outcome is not None
        assert run.outcome.state is State.SUCCEEDED


async def test_one_that_is_not_caught_cancels_the_run_and_what_else_is_live_in_it() -> None:
    async with FakeClient(actor="ann") as client:

        async def program(run: Run) -> None:
            await run.dispatch("other", command=["x"])
            await client.dispatch(command=["x"], id="stranger", run="nightly")
            raise await cancelled(run, "slow", "too slow")

        with pytest.raises(DispatchCancelled):
            await leave(client, "nightly", program)
        outcome = await client.run_outcome("nightly")
        assert outcome is not None
        assert (outcome.state, outcome.dispatch_id, outcome.name) == (State.CANCELLED, "nightly-slow", "slow")
        assert (outcome.reason, outcome.error) == ("too slow", "DispatchCancelled")
        assert outcome.cause is not None
        assert outcome.cause.actor == "ann"
        other = await client.wait("nightly-other", timeout=30)
        assert other.cause is not None
        assert (other.state, other.cause.policy) == (State.CANCELLED, "owner_gone")
        assert (await client.get("stranger")).state is State.RUNNING, "the run did not dispatch it"


async def test_another_exception_fails_the_run_by_its_class_and_never_its_words() -> None:
    class Odd(Exception):
        """The program's own."""

    async with FakeClient() as client:
        with pytest.raises(Odd):
            async with client.run("nightly"):
                raise Odd("hunter2")
        outcome = await client.run_outcome("nightly")
        assert outcome is not None
        assert outcome.state is State.FAILED
        assert str(outcome.error).endswith(".Odd")
        assert "hunter2" not in outcome.model_dump_json()

        async def program(run: Run) -> None:
            await client.finish((await run.dispatch("a-member", command=["x"])).id, exit_code=3)
            await run.result("a-member")

        with pytest.raises(DispatchFailed):
            await leave(client, "weekly", program)
        outcome = await client.run_outcome("weekly")
        assert outcome is not None
        assert (outcome.state, outcome.error) == (State.FAILED, "DispatchFailed")
        assert (outcome.dispatch_id, outcome.name) == (member_id("weekly", "a-member"), "a-member")


@pytest.mark.parametrize(
    ("beside", "state", "error"),
    [([], State.CANCELLED, "DispatchCancelled"), ([ValueError("x")], State.FAILED, "ValueError")],
)
async def test_of_a_group_of_exceptions_what_is_no_cancel_counts(
    beside: list[Exception], state: State, error: str
) -> None:
    async with FakeClient() as client:

        async def program(run: Run) -> None:
            one = await cancelled(run, "one")
            raise ExceptionGroup("several", [ExceptionGroup("inner", [one]), *beside])

        with pytest.raises(ExceptionGroup):
            await leave(client, "nightly", program)
        outcome = await client.run_outcome("nightly")
        assert outcome is not None
        assert (outcome.state, outcome.error) == (state, error)


@pytest.mark.parametrize("how", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_a_run_that_is_left_by_a_cancellation_is_open_and_goes_on(how: type[BaseException]) -> None:
    async with FakeClient() as client:
        caught = []

        async def program(run: Run) -> None:
            await run.dispatch("one", command=["x"])
            try:
                raise how
            except Exception as error:  # noqa: BLE001 - what a program may do, and what must not take this
                caught.append(error)

        with pytest.raises(how):
            await leave(client, "nightly", program)
        assert caught == []
        assert await client.run_outcome("nightly") is None
        one = await client.wait("nightly-one", timeout=30)
        assert one.cause is not None
        assert one.cause.policy == "owner_gone"
        async with client.run("nightly") as run:
            await run.dispatch("two", command=["x"])
            await client.finish("nightly-two")
            with pytest.raises(DispatchCancelled):
                await run.result("one")
        assert run.outcome is not None
        assert run.outcome.state is State.SUCCEEDED


async def test_cancelling_who_waits_for_the_members_at_the_end_leaves_it_open_and_stops_them() -> None:
    async with FakeClient() as client:

        async def program() -> None:
            async with client.run("nightly") as run:
                await run.dispatch("one", command=["x"])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(program)
                while not client._opened.engine.core.interest["nightly-one"]:  # noqa: ASYNC110 - of another task
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
        assert await client.run_outcome("nightly") is None
        assert (await client.wait("nightly-one", timeout=30)).state is State.CANCELLED


async def test_an_outcome_that_cannot_be_written_is_told_and_the_exception_comes_through(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*arguments: object) -> RunOutcome:
        raise StoreError("the disk is full")

    async with FakeClient() as client:
        monkeypatch.setattr("agora.store.decided.Decided.seal", full)

        async def program(run: Run) -> None:
            await run.dispatch("one", command=["x"])
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await leave(client, "nightly", program)
        assert "run nightly stays open: its outcome could not be written down: the disk is full" in caplog.text
        assert (await client.wait("nightly-one", timeout=30)).state is State.CANCELLED
        with pytest.raises(StoreError, match="full"):
            async with client.run("nightly"):
                pass


# --- a run that is over --------------------------------------------------------------------------------------


async def test_a_run_that_is_over_says_the_same_again_and_takes_nothing_new() -> None:
    async with FakeClient() as client:

        async def program(run: Run) -> None:
            raise await cancelled(run, "slow")

        async def replay(run: Run) -> None:
            assert run.outcome is not None
            assert (await run.dispatch("slow", command=["x"])).record.state is State.CANCELLED
            await run.result("slow")

        with pytest.raises(DispatchCancelled) as first:
            await leave(client, "nightly", program)
        with pytest.raises(DispatchCancelled) as again:
            await leave(client, "nightly", replay)
        assert again.value.record == first.value.record
        before = await client.run_outcome("nightly")
        async with client.run("nightly") as run:
            for dispatch in (run.dispatch("new", command=["x"]), client.dispatch(command=["x"], run="nightly")):
                with pytest.raises(InvalidRequest, match=r"run 'nightly' is over \(cancelled\)"):
                    await dispatch
        assert run.outcome == await client.run_outcome("nightly") == before, "the first outcome stands"
        assert [record.id for record in await client.list()] == ["nightly-slow"]


async def test_a_run_that_another_process_has_left_takes_nothing_new_at_once() -> None:
    async with FakeClient() as client:
        async with client.run("nightly") as run:
            async with client.run("nightly"):
                pass
            with pytest.raises(InvalidRequest, match="over"):
                await run.dispatch("late", command=["x"])
        assert await client.list() == []


async def test_members_are_adopted_by_name_and_never_with_another_spec() -> None:
    async with FakeClient() as client:
        async with client.run("nightly") as run:
            one = await run.dispatch("one", command=["x"])
            async with client.run("nightly") as same:
                assert (await same.dispatch("one", command=["x"])).record.requested_at == one.record.requested_at
                with pytest.raises(DispatchConflict):
                    await same.dispatch("one", command=["y"])
                await client.finish("nightly-one")
        assert list(client.backend.workloads) == ["nightly-one"]


async def test_what_cannot_be_a_member_is_refused_before_anything_is_recorded() -> None:
    async with FakeClient() as client:
        with pytest.raises(InvalidRequest, match="run"):
            client.run("no such/run")
        run = client.run("nightly")
        with pytest.raises(AgoraError, match="not open"):
            await run.dispatch("one", command=["x"])
        async with run:
            wrong: list[tuple[str, dict[str, Any], str]] = [
                ("a b", {}, "name"),
                ("one", {"command": []}, "command"),
                ("one", {"run": "weekly"}, "another run"),
                ("one", {"id": "mine"}, "id"),
            ]
            for name, fields, words in wrong:
                with pytest.raises(InvalidRequest, match=words):
                    await run.dispatch(name, **{"command": ["x"], **fields})
            assert (await run.cancel("one")).outcome is Outcome.NOT_FOUND
        for late in (run.dispatch("one", command=["x"]), run.__aenter__()):
            with pytest.raises(AgoraError, match=r"open|entered"):
                await late
        assert await client.list() == []


async def test_all_of_a_run_is_cancelled_together() -> None:
    async with FakeClient() as client:
        await client.dispatch(command=["x"], id="elsewhere")
        async with client.run("nightly") as run:
            for name in ("one", "two"):
                await run.dispatch(name, command=["x"])
            await client.dispatch(command=["x"], id="by-hand", run="nightly")
            answers = await run.cancel_all(reason="budget")
            assert {answer.id for answer in answers} == {"nightly-one", "nightly-two", "by-hand"}
            for answer in answers:
                record = await client.wait(answer.id, timeout=30)
                assert record.cause is not None
                assert (record.state, record.cause.reason) == (State.CANCELLED, "budget")
            assert await run.cancel_all() == []
        assert (await client.get("elsewhere")).state is State.RUNNING


# --- reading and forgetting ----------------------------------------------------------------------------------


async def test_runs_are_listed_with_their_outcomes_and_counts() -> None:
    async with FakeClient() as client:
        await client.dispatch(command=["x"], run="by-hand")
        async with client.run("nightly") as run:
            await cancelled(run, "one")
            await client.finish((await run.dispatch("two", command=["x"])).id)
        async with client.run("empty"):
            pass
        found = await client.runs()
        assert [(one.run, one.states) for one in found] == [
            ("empty", {}), ("nightly", {State.SUCCEEDED: 1, State.CANCELLED: 1}), ("by-hand", {State.RUNNING: 1}),
        ]  # fmt: skip
        assert found[1].outcome == run.outcome
        assert found[2].outcome is None
        assert found[1].began_at == (await client.get("nightly-one")).requested_at
        assert await client.runs(run="nightly") == [found[1]]
        assert await client.runs(limit=1) == [found[0]]
        assert await client.runs(run="none") == []
        with pytest.raises(InvalidRequest, match="below 0"):
            await client.runs(limit=-1)


async def test_a_damaged_outcome_is_named_and_keeps_nobody_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeClient() as client:
        for name in ("good", "bad"):
            async with client.run(name):
                pass
        with closing(sqlite3.connect(client.home / "agora.db")) as connection, connection:
            connection.execute("UPDATE runs SET body = '{}' WHERE run = 'bad'")
        with pytest.raises(DamagedRecord, match="outcome of run 'bad'"):
            await client.run_outcome("bad")
        assert [one.run for one in await client.runs()] == ["good"]
        assert "outcome of run 'bad' cannot be read" in caplog.text


async def test_pruning_forgets_outcomes_and_decisions_with_their_dispatches_and_not_before() -> None:
    async with FakeClient() as client:

        async def program(run: Run) -> None:
            await run.dispatch("one", command=["x"])
            client.backend.stubborn = True
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await leave(client, "nightly", program)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(joined, client)
            with anyio.fail_after(30):
                while len(await client.list(live=True)) < 2 or not decisions(client):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            assert await client.prune(timedelta(0)) == []
            assert await client.run_outcome("nightly") is not None, "a dispatch of it is left"
            assert decisions(client) == ["key"]
            for record in await client.list(live=True):
                await client.finish(record.id)
        assert len(await client.prune(timedelta(0), dry_run=True)) == 2
        assert await client.run_outcome("nightly") is not None
        assert len(await client.prune(timedelta(0))) == 2
        assert await client.run_outcome("nightly") is None
        assert decisions(client) == []
        assert await client.runs() == []


async def joined(client: FakeClient) -> None:
    """Join under a key."""
    await client.join_all_with_timeout([{"command": ["x"]}], 60, key="key")


def decisions(client: FakeClient) -> list[str]:
    """Return the keys of what is decided, as the file has them."""
    with closing(sqlite3.connect(client.home / "agora.db")) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM decisions")]


async def test_what_a_result_raises_crosses_processes() -> None:
    async with FakeClient() as client, client.run("nightly") as run:
        error = await cancelled(run, "slow", "too slow")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DispatchCancelled
    assert (str(copy), copy.record, copy.reason) == (str(error), error.record, "too slow")


# --- ids -----------------------------------------------------------------------------------------------------


def test_ids_of_members_are_valid_and_no_two_are_the_same() -> None:
    assert member_id("nightly-2031-05-01", "extract") == "nightly-2031-05-01-extract"
    names = ["a", "b-c", "c", "A", "a.b", "a_b", "x" * 63]
    runs = ["a", "a-b", "A-b", "nightly", "n" * 40, "N.." + "n" * 40]
    made = {(run, name): member_id(run, name) for run in runs for name in names}
    assert len(set(made.values())) == len(made)
    assert all(check_dispatch_id(id) for id in made.values())
    assert made == {(run, name): member_id(run, name) for run in runs for name in names}
    assert member_id("a", "b-c") == "a-b-c-b88f83c840ab", "the same in every version"
