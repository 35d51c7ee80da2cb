"""What is pushed, how soon, and that the watch ends when it is told to."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from agora.errors import ProviderError
from agora.model.observation import Handle, Observation, Phase
from agora_local import watch
from local_harness import Local, eventually


class Sink:
    """A `WatchSink` that keeps what it is told."""

    def __init__(self) -> None:
        self.stands = threading.Event()
        self.pushed: list[tuple[str, Observation, float]] = []
        self.asked: list[str] = []
        self.known: dict[str, Handle] = {}
        self.closed = False

    def connected(self) -> None:
        self.stands.set()

    def push(self, dispatch_id: str, observation: Observation) -> None:
        self.pushed.append((dispatch_id, observation, time.time()))

    def stale(self, dispatch_id: str) -> None:
        self.asked.append(dispatch_id)

    def handles(self) -> Mapping[str, Handle]:
        return self.known

    def phases(self, id: str) -> list[Phase]:
        return [observation.phase for known, observation, _ in self.pushed if known == id]


@pytest.fixture
def sink(local: Local) -> Iterator[Sink]:
    made = Sink()
    thread = threading.Thread(target=local.provider.watch, args=(made,))
    thread.start()
    assert made.stands.wait(50)
    yield made
    made.closed = True
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_start_and_end_are_pushed(local: Local, sink: Sink) -> None:
    handle = local.start("sh", "-c", "until [ -e go ]; do sleep 0.02; done; exit 3", cwd=str(local.directory))
    eventually(lambda: sink.phases(handle.id) == [Phase.RUNNING])
    (local.directory / "go").touch()
    eventually(lambda: Phase.ENDED in sink.phases(handle.id))
    assert sink.phases(handle.id) == [Phase.RUNNING, Phase.ENDED]
    assert sink.pushed[-1][1] == local.observe(handle)
    assert sink.pushed[-1][1].exit_code == 3


@pytest.mark.serial
def test_an_end_is_heard_of_at_once(local: Local, sink: Sink) -> None:
    delays = []
    for _ in range(20):
        handle = local.start("sleep", "0.05")
        eventually(lambda handle=handle: Phase.ENDED in sink.phases(handle.id))  # type: ignore[misc]
        _, observation, heard = sink.pushed[-1]
        assert observation.ended_at is not None
        delays.append(heard - observation.ended_at.timestamp())
    assert sorted(delays)[10] < 0.02


def test_many_ends_are_all_pushed(local: Local, sink: Sink) -> None:
    handles = [local.start("sleep", "0.2") for _ in range(30)]
    eventually(lambda: all(Phase.ENDED in sink.phases(handle.id) for handle in handles))


def test_refused_starts_are_not_pushed(local: Local, sink: Sink) -> None:
    with pytest.raises(Exception, match="not found"):
        local.start("no-such-program", id="refused")
    local.end(local.start("true", id="after"))
    eventually(lambda: Phase.ENDED in sink.phases("after"))
    assert sink.phases("refused") == []


def test_killed_shims_are_noticed(local: Local, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = local.start("sleep", "600")
    sink.known[handle.id] = handle
    os.kill(handle.data["shim"], signal.SIGKILL)
    eventually(lambda: handle.id in sink.asked)


def test_overflow_asks_for_everything(local: Local, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = local.start("sleep", "600")
    sink.known[handle.id] = handle
    monkeypatch.setattr(watch.Inotify, "wait", lambda *_: [(watch.Inotify.OVERFLOW, "")])
    eventually(lambda: handle.id in sink.asked)
    monkeypatch.undo()


def test_closing_the_provider_ends_the_watch(local: Local) -> None:
    made = Sink()
    thread = threading.Thread(target=local.provider.watch, args=(made,))
    thread.start()
    assert made.stands.wait(50)
    local.provider.close()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_a_removed_directory_breaks_the_watch(local: Local) -> None:
    made = Sink()
    local.end(local.start("true"))
    eventually(lambda: not local.live())  # the last thing that is written below the directory
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(local.provider.watch, made)
        assert made.stands.wait(50)
        shutil.rmtree(local.root)
        with pytest.raises(ProviderError, match="removed"):
            watching.result(timeout=50)
    # It is made again by whoever needs it next.
    assert local.run("true")[0].exit_code == 0
