"""A shim that is killed, stopped or long gone: an end is told only when everything is dead."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agora.errors import ProviderError, Unreachable
from agora.model.observation import Phase, ReceiptKind
from local_harness import Local, alive, carrying, eventually

TREE = """
    trap '' TERM
    (trap '' TERM; while :; do sleep 0.1; done) &
    setsid sh -c "trap '' TERM; echo LEFT; while :; do sleep 0.1; done" &
    echo READY; while :; do sleep 0.1; done
"""


def test_killed_shim_takes_its_whole_tree_along(both: Local) -> None:
    handle = both.start("sh", "-c", TREE)
    both.ready(handle)
    both.ready(handle, b"LEFT\n")
    assert len(carrying(handle.id)) >= 3
    os.kill(handle.data["shim"], signal.SIGKILL)
    eventually(lambda: not alive(handle.data["pid"]))
    seen = both.end(handle)
    assert carrying(handle.id) == []
    assert (seen.exit_code, seen.signal, seen.reason, seen.stop_reached) == (None, None, "shim_lost", False)
    assert both.observe(handle) == seen
    assert both.live() == []
    receipt = both.stop(handle)
    assert (receipt.kind, receipt.observation) == (ReceiptKind.ALREADY_EXITED, seen)


def test_killed_shim_after_a_stop(local: Local) -> None:
    handle = local.start("sh", "-c", TREE)
    local.ready(handle)
    local.stop(handle, grace=600)
    os.kill(handle.data["shim"], signal.SIGKILL)
    assert local.end(handle).stop_reached is True
    assert carrying(handle.id) == []


def test_control_group_of_a_killed_shim_is_removed(local: Local) -> None:
    handle = local.start("sh", "-c", TREE)
    local.ready(handle)
    path = group(handle.data["pid"])
    os.kill(handle.data["shim"], signal.SIGKILL)
    local.end(handle)
    assert path is None or not path.exists()


def test_nothing_is_told_while_something_lives(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    from agora_local import cgroup, rescue

    handle = local.start("sh", "-c", TREE)
    local.ready(handle, b"LEFT\n")
    # What SIGKILL cannot end at once (a process in the kernel) shows as one that is never found dead.
    monkeypatch.setattr(rescue, "_kill", lambda *_: None)
    monkeypatch.setattr(cgroup.Cgroup, "kill", lambda _: None)
    monkeypatch.setattr(rescue, "_ROUNDS", 2)
    os.kill(handle.data["shim"], signal.SIGKILL)
    eventually(lambda: not alive(handle.data["pid"]))
    seen = local.observe(handle)
    assert (seen.phase, seen.reachable) == (Phase.RUNNING, False)
    with pytest.raises(Unreachable):
        local.stop(handle)
    monkeypatch.undo()
    assert local.end(handle).reason == "shim_lost"
    assert carrying(handle.id) == []


def test_nothing_is_released_while_it_lives_though_its_journal_is_gone(local: Local) -> None:
    handle = local.start("sleep", "600")
    path = local.root / handle.id
    path.rename(local.root / "elsewhere")
    with pytest.raises(ProviderError, match=r"journal of .* is gone and its workload is not"):
        local.provider.release(handle)
    (local.root / "elsewhere").rename(path)
    local.stop(handle)
    local.end(handle)
    local.provider.release(handle)
    assert not path.exists()
    local.provider.release(handle)


def test_stopped_shim_is_unreachable_and_heals(local: Local) -> None:
    handle = local.start("sh", "-c", "trap 'exit 4' TERM; echo READY; while :; do sleep 0.05 & wait $!; done")
    local.ready(handle)
    shim = handle.data["shim"]
    os.kill(shim, signal.SIGSTOP)
    try:
        eventually(lambda: not local.observe(handle).reachable)
        assert local.observe(handle).phase is Phase.RUNNING
        began = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            local.stop(handle)
        assert time.monotonic() - began < 9
        assert caught.value.sent
        assert alive(handle.data["pid"])
    finally:
        os.kill(shim, signal.SIGCONT)
    # The request waited in the socket: it is carried out now.
    seen = local.end(handle)
    assert (seen.exit_code, seen.stop_reached) == (4, True)


def test_crowded_stopped_shim_still_answers_in_time(local: Local) -> None:
    import socket

    handle = local.start("sleep", "600")
    os.kill(handle.data["shim"], signal.SIGSTOP)
    waiting = []
    try:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            waiting.append(connection)
            connection.setblocking(False)
            descriptor = os.open(local.root / ".live", os.O_PATH)
            try:
                connection.connect(f"/proc/self/fd/{descriptor}/{handle.id}")
            except BlockingIOError:
                break
            finally:
                os.close(descriptor)
        with pytest.raises(Unreachable) as caught:
            local.stop(handle)
        assert not caught.value.sent
    finally:
        for connection in waiting:
            connection.close()
        os.kill(handle.data["shim"], signal.SIGCONT)
    eventually(lambda: local.stop(handle).kind is ReceiptKind.SIGNALLED)
    local.end(handle)


def test_sigterm_to_the_shim_stops_the_workload_as_a_stranger_would(local: Local) -> None:
    handle = local.start("sh", "-c", "trap 'exit 4' TERM; echo READY; while :; do sleep 0.05 & wait $!; done", grace=20)
    local.ready(handle)
    os.kill(handle.data["shim"], signal.SIGTERM)
    seen = local.end(handle)
    assert (seen.exit_code, seen.ended_by, seen.stop_reached) == (4, "external", False)


def rewrite(local: Local, id: str, **fields: str) -> None:
    """Change fields in a journal."""
    path = local.root / id / "journal"
    data = path.read_bytes()
    for name, value in fields.items():
        before, mark, after = data.partition(f'"{name}":'.encode())
        rest = after.lstrip(b" ")
        cut = min(index for index in (rest.find(b","), rest.find(b"}")) if index >= 0)
        data = before + mark + value.encode() + rest[cut:]
    path.write_bytes(data)


def ticks_since_boot() -> int:
    """Return the clock by which the kernel tells when a process began, see proc_pid_stat(5)."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def test_a_stranger_with_the_pid_is_never_signalled(local: Local) -> None:
    handle = local.start("sleep", "600")
    os.kill(handle.data["shim"], signal.SIGKILL)
    eventually(lambda: not alive(handle.data["pid"]))
    # Times of start are told in clock ticks of 10 ms: one that begins within the same tick would be no stranger.
    eventually(lambda: ticks_since_boot() > handle.data["start_time"])
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            # As if both pids had come round again: alive, but begun at another time.
            rewrite(local, handle.id, pid=str(stranger.pid), shim=str(stranger.pid))
            reused = local.provider.find(handle.id)
            assert reused is not None
            assert reused.data["pid"] == stranger.pid
            assert local.stop(reused).kind is ReceiptKind.ALREADY_EXITED
            assert local.provider.kill(reused).kind is ReceiptKind.ALREADY_EXITED
            assert local.end(reused).reason == "shim_lost"
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_another_boot_is_a_proof_of_death(local: Local) -> None:
    handle = local.start("sleep", "600")
    os.kill(handle.data["shim"], signal.SIGKILL)
    eventually(lambda: not alive(handle.data["pid"]))
    rewrite(local, handle.id, boot='"00000000-0000-0000-0000-000000000000"')
    found = local.provider.find(handle.id)
    assert found is not None
    seen = local.observe(found)
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.ENDED, None, "machine_rebooted")


