"""Many clients, many processes, one store: every race ends once, and the answer agrees with what is stored."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from agora import AgoraClient, BlockingClient, Outcome, State
from agora.config import Settings
from agora.model.cause import Cause, Via
from agora.state import CancelAsked
from agora.store import Store

pytestmark = [pytest.mark.backend("local"), pytest.mark.timeout(400)]

World = Any
Eventually = Callable[[Callable[[], Any]], Any]

#: Counts its starts, once it is ready for SIGTERM, and the signals that it gets, and exits 7.
GRACEFUL = "trap 'echo TERM >> terms; exit 7' TERM; echo $$ >> starts; while :; do sleep 0.05; done"
STUBBORN = "trap 'echo TERM >> terms' TERM; echo $$ >> starts; while :; do sleep 0.05; done"

ENDED = {
    State.SUCCEEDED: Outcome.ALREADY_SUCCEEDED,
    State.FAILED: Outcome.ALREADY_FAILED,
    State.CANCELLED: Outcome.ALREADY_CANCELLED,
}

RACES, AT_ONCE = 1000, 50


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_a_thousand_races_between_an_end_and_a_cancel_each_ends_once_and_as_it_was_told(world: World) -> None:
    dice = random.Random(20310101)
    tally: Counter[str] = Counter()
    #: What a workload is given more than its canceller, so that on a slow machine too neither of them wins always.
    more = 0.0

    async def race(client: AgoraClient) -> None:
        ends_after, cancelled_after = more + dice.uniform(0, 0.2), dice.uniform(0, 0.2)
        handle = await client.dispatch(command=("sh", "-c", f"sleep {ends_after:.3f}; exit 0"), grace=5)
        waiting = asyncio.create_task(handle.wait(timeout=60))
        await asyncio.sleep(cancelled_after)  # the race itself: nothing is waited for
        result = await handle.cancel(reason="race")
        assert result.state is not None
        record = await waiting
        if result.outcome is Outcome.STOPPING:
            assert record.state in (State.CANCELLED, State.SUCCEEDED)
            assert record.cause == result.cause
        else:
            assert result.outcome is ENDED[record.state]
            assert result.outcome is Outcome.ALREADY_SUCCEEDED
            # A request that was sent before the end was known stays in the history.
            assert record.cause == result.cause
        if result.state.terminal:
            assert result.state is record.state, "what a cancel said is what is stored"
        if record.state is State.SUCCEEDED:
            assert record.exit_code == 0
        assert record.confirmed is True
        events = [event.type.value async for event in handle.events()]
        assert Counter(events)["dispatch.terminated"] == 1
        assert events[-1] == "dispatch.terminated"
        stored = await client.get(record.id, refresh=False)
        assert stored == record
        tally[f"{result.outcome.value} -> {record.state.value}"] += 1

    async def all_of_them() -> None:
        nonlocal more
        async with AgoraClient(world.home, supervisor=False) as client:
            seen = await client.dispatch(command=("sleep", "60"))
            assert len(world.workloads(seen.id)) == 1, "the test can see workloads"
            await seen.cancel()
            await seen.wait(timeout=20)
            for _ in range(RACES // AT_ONCE):
                await asyncio.gather(*(race(client) for _ in range(AT_ONCE)))
                late = tally["ALREADY_SUCCEEDED -> succeeded"] > tally["STOPPING -> cancelled"]
                more = max(0.0, more + (0.1 if late else -0.1))

    asyncio.run(all_of_them())
    assert sum(tally.values()) == RACES
    assert min(tally["STOPPING -> cancelled"], tally["ALREADY_SUCCEEDED -> succeeded"]) > RACES / 20, tally
    assert world.workloads() == []


@pytest.mark.slow
def test_twenty_processes_that_cancel_one_dispatch_make_one_request_and_send_one_sigterm(
    world: World, eventually: Eventually
) -> None:
    assert world.agora("dispatch", "--no-supervisor", "--id", "d1", "--", "sh", "-c", GRACEFUL).returncode == 0
    eventually(lambda: world.lines("starts") and world.workloads())
    found = world.at_once("cancel", "d1", 20)
    outcomes = Counter(one["outcome"] for one in found)
    assert outcomes["STOPPING"] == 1, outcomes
    assert outcomes["ALREADY_STOPPING"] + outcomes["ALREADY_CANCELLED"] == 19, outcomes
    assert len({one["actor"] for one in found}) == 1, "the first cause is kept and told to everybody"
    assert all(one["delivered"] is True for one in found), found
    assert world.agora("wait", "d1").returncode == 130
    assert world.lines("terms") == ["TERM"]
    events = Counter(world.events("d1"))
    assert (events["cancel_requested"], events["stopping"], events["terminated"]) == (1, 1, 1)
    assert world.row("d1")["attempts"] == 1
    assert world.workloads() == []


@pytest.mark.slow
def test_dispatches_of_one_id_from_many_processes_are_one_workload(world: World, eventually: Eventually) -> None:
    Store(world.home).close()
    found = world.at_once("dispatch", "d1", 4, GRACEFUL)
    assert len([state for states in found for state in states]) == 20
    eventually(lambda: world.lines("starts") and world.workloads())
    assert len(world.lines("starts")) == 1
    assert Counter(world.events("d1"))["submitted"] == 1
    assert world.agora("cancel", "d1", "--wait").returncode == 0
    assert len(world.lines("starts")) == 1
    assert world.workloads() == []


@pytest.mark.slow
def test_two_supervisors_and_five_readers_are_one_sender(world: World, eventually: Eventually) -> None:
    ids = [f"d{number}" for number in range(5)]
    for id in ids:
        script = GRACEFUL.replace("terms", f"terms-{id}")
        assert world.agora("dispatch", "--no-supervisor", "--id", id, "--", "sh", "-c", script).returncode == 0
    eventually(lambda: len(world.lines("starts")) == 5)
    asyncio.run(record_cancels(world, ids))
    supervisors = [world.start("-m", "agora", "supervise", "--until-idle") for _ in range(2)]
    world.at_once("read", "", 5)
    for supervisor in supervisors:
        supervisor.communicate(timeout=90)
        assert supervisor.returncode == 0
    for id in ids:
        row = world.row(id)
        assert (row["state"], row["exit_code"], row["attempts"]) == ("cancelled", 7, 1)
        assert world.lines(f"terms-{id}") == ["TERM"]
        assert Counter(world.events(id))["terminated"] == 1


async def record_cancels(world: World, ids: list[str]) -> None:
    """Record requests that nobody carries out: their canceller died right afterwards."""
    store = Store(world.home)
    for id in ids:
        applied = await store.apply(id, CancelAsked(Cause(actor="gone", via=Via.API)), durable=True)
        assert applied.entry.state is State.STOPPING
    store.close()


@pytest.mark.parametrize("next_one", ["reconcile", "wait", "supervise", "cancel", "a reader's supervisor"])
def test_a_cancel_recorded_while_nothing_supervises_is_carried_out_by_whoever_comes_next(
    world: World, eventually: Eventually, next_one: str
) -> None:
    assert world.agora("dispatch", "--no-supervisor", "--id", "d1", "--", "sh", "-c", GRACEFUL).returncode == 0
    eventually(lambda: world.lines("starts") and world.workloads())
    asyncio.run(record_cancels(world, ["d1"]))
    assert world.lines("terms") == []
    match next_one:
        case "reconcile":
            assert world.agora("reconcile", "--no-supervisor").returncode == 0
        case "wait":
            assert world.agora("wait", "d1", "--no-supervisor").returncode == 130
        case "supervise":
            assert world.agora("supervise", "--until-idle").returncode == 0
        case "cancel":
            assert world.agora("cancel", "d1", "--no-supervisor").returncode == 0
        case _:
            assert world.agora("ps").returncode == 0
    eventually(lambda: world.lines("terms") == ["TERM"])
    eventually(lambda: world.workloads() == [])
    assert world.agora("wait", "d1").returncode == 130
    assert world.row("d1")["cause"]["actor"] == "gone"
    assert world.lines("terms") == ["TERM"]


# --- what a stop does ----------------------------------------------------------------------------------------


def test_a_fresh_process_stops_what_another_one_started_and_only_that(world: World, eventually: Eventually) -> None:
    for id in ("d1", "d2"):
        assert world.agora("dispatch", "--id", id, "--", "sh", "-c", GRACEFUL).returncode == 0
    eventually(lambda: len(world.lines("starts")) == 2)
    other = world.workloads("d2")
    assert world.agora("cancel", "d1", "--reason", "by id alone", "--wait").returncode == 0
    assert world.workloads("d1") == []
    assert set(world.workloads("d2")) & set(other)
    row = world.row("d2")
    assert (row["state"], row.get("cause")) == ("running", None)
    assert world.agora("cancel", "d2", "--wait").returncode == 0


def test_a_graceful_cancel_does_not_look_like_success(world: World, eventually: Eventually) -> None:
    script = GRACEFUL.replace("exit 7", "exit 0")
    assert world.agora("dispatch", "--id", "d1", "--", "sh", "-c", script).returncode == 0
    eventually(lambda: world.lines("starts") and world.workloads())
    assert world.agora("cancel", "d1", "--wait", "--reason", "enough").returncode == 0
    row = world.row("d1")
    assert (row["state"], row["exit_code"], row["forced"]) == ("cancelled", 0, False)
    assert row["cause"]["reason"] == "enough"
    assert world.agora("wait", "d1").returncode == 130


@pytest.mark.serial
def test_what_ignores_sigterm_is_dead_soon_after_its_grace(world: World, eventually: Eventually) -> None:
    assert world.agora("dispatch", "--id", "d1", "--grace", "2", "--", "sh", "-c", STUBBORN).returncode == 0
    eventually(lambda: world.lines("starts") and world.workloads())
    asked = time.monotonic()
    assert world.agora("cancel", "d1").returncode == 0
    eventually(lambda: world.lines("terms"))
    told = time.monotonic()
    eventually(lambda: not world.workloads())
    dead = time.monotonic()
    assert dead - asked > 2.0, "the grace was its own"
    assert dead - told < 2.0 + 5.0, "and what a busy machine adds"
    assert world.agora("wait", "d1").returncode == 130
    row = world.row("d1")
    assert (row["forced"], row["signal"], row["confirmed"]) == (True, 9, True)
    assert world.lines("terms") == ["TERM"]


def test_no_process_of_a_cancelled_dispatch_is_left(world: World, eventually: Eventually) -> None:
    child = "trap '' TERM; echo $$ >> starts; while :; do sleep 0.05; done"
    script = f'sh -c "{child}" & setsid sh -c "{child}" & (sh -c "{child}" &) ; {GRACEFUL}'
    assert world.agora("dispatch", "--id", "d1", "--grace", "3", "--", "sh", "-c", script).returncode == 0
    eventually(lambda: len(world.lines("starts")) == 4)
    assert len(world.workloads("d1")) >= 4
    assert world.agora("cancel", "d1", "--wait").returncode == 0
    assert world.workloads() == []
    assert world.row("d1")["exit_code"] == 7


@pytest.mark.serial
def test_a_force_from_a_second_process_shortens_the_grace_of_the_first(world: World, eventually: Eventually) -> None:
    assert world.agora("dispatch", "--id", "d1", "--grace", "60", "--", "sh", "-c", STUBBORN).returncode == 0
    eventually(lambda: world.lines("starts") and world.workloads())
    assert world.agora("cancel", "d1", "--reason", "first").returncode == 0
    begun = time.monotonic()
    assert world.agora("cancel", "d1", "--reason", "second", "--force", "--wait").returncode == 0
    assert time.monotonic() - begun < 15
    row = world.row("d1")
    assert (row["state"], row["forced"], row["cause"]["reason"]) == ("cancelled", True, "first")
    assert world.workloads() == []


# --- deadlines and waiters -----------------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.parametrize("client", ["waits", "has gone"])
def test_a_deadline_ends_a_dispatch_with_and_without_its_client(
    world: World, eventually: Eventually, client: str
) -> None:
    begun = time.monotonic()
    flags = ("--id", "d1", "--timeout", "2", "--grace", "2")
    if client == "waits":
        assert world.agora("run", "--no-supervisor", *flags, "--", "sh", "-c", GRACEFUL).returncode == 124
    else:
        assert world.agora("dispatch", *flags, "--", "sh", "-c", GRACEFUL).returncode == 0
        eventually(lambda: world.row("d1")["state"] == "timed_out")
    assert 2.0 <= time.monotonic() - begun < 10.0
    row = world.row("d1")
    assert (row["state"], row["cause"]["policy"], row["cause"]["via"]) == ("timed_out", "timeout", "policy")
    assert world.lines("terms") == ["TERM"]
    assert world.workloads() == []
    late = world.agora("cancel", "--json", "d1")
    assert late.returncode == 3
    assert '"ALREADY_TIMED_OUT"' in late.stdout
    assert world.row("d1")["cause"] == row["cause"]
    assert world.agora("wait", "d1").returncode == 124


def test_of_a_deadline_and_a_cancel_the_first_recorded_wins(world: World, eventually: Eventually) -> None:
    # In one process: two more of them could take longer to start than the deadline is away.
    with BlockingClient(world.home) as client:
        handle = client.dispatch(id="d1", command=("sh", "-c", STUBBORN), cwd=str(world.directory), timeout=4, grace=6)
        eventually(lambda: world.lines("starts"))
        handle.cancel(reason="before")
    eventually(lambda: world.row("d1")["state"] == "cancelled")
    row = world.row("d1")
    assert (row["cause"]["reason"], row["cause"].get("policy")) == ("before", None)
    seconds = datetime.fromisoformat(row["ended_at"]) - datetime.fromisoformat(row["requested_at"])
    assert seconds > timedelta(seconds=4), "the deadline came while it was being stopped"
    assert Counter(world.events("d1"))["cancel_requested"] == 1


@pytest.mark.serial
def test_who_waits_wakes_within_a_second_when_another_process_cancels(world: World, eventually: Eventually) -> None:
    async def work(client: AgoraClient, number: int) -> float:
        handle = await client.dispatch(command=("sh", "-c", GRACEFUL), cwd=str(world.directory))
        waiting = asyncio.create_task(handle.wait(timeout=40))
        await asyncio.to_thread(eventually, lambda: len(world.lines("starts")) == number)
        canceller = asyncio.to_thread(world.agora, "cancel", handle.id, "--no-supervisor")
        cancelling = asyncio.create_task(canceller)
        await asyncio.to_thread(eventually, lambda: len(world.lines("terms")) == number)
        begun = time.monotonic()
        record = await waiting
        woken = time.monotonic() - begun
        assert (await cancelling).returncode == 0
        assert record.state is State.CANCELLED
        return woken

    async def one_after_the_other() -> list[float]:
        async with AgoraClient(world.home, settings=Settings(supervisor=False)) as client:
            return [await work(client, number) for number in (1, 2, 3)]

    took = asyncio.run(one_after_the_other())
    assert sorted(took)[1] < 1.0, took
