"""Groups of dispatches on real processes: who wins, who is cancelled, and that the losers are dead."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import anyio
import pytest
from agora import (
    AgoraClient,
    BlockingClient,
    DispatchCancelled,
    DispatchFailed,
    DispatchTimedOut,
    InvalidRequest,
    NoneSucceeded,
    Record,
    State,
)  # fmt: skip

from tests.groups.conftest import alive, failing, has, sleeper, spec, until

pytestmark = [pytest.mark.backend("local"), pytest.mark.anyio]
Open = Callable[[], AgoraClient]


async def test_the_first_success_wins_and_the_losers_are_dead(client: Open) -> None:
    async with client() as agora:
        raced = await agora.race([spec(sleeper()), spec(failing()), spec(sleeper(2)), spec(sleeper())])
        assert raced.winner.state is State.SUCCEEDED
        assert [record.state.value for record in raced.losers] == ["cancelled", "failed", "cancelled"]
        assert raced.cancelled == (raced.losers[0].id, raced.losers[2].id)
        for loser in (raced.losers[0], raced.losers[2]):
            assert loser.confirmed is True
            assert not alive(loser)
            assert loser.cause is not None
            assert loser.cause.reason == f"lost the race against {raced.winner.id}"


async def test_a_race_without_a_success_says_how_all_ended(client: Open) -> None:
    async with client() as agora:
        with pytest.raises(NoneSucceeded) as raised:
            await agora.race([spec(failing(3)), spec(failing(4))])
        assert [record.exit_code for record in raised.value.records] == [3, 4]


@pytest.mark.parametrize("verb", ["race", "join_all", "join_all_settled"])
async def test_no_members_is_an_error_before_anything_starts(client: Open, verb: str) -> None:
    async with client() as agora:
        for wrong, words in ([], "at least one"), ([spec(["true"]), {"command": []}], "command"):
            with pytest.raises(InvalidRequest, match=words):
                await getattr(agora, verb)(wrong)
        with pytest.raises(InvalidRequest, match="not a dispatch id"):
            await getattr(agora, verb)([spec(["true"])], key="No/Such")
        assert await agora.list() == []


async def test_a_join_raises_at_once_with_id_and_cause_and_takes_its_members_along(client: Open) -> None:
    async with client() as agora:
        other = await agora.dispatch(**spec(sleeper()))
        victim = await agora.dispatch(**spec(sleeper()))

        raised: list[DispatchCancelled] = []

        async def join() -> None:
            try:
                await agora.join_all([victim, other, spec(sleeper())])
            except DispatchCancelled as error:
                raised.append(error)

        with anyio.fail_after(90):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(join)
                await until(lambda: has(agora, 3))
                await victim.cancel(reason="not needed")
        [error] = raised
        assert error.record.id == victim.id
        assert error.cause is not None
        assert error.cause.reason == "not needed"
        [mine] = [record for record in await agora.list() if record.id not in (other.id, victim.id)]
        gone = await agora.wait(mine.id, confirmed=True, timeout=20)
        assert gone.cause is not None
        assert (gone.state, gone.cause.policy) == (State.CANCELLED, "owner_gone")
        assert not alive(gone)
        assert alive(other.record), "a handle that was passed in goes on"
        await other.cancel(force=True)
        await other.wait(confirmed=True, timeout=20)


async def test_a_join_gives_all_records_in_order_and_raises_for_a_failure(client: Open) -> None:
    async with client() as agora:
        records = await agora.join_all([spec(sleeper(4)), spec(["true"])])
        assert [record.exit_code for record in records] == [0, 0]
        assert records[0].ended_at is not None
        assert records[1].ended_at is not None
        assert records[0].ended_at > records[1].ended_at
        with pytest.raises(DispatchFailed):
            await agora.join_all([spec(failing()), spec(["true"])])


async def test_what_has_not_ended_in_time_is_cancelled_and_dead(client: Open) -> None:
    async with client() as agora:
        quick = await agora.dispatch(**spec(["true"]))
        await quick.wait(timeout=60)
        joined = await agora.join_all_with_timeout([quick, spec(sleeper()), spec(sleeper())], 5.0)
        assert [record.state for record in joined.completed] == [State.SUCCEEDED]
        assert [record.state for record in joined.cancelled] == [State.CANCELLED] * 2
        assert not any(alive(record) for record in joined.cancelled)
        with pytest.raises(InvalidRequest, match="timeout"):
            await agora.join_all_with_timeout([spec(["true"])], 0)


async def test_all_settled_sorts_by_how_they_ended(client: Open) -> None:
    async with client() as agora:
        stopped = await agora.dispatch(**spec(sleeper()))
        await stopped.cancel()
        settled = await agora.join_all_settled([spec(["true"]), spec(failing()), stopped])
        assert [len(part) for part in (settled.succeeded, settled.failed, settled.cancelled)] == [1, 1, 1]
        assert settled.cancelled[0].id == stopped.id


async def test_records_come_in_the_order_of_their_ends_and_leaving_early_cancels(client: Open) -> None:
    async with client() as agora:
        async with aclosing(agora.as_completed([spec(sleeper()), spec(failing()), spec(sleeper())])) as ended:
            async for record in ended:
                assert record.state is State.FAILED
                break
        rest = [record for record in await agora.list() if record.state is not State.FAILED]
        assert len(rest) == 2
        for record in rest:
            over = await agora.wait(record.id, confirmed=True, timeout=20)
            assert over.cause is not None
            assert (over.state, over.cause.policy) == (State.CANCELLED, "owner_gone")
            assert not alive(over)


async def test_cancelling_who_waits_for_a_group_cancels_what_it_dispatched(client: Open) -> None:
    async with client() as agora:
        handle = await agora.dispatch(**spec(sleeper()))
        for owned in (False, True):
            with anyio.fail_after(90):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(partial(agora.join_all_settled, [handle, spec(sleeper())], owned=owned))
                    await until(lambda: has(agora, 2))
                    tasks.cancel_scope.cancel()
            live = {record.id for record in await agora.list(states=[State.RUNNING])}
            assert live == (set() if owned else {handle.id})
        assert (await handle.wait(confirmed=True, timeout=20)).cause is not None


OWNER = """
import sys, anyio
from agora import AgoraClient
from agora.client import claims, sending
claims.OWNER_SECONDS = sending.OWNER_SECONDS = 6.0
async def main():
    async with AgoraClient() as agora:
        await agora.race([{"command": ["sleep", "600"], "grace": 2}] * 2, key="crash")