def test_another_pid_namespace_proves_nothing(local: Local) -> None:
    handle = local.start("sleep", "600")
    os.kill(handle.data["shim"], signal.SIGKILL)
    eventually(lambda: not alive(handle.data["pid"]))
    rewrite(local, handle.id, namespace="1")
    seen = local.observe(handle)
    assert (seen.phase, seen.reachable) == (Phase.RUNNING, False)
    rewrite(local, handle.id, namespace=str(handle.data["namespace"]))
    assert local.end(handle).reason == "shim_lost"


def test_running_shim_in_another_namespace_holds_the_lock(local: Local) -> None:
    handle = local.start("sleep", "600")
    rewrite_in_place(local, handle.id)
    seen = local.observe(handle)
    assert (seen.phase, seen.reachable) == (Phase.RUNNING, True)
    assert alive(handle.data["pid"])
    # Its socket works from here too.
    assert local.stop(handle).kind is ReceiptKind.SIGNALLED


def rewrite_in_place(local: Local, id: str) -> None:
    """Let the shim's pid in a journal be one of elsewhere, in the same file, whose lock the shim holds."""
    path = local.root / id / "journal"
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(data.index(b'"shim_start_time":') + len(b'"shim_start_time":'))
        file.write(b"9")


def test_directory_removed_by_hand_is_no_death(local: Local) -> None:
    handle = local.start("sleep", "600")
    shutil.rmtree(local.root / handle.id)
    seen = local.observe(handle)
    assert (seen.phase, seen.reachable, seen.reason) == (Phase.RUNNING, False, "record_missing")
    assert alive(handle.data["pid"])
    # The control socket is still there.
    assert local.stop(handle).kind is ReceiptKind.SIGNALLED
    eventually(lambda: not alive(handle.data["pid"]))
    eventually(lambda: local.observe(handle).phase is Phase.ABSENT)


