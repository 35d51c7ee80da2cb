"""What spends more than its budget is cancelled, and what does not is not: on real workloads."""

import json
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora import AgoraClient, BlockingClient, EventType, Record, State
from agora.errors import Forbidden
from agora.testing import FakeClient

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
LOCAL = pytest.mark.backend("local")
PATIENCE = 60.0


def alive(record: Record) -> bool:
    """Whether the workload's own process is there, seen from outside."""
    with suppress(OSError):
        return Path(f"/proc/{record.native['pid']}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def check_stopped(record: Record, reason: str) -> None:
    """Check that a workload was stopped for what it had spent."""
    assert record.cause is not None
    assert (record.state, record.confirmed) == (State.CANCELLED, True)
    assert (record.cause.actor, record.cause.via, record.cause.policy) == ("agora", "policy", "budget")
    assert record.cause.reason == reason


SPENDS = """
import sys, time
from agora.worker import BlockingWorker
with BlockingWorker() as worker:
    for number, amount in enumerate(map(float, sys.argv[2:])):
        worker.progress(number, step="a")
        worker.spend(tokens=amount, usd=amount / 1000)
        time.sleep(0.2)
    print("said\\n" * 300, flush=True)
    time.sleep(float(sys.argv[1]))
"""


def spends(*amounts: float, then: float = 600) -> list[str]:
    """Return the command that spends amounts one after the other."""
    return [sys.executable, "-c", textwrap.dedent(SPENDS), str(then), *map(str, amounts)]


@LOCAL
async def test_a_worker_that_spends_past_its_budget_is_stopped_and_one_below_it_is_not(
    agora: AgoraClient, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"budget": {"tokens": 1000, "usd": 5}, "grace": 10}
    # One that goes on after the other is another process of the same workload.
    both = ["sh", "-c", 'exec 3>&1; "$@" 0.3 600; exec "$@" 600 600', "sh", *spends()[:3]]
    stdout = await agora.dispatch(command=spends(600, 500.5), **fields)
    file = await agora.dispatch(
        command=spends(600, 500.5), env={"AGORA_WORKER_EVENTS": str(tmp_path / "events")}, **fields
    )
    restarted = await agora.dispatch(command=both, **fields)
    below = await agora.dispatch(command=spends(600, 300, 100, then=0.1), **fields)
    settled = await agora.join_all_settled([stdout, file, restarted, below])
    assert [record.id for record in settled.succeeded] == [below.id]
    assert settled.succeeded[0].spent == {"tokens": 1000, "usd": 1}
    assert [record.id for record in settled.cancelled] == [stdout.id, file.id, restarted.id]
    for record in settled.cancelled:
        spent = 1200 if record.id == restarted.id else 1100.5
        check_stopped(record, f"budget of 1000 tokens exceeded: {spent:g}")
        assert record.spent == {"tokens": spent, "usd": spent / 1000}
        assert record.acknowledged is True, "its worker was asked as by any cancel"
        assert not alive(record)
    told = [event async for event in stdout.events()]
    [asked] = [event for event in told if event.type is EventType.CANCEL_REQUESTED]
    assert asked.data["cause"]["policy"] == "budget"
    progress = [event.data for event in told if event.type is EventType.PROGRESS]
    assert {"done": 1, "step": "a", "spent": {"tokens": 1100.5, "usd": 1.1005}} in progress


async def test_a_program_may_write_its_own_marks_and_others_may_count(
    agora: AgoraClient, where: dict[str, Any]
) -> None:
    event = {"id": "ab.1", "type": "dispatch.progress", "subject": "%s", "sequence": 1}
    line = json.dumps({**event, "data": {"spent": {"pages": 6}}}).replace('"', '\\"')
    script = f'printf "\\036agora:1:%s {line}\\n" $AGORA_DISPATCH_ID $AGORA_DISPATCH_ID; exec sleep 600'
    handle = await agora.dispatch(command=["sh", "-c", script], budget={"pages": 10}, grace=2, **where)
    ended: list[Record] = []

    async def wait() -> None:
        ended.append(await handle.wait(confirmed=True, timeout=PATIENCE))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.fail_after(PATIENCE):
            async for told in handle.events(follow=True):
                if told.type is EventType.PROGRESS:
                    break
        assert (await handle.get(refresh=False)).spent == {"pages": 6}
        assert (await handle.spend(pages=4)).state is State.RUNNING
        assert (await handle.spend(pages=1.5)).spent == {"pages": 11.5}
    check_stopped(ended[0], "budget of 10 pages exceeded: 11.5")


@LOCAL
def test_the_background_supervisor_stops_it_when_the_command_says_what_it_spent(tmp_path: Path) -> None:
    def agora(*arguments: str) -> str:
        command = [sys.executable, "-m", "agora", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout

    id = agora("dispatch", "--budget", "tokens=10", "--budget", "usd=0.5", "--grace", "2", "--", "sleep", "600").strip()
    assert agora("spend", id, "tokens=3", "tokens=4") == "7 of 10 tokens, 0 of 0.5 usd\n"
    running = json.loads(agora("spend", id, "usd=0.5", "--json"))
    assert (running["spent"], running["budget"]) == ({"tokens": 7, "usd": 0.5}, {"tokens": 10, "usd": 0.5})
    agora("spend", id, "usd=0.01")
    until = time.monotonic() + PATIENCE
    with BlockingClient(supervisor=False) as client:  # which looks after nothing
        while not (record := client.get(id, refresh=False)).state.terminal:
            assert time.monotonic() < until
            time.sleep(0.1)
    check_stopped(record, "budget of 0.5 usd exceeded: 0.51")
    assert not alive(record)
    assert "Spent      7 of 10 tokens, 0.51 of 0.5 usd" in agora("show", id)


async def test_the_fake_client_keeps_budgets_too() -> None:
    async with FakeClient() as client:
        handle = await client.dispatch(command=["never-run"], budget={"tokens": 10})
        await handle.spend(tokens=10)
        async with AgoraClient(client.home, settings=client.settings, owner="else") as other:
            with pytest.raises(Forbidden, match="acts for else"):
                await other.spend(handle.id, tokens=1)
        await client.reconcile()
        assert (await handle.get()).state is State.RUNNING
        await handle.spend(tokens=1)
        check_stopped(await handle.wait(confirmed=True, timeout=PATIENCE), "budget of 10 tokens exceeded: 11")