anyio.run(main)
"""


def test_a_dead_owner_takes_its_members_along_by_the_background_supervisor() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER])
    try:
        with BlockingClient() as agora:
            patiently(lambda: len(agora.list(states=[State.RUNNING])) == 2)
            [first, _] = agora.list()
            begun = time.monotonic()
            patiently(lambda: time.monotonic() - begun > 8)
            assert agora.get(first.id).state is State.RUNNING, "the owner keeps its claim up"
    finally:
        owner.kill()
        owner.wait()
    # Nobody waits for them now: this only reads the store, once the background supervisor has done it.
    with BlockingClient() as agora:
        patiently(lambda: all(record.state is State.CANCELLED for record in agora.list()))
        for record in agora.list():
            assert record.cause is not None
            assert record.cause.policy == "owner_gone"
            patiently(partial(gone, record))


def gone(record: Record) -> bool:
    """Whether the workload's own process is gone."""
    return not alive(record)


def patiently(question: Callable[[], bool], seconds: float = 60) -> None:
    """Ask until the answer is yes, for a bounded time."""
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.05)


async def test_a_retry_is_bounded_and_waits_for_the_death_of_the_attempt_before(client: Open) -> None:
    async with client() as agora:
        with pytest.raises(DispatchFailed) as failed:
            await agora.retry(spec(failing()), attempts=3, key="thrice")
        assert failed.value.record.id == "thrice-2"
        assert len(await agora.list()) == 3
        with pytest.raises(DispatchTimedOut):
            await agora.retry(spec(sleeper(), timeout=1), attempts=2, key="late")
        first, second = await agora.get("late-0"), await agora.get("late-1")
        assert first.ended_at is not None
        assert second.submitted_at is not None
        assert (first.state, first.confirmed) == (State.TIMED_OUT, True)
        assert first.ended_at <= second.submitted_at
        assert not alive(first)
        assert (await agora.retry(spec(["true"]), attempts=3, key="good")).id == "good-0"
        for wrong in (0, True, -1):
            with pytest.raises(InvalidRequest, match="attempts"):
                await agora.retry(spec(["true"]), attempts=wrong)


