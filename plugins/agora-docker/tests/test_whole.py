"""The whole product on the engine: clients that leave, many containers at once, an engine that restarts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.model.cancel import Outcome
from agora.model.record import State
from docker_harness import GRACEFUL, SLEEP, STUBBORN, Docker, eventually, processes
from engines import PrivateEngine

pytestmark = pytest.mark.backend("docker")


def settings(docker: Docker) -> Settings:
    """Return a configuration with this one target."""
    target = TargetConfig("docker", "docker", docker.config, "the test")
    return Settings(default_target="docker", targets={"docker": target})


class CommandLine:
    """The `agora` command with a state directory of its own."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self.home = docker.directory / "home"
        config = docker.directory / "agora.toml"
        config.write_text('default_target = "docker"\n[targets.docker]\nprovider = "docker"\npull = "never"\n')
        self._environment = {**os.environ, "AGORA_HOME": str(self.home), "AGORA_CONFIG": str(config)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it in a process of its own."""
        words = [sys.executable, "-m", "agora", *arguments]
        done = subprocess.run(
            words,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            cwd=self._docker.directory,
        )
        if (self.home / "installation").exists():
            self._docker.installation = (self.home / "installation").read_text().strip()
        return done

    def record(self, id: str) -> dict[str, Any]:
        """Return the record of a dispatch."""
        return dict(json.loads(self.run("show", id, "--json").stdout))


@pytest.fixture
def agora(docker: Docker) -> Iterator[CommandLine]:
    """The `agora` command on the engine of this machine."""
    made = CommandLine(docker)
    yield made
    made.run("cancel", "--all", "--force", "--yes")


def test_a_client_that_leaves_at_once_still_gets_its_timeout(docker: Docker, agora: CommandLine) -> None:
    sent = agora.run("dispatch", "--image", docker.image, "--timeout", "2", "--grace", "2", "--", *STUBBORN)
    assert sent.returncode == 0, sent.stderr
    id = sent.stdout.split()[0]
    assert processes(id)
    eventually(lambda: not processes(id), 20)
    eventually(lambda: agora.record(id)["state"] == "timed_out", 20)
    record = agora.record(id)
    assert (record["forced"], record["confirmed"], record["cause"]["policy"]) == (True, True, "timeout")


def test_a_shortened_grace_is_carried_out_with_nobody_waiting(docker: Docker, agora: CommandLine) -> None:
    id = agora.run("dispatch", "--image", docker.image, "--grace", "60", "--", *STUBBORN).stdout.split()[0]
    assert agora.run("cancel", id).returncode == 0
    begun = time.monotonic()
    agora.run("cancel", id, "--grace", "2")
    eventually(lambda: not processes(id), 20)
    assert time.monotonic() - begun < 15
    eventually(lambda: agora.record(id)["state"] == "cancelled", 20)


def test_stopped_by_somebody_else_is_a_failure(docker: Docker, agora: CommandLine) -> None:
    command = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
    id = agora.run("dispatch", "--image", docker.image, "--", *command).stdout.split()[0]
    (found,) = docker.containers()
    eventually(lambda: len(processes(id)) > 1)
    docker.post(f"/containers/{found['Id']}/stop", t=5)
    eventually(lambda: agora.record(id)["state"] == "failed", 20)
    record = agora.record(id)
    assert (record["reason"], record["exit_code"], record["confirmed"]) == ("stopped_externally", 0, True)


def test_a_wiped_store_finds_its_containers(docker: Docker, agora: CommandLine) -> None:
    id = agora.run("dispatch", "--image", docker.image, "--", *SLEEP).stdout.split()[0]
    stranger = Docker(docker.directory / "other")
    try:
        theirs = stranger.start(*SLEEP)
        for path in list(agora.home.glob("agora.db*")):
            path.unlink()
        listed = json.loads(agora.run("reap", "--dry-run", "--json").stdout)
        assert id in json.dumps(listed)
        assert theirs.id not in json.dumps(listed)
        assert processes(theirs.id)
    finally:
        stranger.clean()
        for found in docker.containers():
            docker.remove(found["Id"])


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_hundred_containers_are_cancelled_together(docker: Docker) -> None:
    count = 200

    async def scenario() -> None:
        home = docker.directory / "home"
        async with AgoraClient(home, settings=settings(docker), supervisor=False) as client:
            docker.installation = (home / "installation").read_text().strip()
            handles = []
            limiter = anyio.CapacityLimiter(16)

            async def start(command: tuple[str, ...]) -> None:
                async with limiter:
                    options = {"network": "none"}
                    handles.append(await client.dispatch(docker.spec(*command, grace=20, options=options)))

            async with anyio.create_task_group() as tasks:
                for number in range(count):
                    tasks.start_soon(start, GRACEFUL if number % 2 else SLEEP)
            answers: list[Outcome] = []

            async def cancel(id: str) -> None:
                answers.append((await client.cancel(id, reason="all of them")).outcome)

            async with anyio.create_task_group() as tasks:
                for handle in handles:
                    tasks.start_soon(cancel, handle.id)
            assert Counter(answers) == {Outcome.STOPPING: count}
            with anyio.fail_after(120):
                records = [await client.wait(handle.id, confirmed=True) for handle in handles]
        assert Counter(record.state for record in records) == {State.CANCELLED: count}
        assert all(record.confirmed for record in records)
        assert {record.exit_code for record in records} <= {9, 143}

    anyio.run(scenario)
    assert [found["State"] for found in docker.containers()] == ["exited"] * count


@pytest.fixture
def private(tmp_path: Path) -> Iterator[PrivateEngine]:
    """An engine that may be restarted, whose containers live on meanwhile."""
    with PrivateEngine(tmp_path / "engine", options=("--live-restore",)) as engine:
        yield engine


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_engine_restarts_and_nothing_is_lost(private: PrivateEngine, tmp_path: Path) -> None:
    docker = Docker(tmp_path, host=private.url)
    own = {"options": {"network": "none"}}

    async def scenario() -> None:
        async with AgoraClient(tmp_path / "home", settings=settings(docker), supervisor=False) as client:
            docker.installation = (tmp_path / "home" / "installation").read_text().strip()
            living = [await client.dispatch(docker.spec(*GRACEFUL, **own)) for _ in range(3)]
            ending = [await client.dispatch(docker.spec("sh", "-c", "sleep 4; exit 5", **own)) for _ in range(3)]
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
