"""What gives no sign is cancelled where that was asked for, and what gives one is not: on real workloads."""

import os
import signal
import sqlite3
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora import AgoraClient, EventType, InvalidRequest, State
from agora.engine import background
from agora.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
LOCAL = pytest.mark.backend("local")
PATIENCE = 60.0


async def until(question: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is true, for a bounded time, and return it."""
    with anyio.fail_after(PATIENCE):
        for _ in range(int(PATIENCE / 0.05)):
            if answer := await question():
                return answer
            await anyio.sleep(0.05)
    raise AssertionError("never came true")


def python(source: str, *arguments: object) -> list[str]:
    """Return the command that runs a program."""
    return [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)]


async def test_a_silent_workload_is_cancelled_and_one_that_speaks_is_not(
    agora: AgoraClient, where: dict[str, Any]
) -> None:
    silent = await agora.dispatch(command=["sh", "-c", "echo hi; exec sleep 600"], silence_timeout=4, grace=2, **where)
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do echo same; sleep 0.6; done"
    speaking = await agora.dispatch(command=["sh", "-c", script], silence_timeout=4, grace=2, **where)
    settled = await agora.join_all_settled([silent, speaking])
    assert [record.id for record in settled.succeeded] == [speaking.id]
    [record] = settled.cancelled
    assert record.cause is not None
    assert (record.cause.via, record.cause.policy) == ("policy", "output_silence")
    assert record.cause.reason == "no output for 4 s"
    assert (record.confirmed, record.started_at is not None) == (True, True)
    [told] = [event async for event in silent.events() if event.type is EventType.TERMINATED]
    assert told.data["cause"]["policy"] == "output_silence"


HEARTBEATS = """
import sys, time
from agora.worker import BlockingWorker
seconds, sign = float(sys.argv[1]), sys.argv[2]
until = time.monotonic() + seconds
with BlockingWorker() as worker:
    while time.monotonic() < until:
        worker.heartbeat() if sign == "heartbeat" else worker.progress(1, 2)
        time.sleep(0.05)
    if sign == "heartbeat":
        print("now it hangs", flush=True)
        time.sleep(600)
"""


@LOCAL
@pytest.mark.parametrize("way", ["stdout", "file"])
async def test_a_worker_is_cancelled_once_its_heartbeats_stop(agora: AgoraClient, tmp_path: Path, way: str) -> None:
    env = {"AGORA_WORKER_EVENTS": str(tmp_path / "events") if way == "file" else way}
    fields: dict[str, Any] = {"heartbeat_timeout": 4, "grace": 4, "env": env}
    hangs = await agora.dispatch(command=python(HEARTBEATS, 3, "heartbeat"), **fields)
    works = await agora.dispatch(command=python(HEARTBEATS, 6, "progress"), **fields)
    settled = await agora.join_all_settled([hangs, works])
    assert [record.id for record in settled.succeeded] == [works.id]
    [record] = settled.cancelled
    assert record.cause is not None
    assert (record.cause.policy, record.cause.reason) == ("missed_heartbeats", "no heartbeat for 4 s")
    told = [event async for event in hangs.events()]
    last = max(event.time for event in told if event.type is EventType.HEARTBEAT)
    [asked] = [event for event in told if event.type is EventType.CANCEL_REQUESTED]
    # When a heartbeat is read is told by the record, when it was given is earlier by less than a reading's pause.
    assert (asked.time - last).total_seconds() > 2.5
    assert record.acknowledged is True, "its worker was asked as by any cancel"


@LOCAL
async def test_one_that_never_gives_a_heartbeat_is_cancelled_too(agora: AgoraClient) -> None:
    handle = await agora.dispatch(command=["sh", "-c", "while :; do echo busy; sleep 0.2; done"], heartbeat_timeout=2)
    record = await handle.wait(timeout=PATIENCE)
    assert record.cause is not None
    assert record.cause.policy == "missed_heartbeats"
    assert record.started_at is not None
    assert record.stopping_at is not None
    assert (record.stopping_at - record.started_at).total_seconds() >= 2


WAITS = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
for number in range(10):
    print(number, flush=True)
    time.sleep(0.3)
"""


@LOCAL
async def test_silence_that_nobody_listened_to_cancels_nothing(home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    async with AgoraClient(supervisor=False) as first:
        handle = await first.dispatch(command=python(WAITS, go), silence_timeout=5, grace=2)
    # More than the time passes in which nobody is there.
    await anyio.sleep(6)
    async with AgoraClient(supervisor=False) as second, anyio.create_task_group() as tasks:
        records = []

        async def wait() -> None:
            records.append(await second.wait(handle.id, timeout=PATIENCE))

        tasks.start_soon(wait)
        await until(lambda: listened(home, handle.id))
        go.touch()
    assert [record.state for record in records] == [State.SUCCEEDED]


async def listened(home: Path, id: str) -> bool:
    """Whether somebody has listened, by the store."""
    store = Store(home)
    try:
        entry = await store.read(id)
        return entry.silent.counted_at is not None
    finally:
        store.close()


@pytest.fixture
def home() -> Path:
    """The state directory of this test."""
    return Path(os.environ["AGORA_HOME"])


@LOCAL
async def test_the_background_supervisor_goes_on_where_one_was_killed(home: Path) -> None:
    async with AgoraClient() as client:
        handle = await client.dispatch(command=["sleep", "600"], silence_timeout=6, grace=2)
        counted = await until(lambda: silent_for(home, handle.id, 2.0))
        pid = int((home / "supervisor.lock").read_text())
        os.kill(pid, signal.SIGKILL)
        await until(lambda: free(home))
        assert await silent_for(home, handle.id, counted)
        killed = time.monotonic()
        await client.get(handle.id)  # starts another one
        record = await until(lambda: ended(client, handle.id))
    assert record.state is State.CANCELLED
    assert record.cause.policy == "output_silence"
    assert time.monotonic() - killed > 6 - 2 * counted, "it was not counted anew, and what was counted is not forgotten"


async def ended(client: AgoraClient, id: str) -> Any:
    """The record of what has ended, else null; nobody here looks after it."""
    record = await client.get(id, refresh=False)
    return record if record.state.terminal else None


async def free(home: Path) -> bool:
    """Whether no supervisor is alive."""
    return not background.running(home)


async def silent_for(home: Path, id: str, seconds: float) -> float:
    """How long it was silent by the store, where that is long enough, else 0."""
    with closing(sqlite3.connect(f"file:{home}/agora.db?mode=ro", uri=True)) as connection:
        [[body]] = connection.execute(
            "SELECT json_extract(body, '$.silent.seconds') FROM dispatches WHERE id = ?", [id]
        )
    return float(body or 0) if float(body or 0) >= seconds else 0.0


@LOCAL
async def test_what_a_worker_says_in_a_file_arrives_on_the_record(agora: AgoraClient, tmp_path: Path) -> None:
    events = tmp_path / "events"
    source = """
    import time
    from agora.worker import BlockingWorker
    with BlockingWorker() as worker:
        worker.progress(1, 2, "half")
        time.sleep(600)
    """
    env = {"AGORA_WORKER_EVENTS": str(events)}
    handle = await agora.dispatch(command=python(source), env=env, grace=10)
    with anyio.fail_after(PATIENCE):
        async for event in handle.events(follow=True):
            if event.type is EventType.PROGRESS:
                assert event.data == {"done": 1, "total": 2, "message": "half"}
                break
    await handle.cancel(reason="enough")
    record = await handle.wait(timeout=PATIENCE)
    assert (record.state, record.acknowledged) == (State.CANCELLED, True)
    assert b"".join([chunk.data async for chunk in handle.logs()]) == b"", "there are no marks in its output"
    kinds = [event.type async for event in handle.events()]
    assert (kinds.count(EventType.PROGRESS), kinds.count(EventType.CANCELLED)) == (1, 1)


async def test_a_policy_that_nobody_could_carry_out_is_refused(agora: AgoraClient, where: dict[str, Any]) -> None:
    command = ["sleep", "600"]
    with pytest.raises(InvalidRequest, match="there are no heartbeats"):
        await agora.dispatch(command=command, heartbeat_timeout=5, env={"AGORA_WORKER_EVENTS": "none"}, **where)
    relative = {"AGORA_WORKER_EVENTS": "events.jsonl" if where["target"] == "local" else "/tmp/events.jsonl"}
    with pytest.raises(InvalidRequest, match=r"nobody here could read .*events\.jsonl"):
        await agora.dispatch(command=command, heartbeat_timeout=5, env=relative, **where)
    wrong: list[dict[str, Any]] = [{"heartbeat_timeout": 1}, {"silence_timeout": 0}]
    for fields in wrong:
        with pytest.raises(InvalidRequest, match="greater than or equal to 2"):
            await agora.dispatch(command=command, **fields, **where)
    assert await agora.list() == []
