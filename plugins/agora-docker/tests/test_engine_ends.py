"""An engine that restarts, is shut down or is killed: nothing is lost, and nothing that lives is said to be dead."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora.client import AgoraClient
from agora.model.cancel import Outcome
from agora.model.record import Record, State
from agora_docker.interrupted import REASON
from docker_harness import GRACEFUL, SLEEP, STUBBORN, Docker, eventually, kill, listens, processes, settings
from engines import PrivateEngine

pytestmark = [pytest.mark.backend("docker"), pytest.mark.slow, pytest.mark.timeout(600)]

LIVE_RESTORE = ("--live-restore",)
OWN: dict[str, Any] = {"options": {"network": "none"}}


def ends_when_told(code: int, place: Path) -> dict[str, Any]:
    """Return the fields of a workload that ends with a code once there is a file `now` in a place."""
    place.mkdir(exist_ok=True)
    script = f"while ! test -e /place/now; do sleep 0.05; done; exit {code}"
    mount = {"type": "bind", "source": str(place), "target": "/place"}
    return {"command": ("sh", "-c", script), "options": {"network": "none", "mounts": [mount]}}


def test_the_engine_restarts_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    with PrivateEngine(tmp_path / "engine", options=LIVE_RESTORE) as private:
        docker = Docker(tmp_path, host=private.url)

        async def scenario() -> None:
            async with AgoraClient(tmp_path / "home", settings=settings(docker), supervisor=False) as client:
                docker.installation = (tmp_path / "home" / "installation").read_text().strip()
                living = [await client.dispatch(docker.spec(*GRACEFUL, **OWN)) for _ in range(3)]
                place = tmp_path / "place"
                ending = [await client.dispatch(docker.spec(**ends_when_told(5, place))) for _ in range(3)]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.supervise)
                    await anyio.to_thread.run_sync(private.end)
                    undelivered = await client.cancel(living[0].id)
                    assert (undelivered.outcome, undelivered.delivered) == (Outcome.STOPPING, False)
                    for handle in (*living, *ending):
                        record = await client.get(handle.id)
                        assert not record.state.terminal
                        assert record.reachable is False
                    assert all(processes(handle.id) for handle in living)
                    (place / "now").touch()
                    await anyio.to_thread.run_sync(private.begin)
                    with anyio.fail_after(60):
                        stopped = await client.wait(living[0].id, confirmed=True)
                        ended = [await client.wait(handle.id, confirmed=True) for handle in ending]
                    for handle in living[1:]:
                        assert (await client.get(handle.id)).state is State.RUNNING
                        assert (await client.cancel(handle.id)).delivered
                    with anyio.fail_after(60):
                        rest = [await client.wait(handle.id, confirmed=True) for handle in living[1:]]
                    tasks.cancel_scope.cancel()
            assert [record.state for record in (stopped, *rest)] == [State.CANCELLED] * 3
            assert [record.state for record in ended] == [State.FAILED] * 3
            assert {record.exit_code for record in ended} <= {5, None}

        try:
            anyio.run(scenario)
        finally:
            docker.clean()


async def in_a_thread(work: Callable[[], None]) -> None:
    """Do something that blocks."""
    await anyio.to_thread.run_sync(work)


class Truth:
    """What is written down, held against what lives.

    Parameters:
        client: of the installation.
        ids: what is looked at.
    """

    def __init__(self, client: AgoraClient, *ids: str) -> None:
        self._client = client
        self._ids = ids

    async def look(self) -> list[Record]:
        """Read the records; what has ended there must not live."""
        records = [await self._client.get(id, refresh=False) for id in self._ids]
        # Looked at after the records were read: what was dead then is dead now.
        for record in records:
            if record.state.terminal:
                assert not processes(record.id), f"{record.state} while it lives"
        return records

    async def while_away(self, count: int) -> None:
        """Look for a while at dispatches whose engine is not there."""
        for _ in range(count):
            await self.look()
            await anyio.sleep(0.1)

    async def to_its_end(self, within: float = 60) -> list[Record]:
        """Look until everything has a confirmed end."""
        with anyio.fail_after(within):
            while not all(record.state.terminal and record.confirmed for record in await self.look()):
                await self.while_away(1)
        return await self.look()


@pytest.mark.parametrize("options", [LIVE_RESTORE, ()], ids=["live-restore", "plain"])
def test_the_engine_is_killed(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Containers live on without it. Its next start takes them over with live-restore, and ends them without."""
    with PrivateEngine(tmp_path / "engine", options=options) as private:
        docker = Docker(tmp_path, host=private.url)

        async def scenario() -> None:
            async with AgoraClient(tmp_path / "home", settings=settings(docker), supervisor=False) as client:
                docker.installation = (tmp_path / "home" / "installation").read_text().strip()
                place = tmp_path / "place"
                lives = await client.dispatch(docker.spec(*GRACEFUL, grace=20, **OWN))
                stopped = await client.dispatch(docker.spec(*STUBBORN, grace=8, **OWN))
                ends = await client.dispatch(docker.spec(**ends_when_told(5, place)))
                await in_a_thread(lambda: eventually(lambda: listens(lives.id, stopped.id, ends.id)))
                truth = Truth(client, lives.id, stopped.id, ends.id)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.supervise)
                    assert (await client.cancel(stopped.id)).delivered
                    await anyio.to_thread.run_sync(private.end, signal.SIGKILL)
                    assert processes(lives.id)
                    record = await client.get(lives.id)
                    assert (record.state, record.reachable) == (State.RUNNING, False)
                    (place / "now").touch()
                    with anyio.fail_after(60):
                        while processes(ends.id):
                            await truth.while_away(1)
                    await truth.while_away(10)
                    assert processes(lives.id)
                    assert processes(stopped.id), "whoever was to kill it is dead"
                    await anyio.to_thread.run_sync(private.begin)
                    if options:
                        settled = await Truth(client, stopped.id, ends.id).to_its_end()
                        assert (await client.get(lives.id)).state is State.RUNNING
                        assert processes(lives.id)
                        assert (await client.cancel(lives.id)).delivered
                        (own,) = await Truth(client, lives.id).to_its_end()
                        assert (own.state, own.exit_code) == (State.CANCELLED, 9)
                    else:
                        own, *settled = await truth.to_its_end()
                        assert own.state is State.FAILED, "nobody asked for it, and the engine stopped it"
                        assert own.exit_code == 9
                    assert settled[0].state is State.CANCELLED
                    assert settled[1].state is State.FAILED
                    assert settled[1].exit_code in (5, None), "the code of a container that ended unseen may be lost"
                    tasks.cancel_scope.cancel()

        try:
            anyio.run(scenario)
        finally:
            docker.clean()


