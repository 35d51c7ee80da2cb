"""Pulling images from a registry of our own, fast and slow."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from agora.errors import StopRequested, SubmitRefused, Unreachable
from agora.model.ids import new_dispatch_id
from agora_docker import image
from agora_docker.image import Progress
from agora_docker.testing import images
from agora_docker.testing.proxy import Proxy
from docker_harness import PATIENCE, CommandLine, Docker, eventually, never
from engines import Registry

pytestmark = [pytest.mark.backend("docker"), pytest.mark.slow]
LAYER = 8_000_000


class Throttle:
    """Passes connections on to a port, at so many bytes a second in all; none at all while `rate` is 0."""

    def __init__(self, port: int) -> None:
        self.rate = 10**9
        self.passed = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()  # the registry has ended, and the engine tries again
                    raise
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with suppress(OSError), source:
            while piece := source.recv(16384):
                if slow:
                    self.passed += len(piece)
                    while self.rate == 0:
                        time.sleep(0.02)
                    time.sleep(len(piece) / self.rate)
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def throttle(tmp_path: Path) -> Iterator[Throttle]:
    """A registry behind a throttle."""
    with Registry(tmp_path / "registry") as registry:
        made = Throttle(registry.port)
        yield made
        made.close()


@pytest.fixture
def pushed(docker: Docker, throttle: Throttle) -> Iterator[str]:
    """The name of an image in the registry that the engine does not have (any more)."""
    name = f"127.0.0.1:{throttle.port}/probe:1"
    # No two of these may be one in the engine's cache: the layer of one test would be there for another.
    images.derive(docker.outside, name, f"RUN head -c {LAYER} /dev/urandom >/big-{docker.installation}")
    headers = {"X-Registry-Auth": "e30="}
    repository = name.rpartition(":")[0]
    said = docker.outside.request(
        "POST", f"/images/{repository}/push", params={"tag": "1"}, headers=headers, seconds=60
    ).text
    assert "digest: sha256:" in said, said
    forget(docker, name)
    yield name
    forget(docker, name)


def forget(docker: Docker, name: str) -> None:
    """Remove an image from the engine."""
    docker.outside.request("DELETE", f"/images/{name}", params={"force": "1"}, accept=(404, 409))


def there(docker: Docker, name: str) -> bool:
    """Whether the engine has an image."""
    return docker.outside.request("GET", f"/images/{name}/json", accept=(404,)).status_code == 200


def pulls(docker: Docker, throttle: Throttle, name: str, policy: str) -> int:
    """Run a command in an image and return how many bytes came from the registry for it."""
    before = throttle.passed
    handle = docker.start("true", image=name, options={"pull": policy})
    assert docker.end(handle).exit_code == 0
    return throttle.passed - before


def test_the_pull_policies(docker: Docker, throttle: Throttle, pushed: str) -> None:
    with pytest.raises(SubmitRefused, match="No such image"):
        docker.start("true", image=pushed, options={"pull": "never"})
    assert pulls(docker, throttle, pushed, "missing") > LAYER
    assert pulls(docker, throttle, pushed, "missing") == 0
    assert pulls(docker, throttle, pushed, "never") == 0
    assert 0 < pulls(docker, throttle, pushed, "always") < LAYER, "it asks whether there is a newer one"


def test_an_image_is_pinned_by_digest(docker: Docker, throttle: Throttle, pushed: str) -> None:
    docker.start("true", image=pushed)
    found = docker.outside.request("GET", f"/images/{pushed}/json").json()
    (pinned,) = found["RepoDigests"]
    forget(docker, pushed)
    forget(docker, pinned)
    assert pulls(docker, throttle, pinned, "missing") > 0, "the layer itself is still there, in a container"
    wrong = pinned.rpartition(":")[0] + ":" + "0" * 64
    with pytest.raises(SubmitRefused, match=r"not found|unknown") as caught:
        docker.start("true", image=wrong)
    assert caught.value.reason == "image_pull_failed"
    docker.clean()
    forget(docker, pinned)


def test_an_image_that_the_registry_does_not_have(docker: Docker, throttle: Throttle) -> None:
    with pytest.raises(SubmitRefused, match=r"manifest unknown|not found") as caught:
        docker.start("true", image=f"127.0.0.1:{throttle.port}/nothing:1")
    assert caught.value.reason == "image_pull_failed"


@pytest.mark.parametrize("rate", [200_000, 0], ids=["slow", "stalled"])
def test_a_stop_ends_a_pull(docker: Docker, throttle: Throttle, pushed: str, rate: int) -> None:
    throttle.rate = rate
    asked = threading.Event()
    calls: list[float] = []

    def check() -> None:
        calls.append(time.monotonic())
        if asked.is_set():
            raise StopRequested("enough")

    def ask() -> None:
        eventually(lambda: len(calls) > 4)
        asked.set()

    threading.Thread(target=ask, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(StopRequested):
        docker.provider.dispatch(new_dispatch_id(), docker.spec("true", image=pushed), check)
    assert time.monotonic() - begun < 20
    assert max(later - earlier for earlier, later in itertools.pairwise(calls)) < 10
    assert docker.containers() == []
    throttle.rate = 10**9
    before = throttle.passed
    threading.Event().wait(2)  # a pull that went on would be through in that time
    assert throttle.passed - before < LAYER
    assert not there(docker, pushed)


def test_a_cancel_by_another_process_ends_a_pull(
    docker: Docker, agora: CommandLine, throttle: Throttle, pushed: str
) -> None:
    agora.configure(pull="missing")
    throttle.rate = 200_000
    before = throttle.passed
    id = new_dispatch_id()
    sent: list[int] = []

    def dispatch() -> None:
        sent.append(agora.run("dispatch", "--id", id, "--image", pushed, "--", "true").returncode)

    thread = threading.Thread(target=dispatch, daemon=True)
    thread.start()
    eventually(lambda: throttle.passed > before + 100_000)
    assert agora.run("cancel", id, "--reason", "enough").returncode == 0
    thread.join(PATIENCE)
    assert sent == [0]
    record = agora.record(id)
    assert (record["state"], record["confirmed"], record["exit_code"]) == ("cancelled", True, None)
    assert (record["started_at"], record["cause"]["reason"]) == (None, "enough")
    assert docker.containers() == []
    assert throttle.passed - before < LAYER
    assert not there(docker, pushed)


def test_progress_is_told(
    docker: Docker,
    throttle: Throttle,
    pushed: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(image, "_TELL", 0.3)
    throttle.rate = 4_000_000
    caplog.set_level(logging.INFO, "agora.progress")
    handle = docker.start("true", image=pushed)
    docker.end(handle)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == f"{pushed}: pulling"
    assert any(" bytes of 1 layers" in line and ", 0 of " not in line for line in told), told
    assert told[-1] == f"{pushed}: pulled"
    assert {getattr(record, "dispatch", None) for record in caplog.records} == {handle.id}


def test_the_command_line_shows_a_pull(docker: Docker, agora: CommandLine, pushed: str) -> None:
    agora.configure(pull="missing")
    done = agora.run("run", "--image", pushed, "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    first, second, *_ = done.stderr.splitlines()
    assert (first, second) == (f"agora: {pushed}: pulling", f"agora: {pushed}: pulled")
    forget(docker, pushed)
    done = agora.run("run", "--quiet", "--image", pushed, "--", "echo", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_an_engine_that_goes_away_in_a_pull_is_unreachable(
    cuttable: Docker, proxy: Proxy, throttle: Throttle, pushed: str
) -> None:
    throttle.rate = 200_000
    failures: list[BaseException] = []

    def pull() -> None:
        try:
            cuttable.provider.dispatch(new_dispatch_id(), cuttable.spec("true", image=pushed), never)
        except Unreachable as error:
            failures.append(error)

    before = throttle.passed
    thread = threading.Thread(target=pull, daemon=True)
    thread.start()
    eventually(lambda: throttle.passed > before)
    proxy.cut()
    thread.join(PATIENCE)
    assert [type(error) for error in failures] == [Unreachable]


def test_what_progress_says() -> None:
    progress = Progress("x", "an-id")
    assert progress.words() == ""
    progress.heard({"status": "Downloading", "id": "a", "progressDetail": {"current": 5, "total": 10}})
    progress.heard({"status": "Downloading", "id": "b", "progressDetail": {"current": 1, "total": 30}})
    assert progress.words() == ", 6 of 40 bytes of 2 layers"
    assert not progress.complete
    progress.heard({"status": "Status: Downloaded newer image for x"})
    assert progress.complete
    with pytest.raises(SubmitRefused, match="x: no space left"):
        progress.heard({"error": "no space left", "errorDetail": {}})
