"""A cancel that asks first: the worker ends by itself, or the stop comes when its time is over."""

import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora import AgoraClient, EventType, InvalidRequest, Outcome, State

pytestmark = [pytest.mark.anyio, pytest.mark.backend("local"), pytest.mark.timeout(120)]
PATIENCE = 60.0
WORKER = """
import sys, time
from agora.worker import BlockingWorker
with BlockingWorker() as worker:
    print("ready", flush=True)
    while not worker.asked:
        time.sleep(0.05)
    print("last item done", flush=True)
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
async def agora() -> AsyncIterator[AgoraClient]:
    """Give a client whose workloads nobody but itself looks after; nothing of it is alive afterwards."""
    async with AgoraClient(actor="ann", supervisor=False) as client:
        yield client
        for record in await client.list(live=True):
            await client.cancel(record.id, force=True)
            await client.wait(record.id, confirmed=True, timeout=PATIENCE)


async def ready(client: AgoraClient, **fields: Any) -> Any:
    """Dispatch, and wait until it says that it is ready."""
    handle = await client.dispatch(grace=5, **fields)
    with anyio.fail_after(PATIENCE):
        async for chunk in handle.logs(follow=True):
            if b"ready" in chunk.data:
                return handle
    raise AssertionError("it never was")


@pytest.mark.parametrize("code", [0, 3])
async def test_a_worker_that_is_asked_ends_by_itself_and_was_cancelled(agora: AgoraClient, code: int) -> None:
    handle = await ready(agora, command=[sys.executable, "-c", textwrap.dedent(WORKER), str(code)])
    answer = await handle.cancel(reason="enough", soft=300)
    assert (answer.outcome, answer.delivered, answer.exit_code) == (Outcome.STOPPING, None, 0)
    record = await handle.wait(timeout=PATIENCE)
    assert (record.state, record.exit_code, record.confirmed) == (State.CANCELLED, code, True)
    assert record.acknowledged is (code == 0)
    assert (record.cause.reason, record.forced) == ("enough", False)
    assert b"last item done" in b"".join([chunk.data async for chunk in handle.logs()])
    kinds = [event.type async for event in handle.events()]
    assert EventType.STOPPING not in kinds, "no stop was sent"
    assert kinds[-2:] == [EventType.CANCELLED, EventType.TERMINATED]


async def test_one_that_does_not_listen_is_stopped_when_its_time_is_over(agora: AgoraClient) -> None:
    handle = await ready(agora, command=["sh", "-c", "echo ready; exec sleep 600"])
    answer = await handle.cancel(soft=3)
    assert answer.delivered is None
    record = await handle.wait(timeout=PATIENCE)
    assert (record.state, record.signal, record.confirmed) == (State.CANCELLED, 15, True)
    told = {event.type: event.time async for event in handle.events()}
    assert (told[EventType.STOPPING] - told[EventType.CANCEL_REQUESTED]).total_seconds() >= 3


async def test_a_cancel_without_it_does_not_wait(agora: AgoraClient) -> None:
    handle = await ready(agora, command=["sh", "-c", "echo ready; exec sleep 600"])
    await handle.cancel(reason="when you are done", soft=3600)
    again = await handle.cancel(reason="now", soft=1)
    assert (again.outcome, again.delivered) == (Outcome.ALREADY_STOPPING, None)
    now = await handle.cancel(reason="now")
    assert (now.outcome, now.delivered) == (Outcome.ALREADY_STOPPING, True)
    record = await handle.wait(timeout=PATIENCE)
    assert (record.state, record.cause.reason) == (State.CANCELLED, "when you are done")


async def test_the_background_supervisor_sends_the_stop_though_its_asker_is_gone() -> None:
    async with AgoraClient(actor="ann") as client:
        handle = await ready(client, command=["sh", "-c", "echo ready; exec sleep 600"])
        command = [sys.executable, "-m", "agora", "cancel", handle.id, "--soft", "2"]
        done = await anyio.run_process(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
        assert done.stdout.decode() == f"{handle.id} its worker is asked to end by itself\n"
        with anyio.fail_after(PATIENCE):
            while not (await client.get(handle.id, refresh=False)).state.terminal:  # noqa: ASYNC110 - another process
                await anyio.sleep(0.1)
        assert (await client.get(handle.id, refresh=False)).state is State.CANCELLED


async def test_its_file_goes_with_its_record(agora: AgoraClient) -> None:
    handle = await ready(agora, command=[sys.executable, "-c", textwrap.dedent(WORKER), "0"])
    await handle.cancel(soft=300)
    await handle.wait(timeout=PATIENCE)
    inbox = Path(os.environ["AGORA_HOME"]) / "inboxes" / handle.id
    assert inbox.read_text().startswith("ask=")
    assert await agora.prune(timedelta(0)) == [handle.id]
    assert not inbox.exists()


async def test_a_malformed_one_is_refused_before_anything_is_recorded(agora: AgoraClient) -> None:
    handle = await ready(agora, command=["sh", "-c", "echo ready; exec sleep 600"])
    wrong: list[dict[str, Any]] = [{"soft": 0}, {"soft": 1.5}, {"soft": True}, {"soft": 5, "force": True}]
    for fields in wrong:
        with pytest.raises(InvalidRequest, match="soft"):
            await handle.cancel(**fields)
    assert (await handle.get()).state is State.RUNNING


@pytest.mark.backend("docker")
async def test_where_nobody_can_be_asked_the_stop_is_sent_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agora_docker.conformance import target

    image = target().probe_spec("", [])["image"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agora.toml").write_text('[targets.docker]\nprovider = "docker"\npull = "never"\n')
    async with AgoraClient(actor="ann", supervisor=False) as client:
        handle = await client.dispatch(command=["sleep", "600"], image=image, target="docker", grace=2)
        answer = await handle.cancel(soft=3600)
        assert (answer.outcome, answer.delivered, answer.degraded) == (Outcome.STOPPING, True, ("soft",))
        record = await handle.wait(confirmed=True, timeout=PATIENCE)
    assert (record.state, record.degraded) == (State.CANCELLED, ("soft",))
