"""What a program does with many dispatches, end to end, on every backend that this machine has."""

import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, DispatchCancelled, EventType, Outcome, State

from tests.groups.conftest import gone, there, until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SLOW = ["sleep", "600"]


@pytest.fixture
async def agora(where: dict[str, Any]) -> AsyncIterator[AgoraClient]:
    """Give a client, and see that nothing of it is alive afterwards."""
    async with AgoraClient(actor="ann") as client:
        yield client
        for record in await client.list(live=True):
            await client.cancel(record.id, force=True)
            await client.wait(record.id, confirmed=True, timeout=60)


def shell(script: str, where: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A member with a short grace."""
    return {"command": ["sh", "-c", script], "grace": 2, **fields, **where}


async def test_agent_racing_tasks_with_cancellation(agora: AgoraClient, where: dict[str, Any]) -> None:
    losers = [await agora.dispatch(**shell("sleep 600", where)) for _ in range(2)]
    for loser in losers:
        await until(partial(there, loser.id))
    raced = await agora.race([losers[0], shell("sleep 1", where), losers[1]])
    assert raced.winner.state is State.SUCCEEDED
    assert raced.cancelled == tuple(loser.id for loser in losers)
    assert [loser.confirmed for loser in raced.losers] == [True, True]
    for loser in losers:
        await until(partial(gone, loser.id))


async def test_agent_cancel_and_replace(agora: AgoraClient, where: dict[str, Any]) -> None:
    slow = await agora.dispatch(command=SLOW, grace=2, **where)
    with pytest.raises(TimeoutError):
        await slow.result(timeout=0.5)
    await until(partial(there, slow.id))
    await slow.cancel(reason="replaced")
    stopped = await slow.wait(confirmed=True, timeout=60)
    await until(partial(gone, slow.id))
    replacement = await agora.dispatch(**shell("exit 0", where))
    result = await replacement.result(timeout=60)
    assert (stopped.state, stopped.confirmed) == (State.CANCELLED, True)
    assert stopped.ended_at is not None
    assert result.started_at is not None
    assert stopped.ended_at <= result.started_at


async def test_agent_join_all_with_cancelled_handle(agora: AgoraClient, where: dict[str, Any]) -> None:
    good = await agora.dispatch(**shell("exit 0", where))
    unwanted = await agora.dispatch(command=SLOW, grace=2, **where)
    await unwanted.cancel(reason="not needed")
    with pytest.raises(DispatchCancelled) as raised:
        await agora.join_all([good, unwanted])
    assert raised.value.record.id == unwanted.id
    assert raised.value.cause is not None
    assert raised.value.cause.reason == "not needed"
    settled = await agora.join_all_settled([good, unwanted])
    assert [record.id for record in settled.succeeded] == [good.id]
    assert [record.id for record in settled.cancelled] == [unwanted.id]


async def test_agent_parallel_with_failure(agora: AgoraClient, where: dict[str, Any]) -> None:
    settled = await agora.join_all_settled([shell(f"exit {code}", where) for code in (0, 3, 0)])
    assert len(settled.succeeded) == 2
    assert [record.exit_code for record in settled.failed] == [3]


async def test_agent_batch_api_scheduling(agora: AgoraClient, where: dict[str, Any]) -> None:
    batch = agora.batch(key="twenty")
    for number in range(20):
        batch.add(**shell(f"sleep {600 if 5 <= number < 10 else 0}", where))
    for id in batch.ids[:5]:
        batch.remove(id)
    assert await agora.list() == [], "nothing is recorded before the commit"
    handles = await batch.commit()
    for handle in handles[:5]:
        await handle.cancel(reason="not this one")
    settled = await agora.join_all_settled(handles)
    assert (len(settled.succeeded), len(settled.cancelled), len(settled.failed)) == (10, 5, 0)
    assert {record.id for record in await agora.list()} == {f"twenty-{number}" for number in range(5, 20)}


async def test_agent_cancel_idempotency(agora: AgoraClient, where: dict[str, Any]) -> None:
    handle = await agora.dispatch(command=SLOW, grace=2, **where)
    answers = [await handle.cancel(reason=f"asked {number}") for number in range(3)]
    record = await handle.wait(confirmed=True, timeout=60)
    answers.append(await handle.cancel())
    assert answers[0].outcome is Outcome.STOPPING
    assert {answer.outcome for answer in answers[1:]} <= {Outcome.ALREADY_STOPPING, Outcome.ALREADY_CANCELLED}
    assert record.cause is not None
    assert record.cause.reason == "asked 0"
    types = [event.type async for event in handle.events()]
    assert (types.count(EventType.CANCEL_REQUESTED), types.count(EventType.TERMINATED)) == (1, 1)


async def test_agent_racing_tasks_select(agora: AgoraClient, where: dict[str, Any]) -> None:
    members = [shell("exit 1", where), shell("exit 2", where), shell("sleep 3; exit 0", where)]
    raced = await agora.race(members, key="select")
    assert raced.winner.id == "select-2", "failures are skipped"
    assert [record.exit_code for record in raced.losers] == [1, 2]
    again = await agora.race(members, key="select")
    assert (again.winner.id, again.cancelled) == (raced.winner.id, raced.cancelled)


async def test_agent_cancel_completed_task(agora: AgoraClient, where: dict[str, Any]) -> None:
    handle = await agora.dispatch(**shell("exit 0", where))
    before = await handle.result(timeout=60)
    result = await handle.cancel(reason="too late")
    assert result.outcome is Outcome.ALREADY_SUCCEEDED
    after = await handle.get()
    assert (after.state, after.exit_code, after.cause) == (before.state, 0, None)


SAYS = {
    "racing_with_cancel": ["winner: near", "loser: far cancelled confirmed", "loser: farther cancelled confirmed"],
    "cancel_and_replace": ["slow: cancelled confirmed", "replacement: succeeded"],
    "join_with_cancelled": ["join_all: the unwanted one not needed any more", "settled: 1 succeeded, 1 cancelled"],
    "parallel_with_failures": ["summary: 3 succeeded, 2 failed"],
    "batch_scheduling": ["ran: 10 cancelled: 5 never started: 5"],
    "cancel_idempotency": [
        "requests that counted: 1", "once more: ALREADY_CANCELLED", "recorded requests: 1", "ends: 1",
        "state: cancelled",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_an_example_does_what_it_says(name: str, where: dict[str, Any]) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *where.values()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("ended:")] == SAYS[name]


def test_every_example_of_a_group_is_run() -> None:
    elsewhere = {"worker", "workload"}
    assert set(SAYS) | elsewhere == {path.stem for path in EXAMPLES.glob("*.py")}
