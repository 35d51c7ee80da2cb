"""A start that the engine did not see through: the workload runs, and the engine says `created`."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora.client import AgoraClient
from agora.errors import ProviderError, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase
from agora.model.record import State
from agora_docker import starting
from agora_docker.interrupted import REASON
from agora_docker.testing import images
from docker_harness import Docker, eventually, kill, never, processes, settings
from engines import PrivateEngine

pytestmark = [pytest.mark.backend("docker"), pytest.mark.slow, pytest.mark.timeout(300)]

#: A runtime whose start takes so long that the engine can end between the process and its note of it.
SLOW = '#!/bin/sh\nrunc "$@"\ncode=$?\ncase " $* " in *" start "*) sleep 3 ;; esac\nexit $code\n'


class Case:
    """An engine that is slow to start, and a command that leaves a file for each time that it runs.

    Parameters:
        folder: where everything is kept.
        options: of the engine.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        runtime = folder / "slow"
        runtime.write_text(SLOW)
        runtime.chmod(0o755)
        self.private = PrivateEngine(
            folder / "engine",
            options=("--live-restore", f"--add-runtime=slow={runtime}", "--default-runtime=slow", *options),
        )
        self._runs = folder / "runs"
        self._runs.mkdir()
        mount = {"type": "bind", "source": str(self._runs), "target": "/runs"}
        self.fields: dict[str, Any] = {"options": {"network": "none", "mounts": [mount]}}
        self.command = ("sh", "-c", "mktemp /runs/$AGORA_DISPATCH_ID.XXXXXX; while :; do sleep 0.05; done")

    def ran(self) -> int:
        """Return how often it ran."""
        return len(list(self._runs.iterdir()))

    def start(self, docker: Docker, id: str, end: Callable[[], None]) -> BaseException | None:
        """Start it, and do `end` as soon as it runs; return what the start failed with."""
        spec = docker.spec(*self.command, **self.fields)
        with ThreadPoolExecutor(1) as threads:
            started = threads.submit(docker.provider.dispatch, id, spec, never)
            eventually(self.ran)
            end()
            return started.exception(60)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[list[str]]:
    """Ids whose processes are killed in the end: no engine does."""
    ids: list[str] = []
    yield ids
    kill(*ids)


def is_told_as_it_is(docker: Docker, case: Case, id: str) -> None:
    """It runs, once, and nobody says that it does not, that it was stopped or that it never ran."""
    handle = docker.start(*case.command, id=id, **case.fields)
    assert docker.provider.find(id) == handle
    (container,) = docker.containers()
    assert (container["Id"], container["State"]) == (handle.data["container"], "created")
    seen = docker.look(handle)
    assert (seen.phase, seen.reachable, seen.reason, seen.never_started) == (Phase.PENDING, False, REASON, False)
    for stop in (docker.stop, docker.provider.kill):
        with pytest.raises(Unreachable, match="neither see nor stop"):
            stop(handle)
    with pytest.raises(ProviderError, match="neither see nor stop"):
        docker.provider.release(handle)
    assert len(docker.containers()) == 1
    assert processes(id)
    assert case.ran() == 1


@pytest.mark.parametrize("other", [False, True], ids=["json-file", "local, with /sbin in /usr"])
def test_the_engine_dies_while_it_starts_a_container(
    tmp_path: Path, left: list[str], monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    monkeypatch.setattr(starting, "_LEFT_BEHIND", 0.2)
    case, id = Case(tmp_path, *(["--log-driver=local"] if other else [])), new_dispatch_id()
    left.append(id)
    with case.private as private:
        docker = Docker(tmp_path, host=private.url)
        try:
            if other:
                usr = "RUN mkdir -p /usr/sbin && ln -s usr/sbin /sbin"
                case.fields["image"] = images.derive(docker.outside, "agora-test/merged:1", usr)
            assert isinstance(case.start(docker, id, lambda: private.end(signal.SIGKILL)), Unreachable)
            private.begin()
            is_told_as_it_is(docker, case, id)
        finally:
            docker.clean()


def test_containerd_dies_while_a_container_is_started(
    tmp_path: Path, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine refuses the start then, as it refuses what cannot be started, while the workload runs."""
    monkeypatch.setattr(starting, "_LEFT_BEHIND", 0.2)
    case, id = Case(tmp_path), new_dispatch_id()
    left.append(id)
    with case.private as private:
        docker = Docker(tmp_path, host=private.url)
        try:
            failure = case.start(docker, id, private.end_containerd)
            assert isinstance(failure, Unreachable)
            assert "neither see nor stop" in str(failure)
            is_told_as_it_is(docker, case, id)
        finally:
            docker.clean()


def test_a_cancel_of_it_is_never_said_to_be_confirmed(tmp_path: Path, left: list[str]) -> None:
    case = Case(tmp_path)
    with case.private as private:
        docker = Docker(tmp_path, host=private.url)
        patient = settings(docker)
        hasty = dataclasses.replace(patient, lost_after=1.0)

        async def scenario() -> None:
            left.append(id := new_dispatch_id())
            async with AgoraClient(tmp_path / "home", settings=patient, supervisor=False) as client:
                docker.installation = (tmp_path / "home" / "installation").read_text().strip()
                spec = docker.spec(*case.command, **case.fields)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.supervise)
                    async with anyio.create_task_group() as dispatching:
                        dispatching.start_soon(lambda: client.dispatch(spec, id=id))
                        await anyio.to_thread.run_sync(lambda: eventually(case.ran))
                        await anyio.to_thread.run_sync(private.end, signal.SIGKILL)
                        await anyio.to_thread.run_sync(private.begin)
                    record = await client.get(id)
                    with anyio.fail_after(60):
                        while record.reason != REASON:
                            await anyio.sleep(0.05)
                            record = await client.get(id)
                    assert (record.state, record.reachable) == (State.SUBMITTED, False)
                    assert not (await client.cancel(id)).delivered
                    tasks.cancel_scope.cancel()
            async with AgoraClient(tmp_path / "home", settings=hasty, supervisor=False) as client:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.supervise)
                    with anyio.fail_after(60):
                        record = await client.wait(id)
                    tasks.cancel_scope.cancel()
                assert (record.state, record.confirmed) == (State.CANCELLED, False)
                assert processes(id)
                assert case.ran() == 1

        try:
            anyio.run(scenario)
        finally:
            docker.clean()
