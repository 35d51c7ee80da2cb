"""Output: all of it, in order, capped, followed live, and never in the way of the workload or its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from agora.model.observation import Handle, LogChunk, Phase
from agora_local.logs import Frame, last_lines
from agora_local.pump import FILES, Pump
from local_harness import Local, eventually


def everything(
    local: Local, handle: Handle, follow: bool = False, since: datetime | None = None, tail: int | None = None
) -> list[LogChunk]:
    return list(local.provider.logs(handle, follow, since, tail))


def test_both_streams_in_order_with_times(local: Local) -> None:
    before = datetime.now(UTC)
    wait = "until [ -e $i ]; do sleep 0.01; done"
    script = f"for i in 1 2 3; do echo out$i; {wait}; rm $i; echo err$i >&2; {wait}; done"
    handle = local.start("sh", "-c", script, cwd=str(local.directory))
    for count in range(1, 7):  # what is written before the last was read may be one piece with it
        eventually(lambda count=count: len(everything(local, handle)) == count)  # type: ignore[misc]
        (local.directory / str((count + 1) // 2)).touch()
    local.end(handle)
    chunks = everything(local, handle)
    assert [(chunk.stream, chunk.data) for chunk in chunks] == [
        (stream, f"{word}{number}\n".encode())
        for number in (1, 2, 3)
        for stream, word in (("stdout", "out"), ("stderr", "err"))
    ]
    times = [chunk.at for chunk in chunks if chunk.at is not None]
    assert len(times) == 6
    assert [before, *times] == sorted([before, *times])
    assert sum(chunk.dropped for chunk in chunks) == 0


def test_silence_makes_no_file(local: Local) -> None:
    handle = local.start("true")
    local.end(handle)
    assert everything(local, handle) == []
    assert [path.name for path in (local.root / handle.id).iterdir()] == ["journal"]


def test_a_lot_of_output_is_whole(local: Local) -> None:
    handle = local.start("sh", "-c", "seq 1 400000; echo done >&2")
    local.end(handle)
    assert local.output(handle) == "".join(f"{number}\n" for number in range(1, 400_001)).encode()
    assert local.output(handle, "stderr") == b"done\n"


def test_cap_drops_the_oldest_and_says_so(tmp_path: Path) -> None:
    local = Local(tmp_path, log_cap=1_000_000)
    try:
        handle = local.start("sh", "-c", "seq 1 1000000")
        local.end(handle)
        whole = "".join(f"{number}\n" for number in range(1, 1_000_001)).encode()
        chunks = everything(local, handle)
        kept = b"".join(chunk.data for chunk in chunks)
        assert chunks[0].dropped == len(whole) - len(kept) > 0
        assert sum(chunk.dropped for chunk in chunks[1:]) == 0
        assert whole.endswith(kept)
        assert len(kept) > 700_000
        used = sum(path.stat().st_size for path in (local.root / handle.id).glob("log.*"))
        assert used <= 1_000_000
    finally:
        local.clean()


def test_tail_and_since(local: Local) -> None:
    handle = local.start("sh", "-c", "seq 1 50000; sleep 0.3; printf 'last\\nunfinished'")
    local.end(handle)

    def tail(count: int) -> bytes:
        return b"".join(chunk.data for chunk in everything(local, handle, tail=count))

    assert tail(0) == b""
    assert tail(1) == b"unfinished"
    assert tail(2) == b"last\nunfinished"
    assert tail(4) == b"49999\n50000\nlast\nunfinished"
    assert tail(20_000).startswith(b"30003\n")
    assert tail(10**9).startswith(b"1\n2\n")
    moment = everything(local, handle)[-1].at
    assert b"".join(chunk.data for chunk in everything(local, handle, since=moment)).endswith(b"unfinished")
    assert b"50000" not in b"".join(chunk.data for chunk in everything(local, handle, since=moment))


@pytest.mark.parametrize(
    ("pieces", "count", "expected"),
    [
        ([b"a\n", b"b\n"], 1, b"b\n"),
        ([b"a\nb\nc\n"], 2, b"b\nc\n"),
        ([b"a\nb", b"c\nd"], 2, b"bc\nd"),
        ([b"a\n", b"", b"b"], 1, b"b"),
        ([b"a", b"b", b"c"], 1, b"abc"),
        ([b"\n\n\n"], 2, b"\n\n"),
        ([], 3, b""),
    ],
)
def test_last_lines(pieces: list[bytes], count: int, expected: bytes) -> None:
    frames = (Frame(0.0, 1, piece, 0) for piece in pieces)
    assert b"".join(frame.data for frame in last_lines(frames, count)) == expected


def test_follow_is_live_and_ends_with_the_workload(local: Local) -> None:
    handle = local.start("sh", "-c", "echo one; read x < fifo; echo two", cwd=str(fifo(local)))
    stream = local.provider.logs(handle, True, None, None)
    assert next_words(stream) == b"one\n"
    (local.directory / "fifo").write_text("go\n")
    assert next_words(stream) == b"two\n"
    assert b"".join(chunk.data for chunk in stream) == b""
    assert local.observe(handle).phase is Phase.ENDED


def fifo(local: Local) -> Path:
    import os

    os.mkfifo(local.directory / "fifo")
    return local.directory


def next_words(stream: Iterator[LogChunk]) -> bytes:
    return next(chunk.data for chunk in stream if chunk.data)


def test_follow_gives_a_sign_of_life_every_second(local: Local) -> None:
    handle = local.start("sleep", "600")
    stream = local.provider.logs(handle, True, None, None)
    began = time.monotonic()
    chunks = [next(stream) for _ in range(2)]
    assert [chunk.data for chunk in chunks] == [b"", b""]
    assert 1.5 < time.monotonic() - began < 20
    local.provider.kill(handle)
    assert b"".join(chunk.data for chunk in stream) == b""


def test_follow_with_tail_begins_late(local: Local) -> None:
    handle = local.start("sh", "-c", "seq 1 100; read x < fifo; echo more", cwd=str(fifo(local)))
    eventually(lambda: b"100\n" in local.output(handle))
    stream = local.provider.logs(handle, True, None, 2)
    begun = next_words(stream)
    (local.directory / "fifo").write_text("go\n")
    assert begun + b"".join(chunk.data for chunk in stream) == b"99\n100\nmore\n"


def test_follow_loses_nothing_while_files_are_dropped(tmp_path: Path) -> None:
    local = Local(tmp_path, log_cap=1_000_000)
    try:
        handle = local.start("sh", "-c", "seq 1 2000000")
        position = 0
        whole = "".join(f"{number}\n" for number in range(1, 2_000_001)).encode()
        for chunk in local.provider.logs(handle, True, None, None):
            position += chunk.dropped
            assert whole[position : position + len(chunk.data)] == chunk.data
            position += len(chunk.data)
        assert position == len(whole)
    finally:
        local.clean()


def test_follow_after_release_ends(local: Local) -> None:
    handle = local.start("true")
    local.end(handle)
    local.provider.release(handle)
    assert everything(local, handle, follow=True) == []


def test_output_after_a_killed_shim_can_be_read(local: Local) -> None:
    import os
    import signal

    handle = local.start("sh", "-c", "echo before; sleep 600")
    local.ready(handle, b"before\n")
    os.kill(handle.data["shim"], signal.SIGKILL)
    assert b"".join(chunk.data for chunk in local.provider.logs(handle, True, None, None)) == b"before\n"


@pytest.mark.serial
def test_output_is_taken_fast(local: Local) -> None:
    began = time.monotonic()
    handle = local.start("head", "-c", "300000000", "/dev/zero")
    local.end(handle)
    rate = 300 / (time.monotonic() - began)
    assert rate > 50, f"{rate:.0f} MB/s"


def test_files_with_torn_frames_are_read_up_to_there(tmp_path: Path) -> None:
    import os

    from agora_local.logs import read

    directory = os.open(tmp_path, os.O_RDONLY)
    pump = Pump(directory, 1_000_000)
    source, sink = os.pipe()
    os.set_blocking(source, False)
    os.write(sink, b"whole")
    assert pump.turn(source, 1)
    pump.close()
    os.close(directory)
    path = tmp_path / "log.0"
    path.write_bytes(path.read_bytes() + b"\1\2\3")
    assert [chunk.data for chunk in read(tmp_path, lambda: True)] == [b"whole"]
    os.close(sink)
    assert not pump.turn(source, 1)
    os.close(source)
    assert FILES > 1


def test_two_followers_see_the_same(local: Local) -> None:
    handle = local.start("sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.02; done")
    seen: list[bytes] = []

    def follow() -> None:
        seen.append(b"".join(chunk.data for chunk in local.provider.logs(handle, True, None, None)))

    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=50)
    assert seen == [b"1\n2\n3\n4\n5\n"] * 2
