"""One watch for all workloads, whatever happens to its connections."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from agora.errors import AgoraError, Unreachable
from agora.model.observation import EndedBy, Handle, Phase
from agora_conformance.emulators.k8s import K8sEmulator
from agora_k8s import watch
from agora_k8s.api import Api
from agora_k8s.config import K8sConfig
from agora_k8s.connect import connect
from k8s_harness import GRACEFUL, Hands, Sink, eventually

pytestmark = pytest.mark.backend("k8s")


@pytest.fixture
def sink(hands: Hands) -> Iterator[Sink]:
    """A sink with a watch that stands."""
    made = Sink()

    def listen() -> None:
        try:
            hands.provider.watch(made)
        except AgoraError as error:
            made.error = error

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    eventually(lambda: made.up)
    yield made
    made.over.set()
    began = time.monotonic()
    thread.join(40)
    assert not thread.is_alive()
    assert time.monotonic() - began < 20


def start(hands: Hands, sink: Sink, script: str = GRACEFUL, **fields: object) -> Handle:
    handle = hands.start(script, **fields)  # type: ignore[arg-type]
    sink.live[handle.id] = handle
    return handle


def running(hands: Hands, sink: Sink, handle: Handle) -> None:
    """Wait until it was pushed that it runs, and until it has set its trap."""
    eventually(lambda: sink.last(handle).phase is Phase.RUNNING)
    hands.ready(handle)


def test_a_life_is_pushed(hands: Hands, sink: Sink) -> None:
    handle = start(hands, sink)
    running(hands, sink, handle)
    hands.stop(handle)
    eventually(lambda: sink.last(handle).phase is Phase.ENDED)
    assert sink.last(handle).exit_code == 42


def test_an_exit_code_is_pushed_before_the_record_is_gone(hands: Hands, sink: Sink) -> None:
    handle = start(hands, sink)
    running(hands, sink, handle)
    hands.api.delete("pods", hands.pods(handle)[0])
    eventually(lambda: sink.last(handle).phase is Phase.ENDED)
    assert (sink.last(handle).exit_code, sink.last(handle).ended_by) == (42, EndedBy.EXTERNAL)
    eventually(lambda: not hands.pods(handle))
    assert hands.observe(handle).exit_code == 42, "and it was written on the Job"


def test_the_last_state_of_a_deleted_record_is_its_end(hands: Hands, sink: Sink) -> None:
    handle = start(hands, sink)
    running(hands, sink, handle)
    hands.emulator.faults.lose_events(50, resource="pods", type="MODIFIED")
    hands.api.delete("pods", hands.pods(handle)[0])
    eventually(lambda: sink.last(handle).phase is Phase.ENDED)
    assert (sink.last(handle).exit_code, sink.last(handle).ended_by) == (42, EndedBy.EXTERNAL)


@pytest.mark.parametrize("fault", ["expire", "cut_watches"])
def test_a_broken_watch_is_healed_by_a_list(hands: Hands, sink: Sink, fault: str) -> None:
    handle = start(hands, sink)
    running(hands, sink, handle)
    hands.emulator.faults.fail(1, verb="watch")
    getattr(hands.emulator.faults, fault)()
    hands.stop(handle)
    eventually(lambda: sink.last(handle).phase is Phase.ENDED)
    assert sink.last(handle).exit_code == 42
    assert sink.error is None


@pytest.mark.parametrize("fault", ["expire", "cut_watches"])
def test_events_that_are_lost_are_found_by_the_next_list(hands: Hands, sink: Sink, fault: str) -> None:
    handle = start(hands, sink)
    running(hands, sink, handle)
    hands.emulator.faults.lose_events(50, resource="pods")
    hands.stop(handle)
    assert hands.end(handle).exit_code == 42
    hands.emulator.faults.clear()
    getattr(hands.emulator.faults, fault)()
    eventually(lambda: sink.last(handle).phase is Phase.ENDED or handle.id in sink.asked)


def test_bookmarks_keep_a_quiet_watch_from_falling_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_WATCH_SECONDS", 2)
    with K8sEmulator(bookmarks=0.2, history=10) as emulator:
        hands = Hands(emulator, tmp_path)
        out: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        stream = watch.Stream(hands.api, "pods", "a=b", out)
        stream.start()
        assert out.get(timeout=50)[0] == "list"
        eventually(lambda: emulator.faults.requests("watch", "pods"))
        for number in range(30):  # more than the server remembers, and nothing of it for this watch
            hands.api.create("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"s{number}"}})
        began = len(emulator.faults.requests("watch", "pods"))
        eventually(lambda: len(emulator.faults.requests("watch", "pods")) >= began + 2)
        assert len(emulator.faults.requests("list", "pods")) == 1, "it went on from where its bookmarks stood"
        stream.close()
        stream.join(20)
        assert not stream.is_alive()


def test_a_watch_that_is_closed_while_its_answer_comes_is_not_read() -> None:
    """Else its connection would stay until the server ends it, with nobody who listens."""
    read: list[str] = []

    class Answer:
        def stream(self, size: int) -> Iterator[bytes]:
            read.append("read")
            return iter(())

        def close(self) -> None:
            read.append("closed")

    class Late:
        def list(self, kind: str, selector: str) -> tuple[list[Any], str]:
            return [], "1"

        def path(self, kind: str) -> str:
            return kind

        def stream(self, *_: Any) -> Answer:
            stream.close()
            return Answer()

    api: Any = Late()
    stream = watch.Stream(api, "pods", "a=b", queue.SimpleQueue())
    stream.run()
    assert read == ["closed"]


def test_a_refusal_that_breaks_off_ends_no_watch(tmp_path: Path) -> None:
    """A thread that died of it would leave the watch standing, and silent for good."""

    class Half(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Begin to say why the watch is refused."""
            self.send_response(410)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"{")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Half) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
                "users": [],
            }
            (tmp_path / "kubeconfig").write_text(json.dumps(config))
            api = Api(connect("t", K8sConfig(kubeconfig=tmp_path / "kubeconfig")))
            with pytest.raises(Unreachable):
                api.stream("/api/v1/pods", {"watch": "true"}, 20)
            api.close()
        finally:
            server.shutdown()
            thread.join(50)


def test_a_watch_that_always_fails_makes_few_requests(hands: Hands, sink: Sink) -> None:
    before = len(hands.emulator.faults.requests("watch"))
    hands.emulator.faults.fail(None, verb="watch")
    hands.emulator.faults.expire()
    time.sleep(2)  # long enough for a loop without pauses to show itself
    assert len(hands.emulator.faults.requests("watch")) - before < 20


def test_a_list_that_fails_ends_the_watch_with_its_error(hands: Hands, sink: Sink) -> None:
    hands.emulator.faults.fail(None, code=403, verb="list")
    hands.emulator.faults.expire()
    eventually(lambda: sink.error)
    assert "etcdserver" in str(sink.error)


def test_workloads_of_others_are_not_pushed(hands: Hands, sink: Sink) -> None:
    other = Hands(hands.emulator, hands.provider._tails._directory.parents[2], "somebody-else")
    handle = other.start("exit 0")
    sink.live[handle.id] = handle
    other.end(handle)
    assert handle.id not in sink.seen
    other.clean()