async def test_what_was_cancelled_is_never_tried_again(client: Open) -> None:
    async with client() as agora:
        raised: list[DispatchCancelled] = []

        async def retry() -> None:
            try:
                await agora.retry(spec(sleeper()), attempts=3, key="step")
            except DispatchCancelled as error:
                raised.append(error)

        with anyio.fail_after(90):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(retry)
                await until(lambda: has(agora, 1))
                await agora.cancel("step-0", reason="enough")
        [error] = raised
        assert error.cause is not None
        assert error.cause.reason == "enough"
        assert [record.id for record in await agora.list()] == ["step-0"]


@pytest.mark.serial
@pytest.mark.parametrize("early", [True, False])
def test_a_waiter_wakes_within_a_second_of_another_process_that_cancels(early: bool) -> None:
    took = []
    with BlockingClient() as agora:
        for _ in range(3):
            handle = agora.dispatch(**spec(sleeper()))
            command = [sys.executable, "-m", "agora", "cancel", handle.id, "--wait"]
            other = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            if early:
                assert other.wait(30) == 0, "the cancel is over before anybody waits"
            begun = time.time()
            record = handle.wait(timeout=30)
            assert record.ended_at is not None
            took.append(time.time() - max(begun, record.ended_at.timestamp()))
            assert other.wait(30) == 0
    assert sorted(took)[1] < 1, took


KEYED = """
import json, os, signal, sys, anyio
from agora import AgoraClient
slow, fast = {"command": ["sleep", "600"], "grace": 2}, {"command": ["true"]}
async def main():
    async with AgoraClient() as agora:
        members = [dict(slow), dict(fast), dict(fast)]
        group = agora._members
        def dying(*arguments):
            made = group(*arguments)
            decide = made.decide
            async def decide_and_die(key, decision):
                await decide(key, decision)
                os.kill(os.getpid(), signal.SIGKILL)
            if "die" in sys.argv:
                made.decide = decide_and_die
            return made
        agora._members = dying
        raced = await agora.race(members, key="once")
        print(json.dumps({"winner": raced.winner.id, "cancelled": raced.cancelled}))
anyio.run(main)
"""


@pytest.mark.timeout(300)
def test_the_same_call_after_a_crash_gives_the_same_answer() -> None:
    died = subprocess.run([sys.executable, "-c", KEYED, "die"], check=False, timeout=50, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    answers = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KEYED], check=True, timeout=50, capture_output=True, text=True)
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert answers[0]["winner"] in ("once-1", "once-2")
    with BlockingClient() as agora:
        records = agora.list()
        assert {record.id for record in records} == {"once-0", "once-1", "once-2"}
        assert not any(alive(record) for record in records)


async def test_a_timeout_with_a_key_counts_from_the_first_call(client: Open) -> None:
    async with client() as agora:
        handle = await agora.dispatch(**spec(sleeper()))
        with anyio.move_on_after(8):
            await agora.join_all_with_timeout([spec(sleeper(), id="late-1")], 10, key="late")
        began = time.monotonic()
        joined = await agora.join_all_with_timeout([handle], 10, key="late")
        assert [record.id for record in joined.cancelled] == [handle.id]
        assert time.monotonic() - began < 10, "the clock was not started anew"


def test_the_blocking_twin_races_and_lets_go() -> None:
    with BlockingClient(actor="ann") as agora:
        raced = agora.race([spec(sleeper()), spec(["true"])])
        assert raced.cancelled == (raced.losers[0].id,)
        assert not alive(raced.losers[0])
        batch = agora.batch()
        batch.remove(batch.add(**spec(["false"])))
        batch.add(**spec(["true"]))
        assert [handle.wait(timeout=20).state for handle in batch.commit()] == [State.SUCCEEDED]
        with pytest.raises(InvalidRequest, match="committed"):
            batch.add(command=["true"])
        for record in agora.as_completed([spec(sleeper()), spec(failing())]):
            assert record.state is State.FAILED
            break
        patiently(lambda: not agora.list(live=True))
        states = [record.state for record in agora.list()]
        assert sorted(states) == [State.CANCELLED, State.CANCELLED, State.FAILED, State.SUCCEEDED, State.SUCCEEDED]
