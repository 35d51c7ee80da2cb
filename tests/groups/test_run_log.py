"""The log of a run, on processes: who was cancelled and why, and that whoever waited goes on at once."""

import json
import subprocess
import sys
import time

import anyio
import pytest
from agora import AgoraClient, DispatchCancelled
from agora.model.events import Event

from tests.groups.conftest import sleeper, spec

pytestmark = [pytest.mark.backend("local"), pytest.mark.anyio]


def agora_says(*args: str) -> list[dict[str, object]]:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "agora", *args, "--json"], capture_output=True, text=True, timeout=50, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


async def cancelled_by_another(agora: AgoraClient, run: str) -> tuple[float, list[Event]]:
    """Wait for two while another process cancels the first; return how late the waiter went on, and the log."""
    first = await agora.dispatch(**spec(sleeper()), run=run, name="first")
    second = await agora.dispatch(**spec(sleeper()), run=run, name="second")
    followed: list[Event] = []
    resumed: list[tuple[float, DispatchCancelled]] = []

    async def follow() -> None:
        followed.extend([event async for event in agora.run_events(run, follow=True)])

    command = [sys.executable, "-m", "agora", "cancel", first.id, "--reason", "not needed"]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            async with await anyio.open_process(command, stdout=subprocess.DEVNULL) as cancelling:
                try:
                    await agora.join_all([second, first])
                except DispatchCancelled as error:
                    resumed.append((time.time(), error))
                assert await cancelling.wait() == 0
            await second.cancel(reason="without the other")
    [(at, told)] = resumed
    assert told.record.id == first.id
    assert told.cause is not None
    assert told.cause.reason == "not needed"
    assert told.record.ended_at is not None
    of_first = [event for event in followed if event.subject == first.id]
    assert [event.type.value.removeprefix("dispatch.") for event in of_first] == [
        "requested", "submitted", "started", "cancel_requested", "stopping", "terminated",
    ]  # fmt: skip
    assert [event.data["cause"]["reason"] for event in of_first if event.data.get("cause")] == ["not needed"] * 2
    ends = [event.subject for event in followed if event.type.value == "dispatch.terminated"]
    assert ends == [first.id, second.id]
    assert [event.time for event in followed] == sorted(event.time for event in followed)
    return at - told.record.ended_at.timestamp(), followed


@pytest.mark.serial
async def test_a_waiter_resumes_at_once_and_the_log_tells_what_happened_in_order() -> None:
    async with AgoraClient(actor="ann") as agora:
        rounds = [await cancelled_by_another(agora, f"flow-{number}") for number in range(3)]
    took = [late for late, _ in rounds]
    assert sorted(took)[1] < 1, took
    _, followed = rounds[-1]
    told = [event.model_dump(mode="json") for event in followed]
    assert agora_says("events", "--run", "flow-2") == told, "the same in another process, with the store opened anew"
    async with AgoraClient() as again:
        assert [event async for event in again.run_events("flow-2")] == followed


async def test_the_command_line_follows_a_run_to_its_end() -> None:
    async with AgoraClient(actor="ann") as agora:
        handle = await agora.dispatch(**spec(sleeper()), run="nightly", name="import")
        command = [sys.executable, "-m", "agora", "events", "--run", "nightly", "-f"]
        text = ""
        async with await anyio.open_process(command) as following:
            assert following.stdout is not None
            with anyio.fail_after(60):
                async for chunk in following.stdout:
                    text += chunk.decode()
                    if "started" in text and "cancel_requested" not in text:
                        await handle.cancel(reason="wrong file")
                assert await following.wait() == 0
        lines = text.splitlines()
        assert "import    1  requested" in lines[0]
        assert "terminated" in lines[-1]
        assert "by ann via api: wrong file" in lines[-1]
        [last] = agora_says("events", "--run", "nightly", "--after", f"{handle.id}/{len(lines) - 1}")
        assert last["type"] == "dispatch.terminated"
