"""A full disk: the workload is not blocked, can be cancelled, and its end is on record."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from agora.errors import SubmitRefused
from agora.model.observation import Phase
from agora_local import journal
from agora_local.journal import RESERVE_BYTES, Journal
from local_harness import Local, alive, carrying, eventually

MEGABYTE = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB of its own; needs root, like everybody who may mount."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def on_small_disk(small_disk: Path) -> Iterator[Local]:
    made = Local(small_disk)
    yield made
    made.clean()


def free(path: Path) -> int:
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize


def test_workload_that_fills_the_disk_can_be_cancelled(on_small_disk: Local, small_disk: Path) -> None:
    script = (
        f"trap 'exit 6' TERM; cat /dev/zero > {small_disk}/filler; echo READY; while :; do sleep 0.05 & wait $!; done"
    )
    handle = on_small_disk.start("sh", "-c", script)
    eventually(lambda: free(small_disk) == 0)
    eventually(lambda: "cat" not in command_names(handle.data["shim"]))
    on_small_disk.stop(handle)
    seen = on_small_disk.end(handle)
    assert (seen.exit_code, seen.stop_reached) == (6, True)
    assert carrying(handle.id) == []
    assert free(small_disk) == 0


def command_names(pid: int) -> list[str]:
    names = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            names += command_names(int(child))
        names.append(Path(f"/proc/{pid}/comm").read_text().strip())
    return names


def test_output_is_dropped_and_marked_while_the_disk_is_full(on_small_disk: Local, small_disk: Path) -> None:
    # Two of them: a reader that comes back before the writer has closed one finds its end, and goes on.
    script = "echo before; read x < one; head -c 3000000 /dev/zero; read x < two; echo after; exit 3"
    for name in ("one", "two"):
        os.mkfifo(small_disk / name)
    handle = on_small_disk.start("sh", "-c", script, cwd=str(small_disk))
    on_small_disk.ready(handle, b"before\n")
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        fill(filler.fileno())
    (small_disk / "one").write_text("\n")
    # It gets on: nothing waits for the disk.
    eventually(lambda: Path(f"/proc/{handle.data['pid']}/wchan").read_text() in ("fifo_open", "wait_for_partner"))
    (small_disk / "filler").unlink()
    (small_disk / "two").write_text("\n")
    assert on_small_disk.end(handle).exit_code == 3
    chunks = list(on_small_disk.provider.logs(handle, False, None, None))
    assert chunks[0].data == b"before\n"
    assert b"".join(chunk.data for chunk in chunks).endswith(b"after\n")
    assert sum(chunk.dropped + len(chunk.data) for chunk in chunks) == len("before\nafter\n") + 3_000_000
    assert sum(chunk.dropped for chunk in chunks) > 2_000_000


def fill(descriptor: int) -> None:
    for size in (MEGABYTE, 4096, 1):
        try:
            while os.write(descriptor, b"x" * size):
                pass
        except OSError:
            continue


def test_dispatch_on_a_full_disk_is_refused_and_starts_nothing(on_small_disk: Local, small_disk: Path) -> None:
    on_small_disk.end(on_small_disk.start("true"))
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        fill(filler.fileno())
    with pytest.raises(SubmitRefused, match="No space left"):
        on_small_disk.start("sleep", "600", id="too-late")
    assert carrying("too-late") == []
    assert not (on_small_disk.root / "too-late").exists()
    (small_disk / "filler").unlink()
    assert on_small_disk.run("true")[0].exit_code == 0


def test_reserve_is_kept_released_and_made_again(on_small_disk: Local, small_disk: Path) -> None:
    handle = on_small_disk.start("sleep", "600")
    reserve = on_small_disk.root / ".reserve"
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    # A journal on a file system that sets nothing aside (copy on write) is in need of the reserve.
    path = small_disk / "journal"
    with (small_disk / "filler").open("wb", buffering=0) as filler, path.open("wb") as file:
        fill(filler.fileno())
        Journal(file.fileno(), 0, str(reserve)).write("exit", durable=True, exit_code=3)
    assert b'"exit_code":3' in path.read_bytes()
    assert not reserve.exists()
    (small_disk / "filler").unlink()
    on_small_disk.end(on_small_disk.start("true"))
    assert reserve.exists()
    on_small_disk.provider.kill(handle)
    on_small_disk.end(handle)


def test_end_waits_for_space_rather_than_getting_lost(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_RELEASE_PAUSE", 0.001)
    path = small_disk / "journal"
    with (small_disk / "filler").open("wb", buffering=0) as filler, path.open("wb") as file:
        fill(filler.fileno())
        with pytest.raises(OSError, match="No space left"):
            Journal(file.fileno(), 0, str(small_disk / "none")).write("exit")
    assert path.read_bytes() == b""


def test_disk_without_room_for_a_reserve_still_works(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], check=True)
    local = Local(path)
    try:
        assert local.run("sh", "-c", "exit 2")[0].exit_code == 2
        assert not (local.root / ".reserve").exists()
    finally:
        local.clean()
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_read_only_state_directory_is_a_clear_refusal(small_disk: Path, used: bool) -> None:
    local = Local(small_disk)
    if used:
        local.end(local.start("true"))
        local.provider.close()
        eventually(lambda: not open_for_writing(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(SubmitRefused, match="Read-only file system"):
            local.start("true")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        local.clean()


def test_disk_that_goes_away_under_a_running_workload(small_disk: Path) -> None:
    local = Local(small_disk)
    handle = local.start("sleep", "600")
    shutil.rmtree(local.root)
    assert local.observe(handle).phase is Phase.RUNNING
    os.kill(handle.data["shim"], signal.SIGTERM)
    eventually(lambda: not alive(handle.data["pid"]))
    eventually(lambda: not alive(handle.data["shim"]))
    local.provider.close()


def open_for_writing(directory: Path) -> list[str]:
    """Return the files below a directory that some process has open, of those that we may look at."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith(f"{directory}/"):
            found.append(target)
    return found