def test_the_engine_is_shut_down_and_takes_its_containers_along(tmp_path: Path) -> None:
    with PrivateEngine(tmp_path / "engine") as private:
        docker = Docker(tmp_path, host=private.url)

        async def scenario() -> None:
            async with AgoraClient(tmp_path / "home", settings=settings(docker), supervisor=False) as client:
                docker.installation = (tmp_path / "home" / "installation").read_text().strip()
                graceful = await client.dispatch(docker.spec(*GRACEFUL, grace=10, **OWN))
                plain = await client.dispatch(docker.spec(*SLEEP, grace=10, **OWN))
                cancelled = await client.dispatch(docker.spec(*STUBBORN, grace=3, **OWN))
                await in_a_thread(lambda: eventually(lambda: listens(graceful.id, plain.id, cancelled.id)))
                truth = Truth(client, graceful.id, plain.id, cancelled.id)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.supervise)
                    assert (await client.cancel(cancelled.id, grace=60)).delivered
                    async with anyio.create_task_group() as ending:
                        ending.start_soon(in_a_thread, private.end)
                        await truth.while_away(20)
                    assert not any(processes(handle.id) for handle in (graceful, plain, cancelled))
                    await truth.while_away(5)
                    await anyio.to_thread.run_sync(private.begin)
                    records = await truth.to_its_end()
                    tasks.cancel_scope.cancel()
            assert [record.state for record in records] == [State.FAILED, State.FAILED, State.CANCELLED]
            assert [record.exit_code for record in records] == [9, 143, 137]

        try:
            anyio.run(scenario)
        finally:
            docker.clean()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "killed"])
def test_what_is_being_dispatched_meanwhile_is_neither_lost_nor_doubled(tmp_path: Path, how: signal.Signals) -> None:
    """Dispatches go on all the time; each runs once, or was refused and never runs.

    One whose start the engine did not see through may run, once, and nobody says that it does not.
    """
    runs = tmp_path / "runs"
    runs.mkdir()
    mount = {"type": "bind", "source": str(runs), "target": "/runs"}
    options = {"network": "none", "mounts": [mount]}
    command = ("sh", "-c", "trap 'exit 9' TERM; mktemp /runs/$AGORA_DISPATCH_ID.XXXXXX; while :; do sleep 0.05; done")
    count = 12
    unseen: list[str] = []

    def others(records: list[Record]) -> list[Record]:
        return [record for record in records if record.reason != REASON]

    with PrivateEngine(tmp_path / "engine", options=LIVE_RESTORE) as private:
        docker = Docker(tmp_path, host=private.url)

        async def scenario() -> None:
            async with AgoraClient(tmp_path / "home", settings=settings(docker), supervisor=False) as client:
                docker.installation = (tmp_path / "home" / "installation").read_text().strip()
                limiter, ids, begun = anyio.CapacityLimiter(3), list[str](), anyio.Event()

                async def dispatch() -> None:
                    async with limiter:
                        ids.append((await client.dispatch(docker.spec(*command, grace=20, options=options))).id)
                        if len(ids) == 3:
                            begun.set()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.supervise)
                    async with anyio.create_task_group() as dispatches:
                        for _ in range(count):
                            dispatches.start_soon(dispatch)
                        with anyio.fail_after(60):
                            await begun.wait()
                        await anyio.to_thread.run_sync(private.end, how)
                        await anyio.to_thread.run_sync(private.begin)
                    records = [await client.get(id) for id in ids]
                    with anyio.fail_after(60):
                        while any(record.state in (State.PENDING, State.SUBMITTED) for record in others(records)):
                            await anyio.sleep(0.1)
                            records = [await client.get(id) for id in ids]
                    ran = [record.id for record in records if record.state is State.RUNNING]
                    assert len(ran) >= 3
                    assert {record.state for record in others(records)} <= {State.RUNNING, State.FAILED}
                    # A container that has just been started may not have come to its first word.
                    await in_a_thread(lambda: eventually(lambda: len({*runs.iterdir()}) >= len(ran)))
                    for record in records:
                        times = len(list(runs.glob(f"{record.id}.*")))
                        if record.reason == REASON:
                            assert times <= 1, record
                            unseen.append(record.id)
                        else:
                            assert bool(processes(record.id)) == (record.id in ran), record
                            assert times == (record.id in ran), record
                    for id in ran:
                        await client.cancel(id)
                    ended = await Truth(client, *ran).to_its_end()
                    assert {(record.state, record.exit_code) for record in ended} == {(State.CANCELLED, 9)}
                    tasks.cancel_scope.cancel()
                assert len(records) == count

        try:
            anyio.run(scenario)
        finally:
            docker.clean()
            kill(*unseen)
