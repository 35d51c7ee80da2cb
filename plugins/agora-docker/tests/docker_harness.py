"""The Docker provider in the hands of a test, and eyes on the engine and its processes beside the provider."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from agora.config import Settings, TargetConfig
from agora.hookspecs import Check
from agora.model.cause import Cause, Via
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Observation, Phase, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation
from agora_docker import PROVIDER, body, marks
from agora_docker.config import DockerConfig
from agora_docker.endpoint import resolve
from agora_docker.engine import Engine
from agora_docker.looking import Looker
from agora_docker.provider import DockerProvider
from agora_docker.story import Stories, Story
from agora_docker.testing import images

#: Says READY, then each SIGTERM, and goes on.
STUBBORN = ("sh", "-c", "trap 'echo TERM' TERM; echo READY; while :; do sleep 0.05; done")
#: Says READY and leaves with code 9 on SIGTERM.
GRACEFUL = ("sh", "-c", "trap 'exit 9' TERM; echo READY; while :; do sleep 0.05; done")
SLEEP = ("sleep", "300")
#: Seconds that a test waits for what a machine with other work takes long for.
PATIENCE = 50


def never() -> None:
    """A check that never asks to stop."""


def engine_socket() -> str:
    """Return the path of the socket of this machine's engine."""
    return (os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock").removeprefix("unix://")


def provider(directory: Path, installation: str, **config: Any) -> DockerProvider:
    """Make a provider."""
    created = PROVIDER.create("there", PROVIDER.config_model(**config), Installation(installation, directory))
    assert isinstance(created, DockerProvider)
    return created


class Docker:
    """The Docker provider in the hands of a test.

    Parameters:
        directory: the installation's directory.
        installation: its mark; a new one by default.
        config: of the target.
    """

    def __init__(self, directory: Path, installation: str | None = None, **config: Any) -> None:
        self.directory = directory
        self.installation = installation or f"test-{uuid4().hex[:12]}"
        self.config = config
        self._made: list[DockerProvider] = []
        beside = {} if "proxy" in str(config.get("host")) else config
        self.outside = Engine(resolve("outside", DockerConfig(**beside)), 60, "test")
        self.image = images.ensure(self.outside)
        self.provider = self.another()

    def another(self, directory: Path | None = None) -> DockerProvider:
        """Return the provider as another process of the same installation has it."""
        made = provider(directory or self.directory, self.installation, **self.config)
        self._made.append(made)
        return made

    def spec(self, *command: str, **fields: Any) -> Spec:
        """Return the spec of a command in the busybox image."""
        given = {"image": self.image, "grace": 2, **fields}
        return Spec.model_validate({"command": command or None, **given})

    def start(self, *command: str, id: str | None = None, check: Check = never, **fields: Any) -> Handle:
        """Dispatch a command."""
        return self.provider.dispatch(id or new_dispatch_id(), self.spec(*command, **fields), check)

    def started(self, *command: str, **fields: Any) -> Handle:
        """Dispatch a command that says READY, and wait for that."""
        handle = self.start(*command, **fields)
        eventually(lambda: b"READY" in self.output(handle))
        return handle

    def asleep(self, **fields: Any) -> Handle:
        """Dispatch a command without a handler, and wait until its signals reach it."""
        handle = self.start(*SLEEP, **fields)
        eventually(lambda: listens(handle.id))
        return handle

    def stop(self, handle: Handle, grace: int = 2) -> StopReceipt:
        """Stop a workload."""
        return self.provider.stop(handle, grace, Cause(actor="tester", via=Via.API))

    def look(self, handle: Handle) -> Observation:
        """Look at one workload."""
        (observation,) = self.provider.observe([handle])
        return observation

    def end(self, handle: Handle, within: float = PATIENCE) -> Observation:
        """Wait for the end of a workload."""
        eventually(lambda: self.look(handle).phase is Phase.ENDED, within)
        return self.look(handle)

    def output(self, handle: Handle, stream: str = "stdout") -> bytes:
        """Return what a workload has written so far."""
        return b"".join(c.data for c in self.provider.logs(handle, False, None, None) if c.stream == stream)

    # --- beside the provider -----------------------------------------------------------------------------------

    def inspect(self, handle: Handle) -> dict[str, Any] | None:
        """Return what the engine says of a container."""
        return Looker(self.outside, Stories()).inspect(str(handle.data["container"]))

    def containers(self) -> list[dict[str, Any]]:
        """Return every container that carries the installation's mark."""
        return Looker(self.outside, Stories()).listed(label=[f"{marks.INSTALLATION}={self.installation}"])

    def story(self, handle: Handle) -> Story:
        """Return what the engine's events tell of a container."""
        return Looker(self.outside, Stories()).story(str(handle.data["container"]))

    def post(self, path: str, **params: Any) -> None:
        """Do something to the engine as an operator would."""
        self.outside.request("POST", path, params=params, accept=(304,))

    def remove(self, container: str) -> None:
        """Remove a container by force as an operator would."""
        self.outside.request("DELETE", f"/containers/{container}", params={"force": "1", "v": "1"}, accept=(404, 409))

    def clean(self) -> None:
        """Remove whatever is left."""
        for made in self._made:
            made.close()
        for found in self.containers():
            self.remove(found["Id"])
        self.outside.close()


class CommandLine:
    """The `agora` command on the engine of this machine, with a state directory of its own.

    Parameters:
        docker: whose directory it is in.
    """

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self.home = docker.directory / "home"
        self.config = docker.directory / "agora.toml"
        self.configure()
        self.environment = {**os.environ, "AGORA_HOME": str(self.home), "AGORA_CONFIG": str(self.config)}

    def configure(self, **settings: str | float) -> None:
        """Set the target's configuration."""
        lines = ['default_target = "docker"', "[targets.docker]", 'provider = "docker"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in {"pull": "never", **settings}.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "agora", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            cwd=self._docker.directory,
        )
        if (self.home / "installation").exists():
            self._docker.installation = (self.home / "installation").read_text().strip()
        return done

    def dispatch(self, *arguments: str) -> str:
        """Dispatch something in the busybox image and return its id."""
        done = self.run("dispatch", "--image", self._docker.image, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[0]

    def record(self, id: str) -> dict[str, Any]:
        """Return the record of a dispatch."""
        return dict(json.loads(self.run("show", id, "--json").stdout))


def settings(docker: Docker) -> Settings:
    """Return a configuration with this one target."""
    target = TargetConfig("docker", "docker", docker.config, "the test")
    return Settings(default_target="docker", targets={"docker": target})


def eventually(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait until a condition holds, and fail after `within` seconds."""
    give_up = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up, "it did not come to that in time"
        time.sleep(0.01)


def processes(id: str) -> list[int]:
    """Return the pids of all living processes that carry a dispatch's mark in their environment."""
    mark = f"AGORA_DISPATCH_ID={id}".encode()
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdecimal() and mark in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def kill(*ids: str) -> None:
    """Kill the processes of dispatches that no engine knows any more."""
    for pid in (pid for id in ids for pid in processes(id)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def listens(*ids: str) -> bool:
    """Whether signals reach the commands of containers: an init that has started none may not hear them itself."""
    return all(len(processes(id)) > 1 for id in ids)


class Sink:
    """A `WatchSink` that keeps what it is told.

    Parameters:
        handles: what is watched.
    """

    def __init__(self, *handles: Handle) -> None:
        self.known = {handle.id: handle for handle in handles}
        self.stands = threading.Event()
        self.pushed: dict[str, list[Observation]] = {}
        self.asked: list[str] = []
        self.closed = False

    def connected(self) -> None:
        """The stream stands."""
        self.stands.set()

    def push(self, dispatch_id: str, observation: Observation) -> None:
        """Something was heard."""
        self.pushed.setdefault(dispatch_id, []).append(observation)

    def stale(self, dispatch_id: str) -> None:
        """Something changed."""
        self.asked.append(dispatch_id)

    def handles(self) -> Mapping[str, Handle]:
        """What is watched."""
        return self.known


@contextmanager
def watching(provider: DockerProvider, sink: Sink) -> Iterator[threading.Thread]:
    """Watch in a thread for the time of a block."""
    thread = threading.Thread(target=provider.watch, args=(sink,), daemon=True)
    thread.start()
    assert sink.stands.wait(50)
    try:
        yield thread
    finally:
        sink.closed = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a closed watch returns"


def left_behind(docker: Docker, id: str) -> str:
    """Create the container of a dispatch and go no further, as a killed process does."""
    spec = docker.spec(*SLEEP)
    asked = body.container(id, docker.installation, spec, DockerConfig(), "json-file", [])
    params = {"name": marks.name_of(id, docker.installation)}
    return str(docker.outside.request("POST", "/containers/create", params=params, json=asked).json()["Id"])


def fill_the_ring(docker: Docker) -> None:
    """Have more things happen than the engine remembers (256); for a test that has the engine for itself."""
    for number in range(300):
        docker.post(f"/images/{docker.image}/tag", repo=f"agora-test/ring-{docker.installation}", tag=str(number % 2))
    for number in range(2):
        docker.outside.request("DELETE", f"/images/agora-test/ring-{docker.installation}:{number}", accept=(404,))
