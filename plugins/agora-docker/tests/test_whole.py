"""The whole product on the engine: clients that leave, many containers at once, an engine that restarts."""

from __future__ import annotations

import json
import time
from collections import Counter

import anyio
import pytest
from agora.client import AgoraClient
from agora.model.cancel import Outcome
from agora.model.record import State
from docker_harness import (
    GRACEFUL,
    SLEEP,
    STUBBORN,
    CommandLine,
    Docker,
    engine_socket,
    eventually,
    processes,
    settings,
)

pytestmark = pytest.mark.backend("docker")


def test_a_client_that_leaves_at_once_still_gets_its_timeout(docker: Docker, agora: CommandLine) -> None:
    id = agora.dispatch("--timeout", "4", "--grace", "4", "--", *STUBBORN)
    eventually(lambda: processes(id))
    eventually(lambda: not processes(id))
    eventually(lambda: agora.record(id)["state"] == "timed_out")
    record = agora.record(id)
    assert (record["forced"], record["confirmed"], record["cause"]["policy"]) == (True, True, "timeout")


def test_a_supervisor_that_was_started_in_other_surroundings_keeps_the_deadline(
    docker: Docker, agora: CommandLine
) -> None:
    agora.environment["DOCKER_HOST"] = f"unix://{docker.directory}/nowhere.sock"
    agora.configure(host=f"unix://{engine_socket()}")
    first = agora.dispatch("--", *SLEEP)
    agora.environment["DOCKER_HOST"] = f"unix://{engine_socket()}"
    agora.configure()
    id = agora.dispatch("--timeout", "2", "--grace", "2", "--", *STUBBORN)
    assert processes(id)
    eventually(lambda: not processes(id))
    assert processes(first), "the supervisor was there all the time"


def test_a_cancel_from_other_surroundings_reaches_the_engine_of_the_dispatch(
    docker: Docker, agora: CommandLine
) -> None:
    agora.environment["DOCKER_HOST"] = f"unix://{engine_socket()}"
    id = agora.dispatch("--", *SLEEP)
    agora.environment["DOCKER_HOST"] = f"unix://{docker.directory}/nowhere.sock"
    assert agora.run("cancel", id, "--wait").returncode == 0
    assert not processes(id)


def test_a_shortened_grace_is_carried_out_with_nobody_waiting(docker: Docker, agora: CommandLine) -> None:
    id = agora.dispatch("--grace", "60", "--", *STUBBORN)
    assert agora.run("cancel", id).returncode == 0
    begun = time.monotonic()
    agora.run("cancel", id, "--grace", "2")
    eventually(lambda: not processes(id))
    assert time.monotonic() - begun < 40
    eventually(lambda: agora.record(id)["state"] == "cancelled")


def test_stopped_by_somebody_else_is_a_failure(docker: Docker, agora: CommandLine) -> None:
    command = ("sh", "-c", "trap 'exit 0' TERM; echo READY; while :; do sleep 0.05; done")
    id = agora.dispatch("--", *command)
    (found,) = docker.containers()
    path = f"/containers/{found['Id']}"
    eventually(lambda: b"READY" in docker.outside.request("GET", f"{path}/logs", params={"stdout": "1"}).content)
    docker.post(f"{path}/stop", t=20)
    eventually(lambda: agora.record(id)["state"] == "failed")
    record = agora.record(id)
    assert (record["reason"], record["exit_code"], record["confirmed"]) == ("stopped_externally", 0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--image", "nowhere/nothing:1"), 125, "No such image: nowhere/nothing:1"),
        (("--option", "network=nowhere"), 125, "network nowhere not found"),
    ],
)
def test_the_command_line_says_why_nothing_was_started(
    docker: Docker, agora: CommandLine, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = agora.run("run", "--image", docker.image, *arguments, "--", "true")
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    sent = agora.run("dispatch", "--image", docker.image, *arguments, "--", "true")
    assert (sent.returncode, len(sent.stdout.split())) == (code, 1)
    assert words in sent.stderr


def test_a_dispatch_to_an_engine_that_is_away_says_so_and_starts_once_it_is_there(
    docker: Docker, agora: CommandLine
) -> None:
    socket = docker.directory / "engine.sock"
    agora.configure(host=f"unix://{socket}")
    done = agora.run("dispatch", "--image", docker.image, "--", *SLEEP)
    assert (done.returncode, len(done.stdout.split())) == (0, 1)
    assert str(socket) in done.stderr
    assert "tried again" in done.stderr
    (id,) = done.stdout.split()
    assert not processes(id)
    socket.symlink_to(engine_socket())
    eventually(lambda: processes(id))


def test_a_wiped_store_finds_its_containers(docker: Docker, agora: CommandLine) -> None:
    id = agora.dispatch("--", *SLEEP)
    stranger = Docker(docker.directory / "other")
    try:
        theirs = stranger.start(*SLEEP)
        for path in list(agora.home.glob("agora.db*")):
            path.unlink()
        listed = json.loads(agora.run("reap", "--dry-run", "--json").stdout)
        assert id in json.dumps(listed)
        assert theirs.id not in json.dumps(listed)
        eventually(lambda: processes(theirs.id))
    finally:
        stranger.clean()
        for found in docker.containers():
            docker.remove(found["Id"])


@pytest.mark.serial
@pytest.mark.beside
@pytest.mark.slow
@pytest.mark.timeout(900)
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
            with anyio.fail_after(400):
                records = [await client.wait(handle.id, confirmed=True) for handle in handles]
        assert Counter(record.state for record in records) == {State.CANCELLED: count}
        assert all(record.confirmed for record in records)
        assert {record.exit_code for record in records} <= {9, 143}

    anyio.run(scenario)
    eventually(lambda: [found["State"] for found in docker.containers()] == ["exited"] * count)
