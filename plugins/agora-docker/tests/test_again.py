"""Containers that somebody starts again: a dispatch runs once, and what runs again is killed and told of."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import anyio
import pytest
from agora.client import AgoraClient
from agora.errors import ProviderError
from agora.model.observation import SECOND_COPY, EndedBy, Handle, Phase, ReceiptKind
from agora.model.record import Record, State
from agora_docker import stopping, watch
from agora_docker.notes import SentStop
from agora_docker.story import KILL, TERM, Happened, Story
from docker_harness import (
    GRACEFUL,
    SLEEP,
    STUBBORN,
    Docker,
    Sink,
    eventually,
    listens,
    processes,
    settings,
    watching,
)

pytestmark = pytest.mark.backend("docker")
#: Ends with 9 when it is stopped, and with 3 when it runs again.
TWICE = ("sh", "-c", "test -f /ran && exit 3; touch /ran; trap 'exit 9' TERM; echo READY; while :; do sleep 0.05; done")


def again(docker: Docker, handle: Handle, how: str = "restart") -> None:
    """Restart or start a container as an operator would."""
    docker.post(f"/containers/{handle.data['container']}/{how}")


def ended(docker: Docker, handle: Handle) -> bool:
    """Whether the engine says that nothing runs in a container."""
    found = docker.inspect(handle)
    return found is not None and not found["State"]["Running"]


def test_a_restart_ends_the_dispatch_and_what_runs_again_is_killed(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_RESTART", 30.0)  # a busy engine takes its time between the two halves
    handle = docker.started(*GRACEFUL, grace=20)
    sink = Sink(handle)
    with watching(docker.provider, sink):
        again(docker, handle)
        eventually(lambda: any(seen.phase is Phase.ENDED for seen in sink.pushed.get(handle.id, ())))
    assert processes(handle.id) == []
    told = sink.pushed[handle.id]
    assert told[0].reason == SECOND_COPY, "no end is told while it runs again"
    for seen in (told[-1], docker.look(handle), docker.another().observe([handle])[0]):
        assert (seen.phase, seen.exit_code, seen.ended_by) == (Phase.ENDED, 9, EndedBy.EXTERNAL)
        assert (seen.stop_reached, seen.forced) == (True, False)


@pytest.mark.parametrize("how", ["look", "stop"])
def test_a_restart_that_nobody_watched_is_found_by_whoever_looks(docker: Docker, how: str) -> None:
    handle = docker.started(*STUBBORN)
    docker.stop(handle, 40)  # the note of a stop under way stands, and nothing of it is left after the restart
    docker.post(f"/containers/{handle.data['container']}/restart", t=1)
    eventually(lambda: processes(handle.id))
    if how == "look":
        assert docker.look(handle).reason == SECOND_COPY
    else:
        assert docker.stop(handle, 40).kind is ReceiptKind.SIGNALLED
    eventually(lambda: not processes(handle.id))
    assert docker.end(handle).exit_code == 137
    assert len([one for one in docker.story(handle).events if one.action == "die"]) == 2


def test_what_was_started_again_with_nobody_there_is_killed_by_the_next_watch(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    docker.stop(handle, 10)
    assert docker.end(handle).exit_code == 9
    again(docker, handle, "start")
    eventually(lambda: processes(handle.id))
    sink = Sink()  # its record is over: nobody looks after it any more
    with watching(docker.another(), sink):
        eventually(lambda: not processes(handle.id))
        eventually(lambda: sink.pushed)
    assert [seen.reason for seen in sink.pushed[handle.id]] == [SECOND_COPY]


def test_what_was_started_again_with_nobody_there_is_killed_before_it_is_released(docker: Docker) -> None:
    handle = docker.start(*SLEEP)
    docker.stop(handle, 10)
    docker.end(handle)
    again(docker, handle, "start")

    def released() -> bool:
        with contextlib.suppress(ProviderError):  # it has not ended yet
            docker.provider.release(handle)
        return docker.containers() == []

    eventually(released)
    assert processes(handle.id) == []


def test_the_end_of_a_run_that_nobody_saw_is_not_blamed_on_the_restart(docker: Docker) -> None:
    handle = docker.started(*TWICE)
    again(docker, handle)
    eventually(lambda: ended(docker, handle))
    seen = docker.look(handle)
    assert (seen.exit_code, seen.ended_by, seen.stop_reached, seen.forced) == (3, None, False, None)


async def noted(client: AgoraClient, id: str) -> None:
    """Wait for the note of a second run."""
    while True:
        if any(note.type == SECOND_COPY for note in (await client.get(id)).notes):
            return
        await anyio.sleep(0.05)


def test_the_record_of_a_restarted_dispatch(docker: Docker) -> None:
    async def scenario() -> tuple[Record, Record]:
        home = docker.directory / "home"
        async with AgoraClient(home, settings=settings(docker), supervisor=False) as client:
            docker.installation = (home / "installation").read_text().strip()
            restarted, over, other = [(await client.dispatch(docker.spec(*SLEEP, grace=20))) for _ in range(3)]
            await anyio.to_thread.run_sync(eventually, lambda: listens(restarted.id, over.id, other.id))
            assert (await client.cancel(over.id)).delivered
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.supervise)
                await client.wait(over.id)
                containers = {one["Labels"]["agora.dispatch-id"]: one["Id"] for one in docker.containers()}
                for id, how in ((restarted.id, "restart"), (over.id, "start")):
                    path = f"/containers/{containers[id]}/{how}"
                    await anyio.to_thread.run_sync(docker.post, path)
                with anyio.fail_after(50):
                    await client.wait(restarted.id)
                    for one in (restarted, over):
                        await noted(client, one.id)
                await anyio.to_thread.run_sync(eventually, lambda: not processes(restarted.id) + processes(over.id))
                assert processes(other.id)
                await client.cancel(other.id)
                tasks.cancel_scope.cancel()
            return await client.get(restarted.id), await client.get(over.id)

    restarted, over = anyio.run(scenario)
    assert (restarted.state, restarted.reason, restarted.exit_code) == (State.FAILED, "stopped_externally", 143)
    assert (over.state, over.exit_code) == (State.CANCELLED, 143)
    for record in (restarted, over):
        assert record.confirmed
        assert [note.type for note in record.notes if note.type != "no_supervisor"] == [SECOND_COPY]


@pytest.fixture
def chatter(docker: Docker) -> Iterator[None]:
    """Another workload of ours, of which the engine tells something all the time."""
    other, enough = docker.start(*SLEEP), threading.Event()

    def chat() -> None:
        while not enough.wait(0.2):  # more often than a watch ticks
            docker.post(f"/containers/{other.data['container']}/kill", signal="SIGCONT")

    thread = threading.Thread(target=chat)
    thread.start()
    yield
    enough.set()
    thread.join()


@pytest.mark.usefixtures("chatter")
def test_what_has_outlived_its_grace_is_killed_on_a_busy_engine_too(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_OVERDUE", 0.0)
    handle = docker.started(*STUBBORN)
    with docker.provider._notes.stop(handle.id) as note:
        long_ago = int((docker.outside.facts().earliest() - 60) * 1e9)
        note.write(SentStop(container=str(handle.data["container"]), grace=2, at=long_ago, accepted=True))
    with watching(docker.provider, Sink(handle)):
        eventually(lambda: not processes(handle.id))


def test_a_story_is_told_run_by_run() -> None:
    second = 10**9
    events = [
        Happened(1 * second, "start"),
        Happened(2 * second, "kill", TERM),
        Happened(3 * second, "die", exit_code=9),
        Happened(4 * second, "start"),
        Happened(5 * second, "kill", TERM),
        Happened(6 * second, "die", exit_code=7),
        Happened(7 * second, "kill", KILL),
    ]
    story = Story(events)
    assert story.died == events[2], "the first end is the dispatch's"
    assert (story.last.died, story.since(4 * second).died) == (events[5], events[5])
    assert story.signals(TERM, KILL) == [events[1]]
    assert story.signals(TERM, KILL, since=4 * second) == [events[4]]
    assert story.last.signals(TERM, KILL) == [events[4]]


def test_what_the_engine_was_told_to_restart_is_over_soon(docker: Docker) -> None:
    """After `docker update --restart=always` no event tells of the end of one that is killed before its next start."""
    handle = docker.start("sh", "-c", "sleep 1; exit 3")
    docker.outside.request(
        "POST", f"/containers/{handle.data['container']}/update", json={"RestartPolicy": {"Name": "always"}}
    )
    sink = Sink(handle)
    with watching(docker.provider, sink):
        eventually(lambda: any(seen.phase is Phase.ENDED for seen in sink.pushed.get(handle.id, ())))
    assert sink.pushed[handle.id][-1].exit_code == 3
    assert processes(handle.id) == []
