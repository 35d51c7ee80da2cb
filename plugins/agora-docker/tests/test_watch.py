"""One stream of events for all dispatches, and what heals its gaps."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import pytest
from agora.client import AgoraClient, DispatchHandle
from agora.model.observation import EndedBy, Phase
from agora.model.record import State
from agora_docker.testing.proxy import Proxy
from docker_harness import GRACEFUL, SLEEP, STUBBORN, Docker, Sink, eventually, fill_the_ring, settings, watching

pytestmark = pytest.mark.backend("docker")
#: Ends with a code once somebody sends it SIGUSR1.
ENDS = "trap 'exit {}' USR1; while :; do sleep 0.05; done"


def test_ends_are_pushed_with_all_that_is_known(docker: Docker) -> None:
    stopped, own = docker.started(*GRACEFUL), docker.start("sh", "-c", "sleep 1; exit 3")
    sink = Sink(stopped, own)
    with watching(docker.provider, sink):
        docker.post(f"/containers/{stopped.data['container']}/stop", t=20)
        eventually(lambda: sink.pushed.keys() == {stopped.id, own.id})
    seen = {id: observations[0] for id, observations in sink.pushed.items()}
    assert (seen[stopped.id].exit_code, seen[stopped.id].ended_by) == (9, EndedBy.EXTERNAL)
    assert (seen[own.id].exit_code, seen[own.id].ended_by, seen[own.id].stop_reached) == (3, None, False)


def test_a_removal_by_somebody_else_is_pushed(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    sink = Sink(handle)
    with watching(docker.provider, sink):
        docker.remove(str(handle.data["container"]))
        eventually(lambda: sink.pushed)
    assert {seen.phase for seen in sink.pushed[handle.id]} == {Phase.ENDED}
    assert {seen.exit_code for seen in sink.pushed[handle.id]} == {137}


def test_nothing_is_asked_while_nothing_happens(cuttable: Docker, proxy: Proxy) -> None:
    handles = [cuttable.start(*SLEEP) for _ in range(4)]
    sink = Sink(*handles)
    # The one list of what is old is made at the beginning, and not again for an hour.
    cuttable.provider._sweeper.step()
    with watching(cuttable.provider, sink):
        before = proxy.requests
        threading.Event().wait(3)  # the silence itself is what is looked at
        assert proxy.requests == before
        assert not sink.pushed


def test_the_watch_returns_when_its_connection_is_cut(cuttable: Docker, proxy: Proxy) -> None:
    sink = Sink(cuttable.start(*SLEEP))
    with watching(cuttable.provider, sink) as thread:
        proxy.cut()
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.serial
def test_what_happened_in_a_gap_is_made_good(cuttable: Docker, proxy: Proxy) -> None:
    """Cut the stream, let more happen than the engine remembers, and look at every end afterwards."""

    async def scenario() -> None:
        home = cuttable.directory / "home"
        async with AgoraClient(home, settings=settings(cuttable), supervisor=False) as client:
            cuttable.installation = (home / "installation").read_text().strip()
            handles = [await client.dispatch(cuttable.spec("sh", "-c", ENDS.format(code))) for code in (0, 5, 7)]
            away = await client.dispatch(cuttable.spec(*SLEEP))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.supervise)
                assert (await client.get(away.id)).state is State.RUNNING
                proxy.cut()
                await anyio.to_thread.run_sync(_tell_to_end, cuttable, handles)
                await anyio.to_thread.run_sync(eventually, lambda: _live(cuttable) == 1)
                await anyio.to_thread.run_sync(fill_the_ring, cuttable)
                assert {(await client.get(handle.id, refresh=False)).state.terminal for handle in handles} <= {False}
                proxy.heal()
                with anyio.fail_after(80):
                    records = [await client.wait(handle.id) for handle in handles]
                    assert (await client.get(away.id)).state is State.RUNNING
                tasks.cancel_scope.cancel()
        assert [record.exit_code for record in records] == [0, 5, 7]
        assert [record.state for record in records] == [State.SUCCEEDED, State.FAILED, State.FAILED]

    anyio.run(scenario)


def _tell_to_end(docker: Docker, handles: Sequence[DispatchHandle]) -> None:
    """Send SIGUSR1 to workloads, beside the provider."""
    for found in docker.containers():
        if found["Labels"]["agora.dispatch-id"] in {handle.id for handle in handles}:
            docker.post(f"/containers/{found['Id']}/kill", signal="SIGUSR1")


def _live(docker: Docker) -> int:
    return sum(found["State"] == "running" for found in docker.containers())
