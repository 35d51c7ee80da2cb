"""`agora-worker exec` in real containers: as their first process, and below the engine's init."""

from __future__ import annotations

import json
import site
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import agora.worker
import anyio
import pytest
from agora import AgoraClient, EventType, State
from agora.worker.children import descendants
from agora.worker.marks import Sieve
from docker_harness import Docker, eventually, settings

pytestmark = pytest.mark.backend("docker")
#: This machine's Python and its libraries, read-only; the shell and all else is the image's.
PLACES = [
    place
    for place in sorted(
        {"/lib", "/usr/lib", "/lib64", sys.base_prefix, sys.prefix, *site.getsitepackages()}
        | {str(Path(agora.worker.__file__).resolve().parents[2])}
    )
    if Path(place).exists()
]
WORKER = [sys.executable, "-P", "-m", "agora.worker", "exec"]
SECRET = "s3cret-value"
WAIT = "while :; do sleep 0.05; done"


class Container:
    """A container without an init of the engine's: the worker is its first process.

    Parameters:
        docker: whose engine.
        command: what the worker runs.
        environment: of the container.
        options: of `agora-worker exec`.
    """

    def __init__(self, docker: Docker, *command: str, environment: dict[str, str], options: tuple[str, ...]) -> None:
        self._engine = docker.outside
        given = {"AGORA_DISPATCH_ID": "d1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        body = {
            "Image": docker.image,
            "Entrypoint": [*WORKER, *options, "--", *command],
            "Env": [f"{name}={value}" for name, value in given.items()],
            "HostConfig": {"Init": False, "Binds": [f"{place}:{place}:ro" for place in PLACES]},
        }
        made = self._engine.request("POST", "/containers/create", json=body).json()
        self._path = f"/containers/{made['Id']}"
        self._engine.request("POST", f"{self._path}/start", seconds=60)

    @property
    def pid(self) -> int:
        """The pid of its first process, outside."""
        return int(self._engine.request("GET", f"{self._path}/json").json()["State"]["Pid"])

    @property
    def told(self) -> tuple[str, list[dict[str, Any]]]:
        """What it has said so far: the command's own output, and the events."""
        params = {"stdout": "1"}
        raw = self._engine.request("GET", f"{self._path}/logs", params=params).content
        plain = b""
        while raw:
            size = int.from_bytes(raw[4:8], "big")
            plain, raw = plain + raw[8 : 8 + size], raw[8 + size :]
        sieve = Sieve("d1")
        output, events = sieve.feed(plain)
        return (output + sieve.close()).decode(), [json.loads(event) for event in events]

    def says(self, word: str) -> Callable[[], bool]:
        """Return a question: has it said that?"""
        return lambda: word in self.told[0]

    def stop(self, grace: int) -> None:
        """Do what `docker stop` does."""
        self._engine.request("POST", f"{self._path}/stop", params={"t": grace}, seconds=60, accept=(304,))

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return int(self._engine.request("POST", f"{self._path}/wait", seconds=60).json()["StatusCode"])

    def remove(self) -> None:
        """Remove it, whatever it does."""
        self._engine.request("DELETE", self._path, params={"force": "1", "v": "1"}, seconds=60, accept=(404,))


Start = Callable[..., Container]


@pytest.fixture
def first(docker: Docker) -> Iterator[Start]:
    """Give a starter of containers whose first process is the worker."""
    made: list[Container] = []

    def start(script: str, *options: str, **environment: str) -> Container:
        made.append(Container(docker, "sh", "-c", script, environment=environment, options=options))
        return made[-1]

    yield start
    for one in made:
        one.remove()


def states(pid: int) -> dict[int, str]:
    """Return the state letter of every process below one; `Z` has ended and was not waited for."""
    found = {}
    for below in descendants(pid):
        with suppress(OSError):
            found[below] = Path(f"/proc/{below}/stat").read_text().rpartition(")")[2].split()[0]
    return found


def test_it_passes_sigterm_on_tells_of_it_and_ends_as_the_command_does(first: Start) -> None:
    container = first(f"trap 'echo cleaned up; exit 5' TERM; echo pid $$; {WAIT}")
    eventually(container.says("pid "))
    assert "pid 1\n" not in container.told[0], "the worker is the first process"
    container.stop(20)
    assert container.wait() == 5
    output, events = container.told
    assert output.splitlines()[-1] == "cleaned up"
    assert [(event["type"], event["data"]["clean"]) for event in events] == [("dispatch.cancelled", True)]


def test_it_waits_for_orphans_and_ends_those_that_outlive_the_command(first: Start) -> None:
    orphans = "for n in 1 2 3; do (sh -c 'sleep 0.1' &); done; (sh -c 'sleep 300' &)"
    container = first(f"{orphans}; echo ready; trap 'exit 0' TERM; {WAIT}", "--grace", "8")
    eventually(container.says("ready"))
    pid = container.pid
    # The command, whatever it sleeps with, and the orphan that stays.
    eventually(lambda: len(states(pid)) <= 4 and "Z" not in states(pid).values())
    container.stop(20)
    assert container.wait() == 0
    assert not Path(f"/proc/{pid}").exists()


def test_it_keeps_the_deadline(first: Start) -> None:
    container = first(WAIT, "--timeout", "0.5")
    assert container.wait() == 124
    (event,) = container.told[1]
    assert event["data"]["cause"]["policy"] == "timeout"


def test_secrets_reach_the_command_alone(first: Start) -> None:
    container = first(f"echo ${{#KEY}}; {WAIT}", AGORA_WORKER_SECRETS="KEY", KEY=SECRET)
    eventually(container.says(str(len(SECRET))))
    eventually(lambda: SECRET.encode() not in Path(f"/proc/{container.pid}/environ").read_bytes())


def test_a_dispatch_is_acknowledged_and_its_secrets_are_gone_when_it_has_ended(docker: Docker, tmp_path: Path) -> None:
    script = f"trap 'exit 9' TERM; wc -c < /run/secrets/KEY; echo READY; {WAIT}"
    mounts = [{"type": "bind", "source": place, "target": place, "read_only": True} for place in PLACES]

    async def life() -> None:
        async with AgoraClient(tmp_path / "home", settings=settings(docker), actor="ann") as client:
            docker.installation = (tmp_path / "home" / "installation").read_text().strip()
            handle = await client.dispatch(
                command=[*WORKER, "--", "sh", "-c", script],
                image=docker.image,
                secrets={"KEY": SECRET},
                grace=20,
                options={"mounts": mounts, "secrets": "files", "pull": "never"},
            )
            output = b""
            async for chunk in handle.logs(follow=True):
                output += chunk.data
                if b"READY" in output:
                    break
            assert output.split()[0] == str(len(SECRET)).encode()
            await handle.cancel(reason="enough")
            record = await handle.wait(confirmed=True, timeout=60)
            assert (record.state, record.exit_code, record.acknowledged) == (State.CANCELLED, 9, True)
            told = [event async for event in handle.events() if event.type is EventType.CANCELLED]
            assert [(event.data["clean"], event.data["cause"]["actor"]) for event in told] == [(True, "ann")]

    anyio.run(life)
    (listed,) = docker.containers()
    found = docker.outside.request("GET", f"/containers/{listed['Id']}/json").json()
    (volume,) = [Path(one["Source"]) for one in found["Mounts"] if one["Destination"] == "/run/secrets"]
    left = {path.name: path.read_bytes() for path in volume.iterdir()}
    assert not any(left.values()), "by the worker, or by whoever supervises"