def test_state_directory_removed_by_hand_is_no_death(local: Local) -> None:
    handle = local.start("sleep", "600")
    shutil.rmtree(local.root)
    assert local.observe(handle).reachable is False
    with pytest.raises(Unreachable):
        local.stop(handle)
    assert alive(handle.data["pid"])
    os.kill(handle.data["shim"], signal.SIGTERM)
    eventually(lambda: not alive(handle.data["pid"]))
    eventually(lambda: local.observe(handle).phase is Phase.ABSENT)


def test_marks_alone_do_not_doom_a_process_of_another_installation(local: Local) -> None:
    handle = local.start("sleep", "600")
    environment = os.environ | {"AGORA_DISPATCH_ID": handle.id, "AGORA_DISPATCH_INSTALLATION": "another"}
    with subprocess.Popen(["sleep", "600"], env=environment) as stranger:
        try:
            os.kill(handle.data["shim"], signal.SIGKILL)
            assert local.end(handle).reason == "shim_lost"
            assert stranger.poll() is None
        finally:
            stranger.kill()


def group(pid: int) -> Path | None:
    """Return the directory of a process's control group of the second version, if it is one of ours."""
    own = next((line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().split("\n") if line[:3] == "0::"), "")
    for mount in Path("/proc/self/mountinfo").read_text().split("\n"):
        if " - cgroup2 " in mount and "agora-" in own:
            return Path(mount.split()[4] + own)
    return None


def test_control_group_goes_with_the_workload(local: Local) -> None:
    handle = local.start("sleep", "600")
    path = group(handle.data["pid"])
    if path is not None:
        assert path.joinpath("cgroup.procs").read_text().split() == [str(handle.data["pid"])]
    local.stop(handle)
    local.end(handle)
    eventually(lambda: path is None or not path.exists())


def test_never_means_no_control_group(tmp_path: Path) -> None:
    local = Local(tmp_path, cgroup="never")
    try:
        handle = local.start("sleep", "600")
        own = Path("/proc/self/cgroup").read_text()
        assert Path(f"/proc/{handle.data['pid']}/cgroup").read_text() == own
    finally:
        local.clean()


def test_python_workload_that_ignores_everything(both: Local) -> None:
    program = (
        "import signal, time\n"
        "for number in signal.valid_signals() - {9, 19}: signal.signal(number, signal.SIG_IGN)\n"
        "print('READY', flush=True)\n"
        "time.sleep(600)"
    )
    handle = both.start(sys.executable, "-I", "-c", program)
    both.ready(handle)
    both.stop(handle, grace=2)
    assert both.end(handle).forced is True
