"""Output: while it is written, after the end, and after the pod."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from agora.model.observation import LogChunk
from agora_k8s import logs
from k8s_harness import GRACEFUL, Hands, eventually

pytestmark = pytest.mark.backend("k8s")

COUNT = "n=0; while [ $n -lt 200 ]; do n=$((n+1)); echo line $n; done; echo ready"


def test_lines_carry_times_to_the_nanosecond() -> None:
    line = logs.parse(b"2026-11-21T00:22:34.000000009Z hello world\n")
    assert line is not None
    second = int(datetime(2026, 11, 21, 0, 22, 34, tzinfo=UTC).timestamp())
    assert (line.text, line.at) == (b"hello world\n", second * 10**9 + 9)
    offset = logs.parse(b"2026-11-21T02:22:34.1+02:00 x\n")
    assert offset is not None
    assert offset.at == second * 10**9 + 10**8
    assert logs.parse(b"2026-11-21T00:22:34Z \n") == logs.Line(b"\n", second * 10**9)
    assert logs.parse(b"no time here\n") == logs.Line(b"no time here\n")
    assert logs.parse(b"unable to retrieve container logs for containerd://abc") is None


def test_all_lines_arrive_in_order_while_the_pod_is_there(hands: Hands) -> None:
    handle = hands.start(COUNT)
    hands.end(handle)
    wanted = b"".join(b"line %d\n" % number for number in range(1, 201)) + b"ready\n"
    assert hands.output(handle) == wanted
    assert hands.output(handle, tail=2) == b"line 200\nready\n"
    assert hands.output(handle, since=datetime.now(UTC) + timedelta(minutes=1)) == b""


def test_the_tail_is_kept_where_the_pod_is_gone(hands: Hands) -> None:
    handle = hands.start(f"{COUNT}; {GRACEFUL}")
    hands.ready(handle)
    hands.stop(handle)
    hands.end(handle)
    eventually(lambda: not hands.pods(handle))
    assert hands.output(handle).endswith(b"ready\ngot term\n")
    assert hands.output(handle, tail=1) == b"got term\n"
    path = hands.provider._tails._path(handle.id)
    assert path.stat().st_mode & 0o077 == 0
    hands.provider.release(handle)
    assert not path.exists()


def test_the_tail_is_capped(hands: Hands) -> None:
    small = Hands(hands.emulator, hands.provider._tails._directory.parents[2], hands.installation, log_tail=1000)
    handle = small.start(f"{COUNT}; {GRACEFUL}")
    small.ready(handle)
    small.stop(handle)
    small.end(handle)
    eventually(lambda: not small.pods(handle))
    kept = small.output(handle)
    assert kept.endswith(b"line 200\nready\nready\ngot term\n")
    assert len(kept) < 1000
    small.provider.close()


def test_nothing_is_said_before_there_is_a_pod(hands: Hands) -> None:
    handle = hands.start(options={"node_selector": {"disk": "none"}})
    assert hands.output(handle) == b""


class Follower(threading.Thread):
    """Follows a log in a thread of its own."""

    def __init__(self, chunks: Iterator[LogChunk]) -> None:
        super().__init__(daemon=True)
        self._chunks = chunks
        self.data = b""
        self.ticks = 0

    def run(self) -> None:
        for chunk in self._chunks:
            self.data += chunk.data
            self.ticks += not chunk.data


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "cut"])
def test_a_followed_log_comes_as_it_is_written_and_ends(hands: Hands, broken: bool) -> None:
    handle = hands.start("echo one; sleep 1.5; echo two; " + GRACEFUL)
    follower = Follower(hands.provider.logs(handle, True, None, None))
    follower.start()
    eventually(lambda: follower.data.startswith(b"one\n"))
    if broken:
        hands.emulator.faults.fail(1, verb="get", resource="pods/log")
    eventually(lambda: follower.data == b"one\ntwo\nready\n")
    assert eventually(lambda: follower.ticks), "an empty chunk a second says that it is alive"
    hands.stop(handle)
    follower.join(50)
    assert not follower.is_alive()
    assert follower.data == b"one\ntwo\nready\ngot term\n"


def test_a_follower_that_leaves_ends_its_stream(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    chunks = hands.provider.logs(handle, True, None, None)
    assert next(chunks).data
    chunks.close()  # type: ignore[attr-defined]
    eventually(lambda: not any(one.name == "agora-k8s-logs" for one in threading.enumerate()))
