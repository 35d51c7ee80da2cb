"""One runtime per id, whoever asks and however often; nobody else's is touched."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agora.errors import DispatchConflict, InvalidRequest, ProviderError, StopRequested, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Phase
from agora.model.spec import Spec
from agora_local import journal
from agora_local.journal import line
from local_harness import Local, alive, carrying, eventually, never

PROGRAM = """
import sys
from pathlib import Path
from local_harness import Local
print(Local(Path(sys.argv[1])).start("sleep", "600", id=sys.argv[2]).model_dump_json())
"""


def test_twice_is_once(local: Local) -> None:
    first = local.start("sleep", "600", id="again")
    assert local.start("sleep", "600", id="again") == first
    assert carrying("again") == [first.data["pid"]]
    local.provider.kill(first)
    local.end(first)
    after = local.start("sleep", "600", id="again")
    assert after.model_dump() == first.model_dump()
    assert after.first is not None
    assert after.first.phase is Phase.ENDED


def test_twenty_threads_start_it_once(local: Local) -> None:
    with ThreadPoolExecutor(20) as pool:
        handles = list(pool.map(lambda _: local.start("sleep", "600", id="crowd"), range(20)))
    assert all(handle == handles[0] for handle in handles)
    assert carrying("crowd") == [handles[0].data["pid"]]


def test_processes_at_once_start_it_once(local: Local, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    for number in range(5):
        id = f"both-{number}"
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), id]
        processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
        outputs = [process.communicate(timeout=50)[0] for process in processes]
        handles = [Handle.model_validate_json(output) for output in outputs]
        assert handles[0] == handles[1]
        assert carrying(id) == [handles[0].data["pid"]]


def test_another_spec_and_another_installation_are_conflicts(local: Local, tmp_path: Path) -> None:
    handle = local.start("sleep", "600", id="taken")
    before = (local.root / "taken" / "journal").read_bytes()
    stranger = Local(tmp_path, installation="stranger", state_dir=local.root)
    try:
        with pytest.raises(DispatchConflict, match="another spec"):
            local.start("sleep", "601", id="taken")
        with pytest.raises(DispatchConflict, match="installation"):
            stranger.start("sleep", "600", id="taken")
        assert stranger.provider.find("taken") is None
        assert stranger.provider.list_owned("stranger") == []
        assert stranger.observe(handle).phase is not Phase.ENDED
        with pytest.raises(Unreachable):
            stranger.stop(handle)
        stranger.provider.release(handle)
    finally:
        stranger.provider.close()
    assert (local.root / "taken" / "journal").read_bytes() == before
    assert alive(handle.data["pid"])


def test_find_and_list_see_what_was_started(local: Local) -> None:
    running = local.start("sleep", "600")
    ended = local.start("sh", "-c", "exit 5")
    local.end(ended)
    assert local.provider.find(running.id) == running
    assert local.provider.find(new_dispatch_id()) is None
    owned = {one.handle.id: one for one in local.provider.list_owned("test-installation")}
    assert owned.keys() == {running.id, ended.id}
    assert (owned[running.id].ended, owned[ended.id].ended) == (False, True)
    assert owned[running.id].spec_digest == Spec(command=("sleep", "600")).digest()
    assert abs(owned[running.id].created_at.timestamp() - time.time()) < 60
    assert local.provider.list_owned("somebody else") == []


def test_an_id_is_no_path(local: Local) -> None:
    for id in ("../escape", "/etc", "", ".live", "A"):
        with pytest.raises(InvalidRequest):
            local.provider.find(id)


def claim(local: Local, id: str, *records: bytes, **fields: str) -> Path:
    """Make a journal as a process leaves it that was killed before it could go on."""
    directory = local.root / id
    directory.mkdir(parents=True)
    first = {
        "record": "claim",
        "at": time.time(),
        "id": id,
        "installation": local.installation,
        "digest": Spec(command=("sleep", "600")).digest(),
        "machine": local.provider.identity(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }
    (directory / "journal").write_bytes(json.dumps(first | fields).encode() + b"\n" + b"".join(records) + b"\0" * 100)
    return directory


@pytest.mark.parametrize("left", ["directory", "empty journal", "claim", "half a claim", "refused"])
def test_crash_before_the_start_does_not_block_the_id(local: Local, left: str) -> None:
    match left:
        case "directory":
            (local.root / "crashed").mkdir(parents=True)
        case "empty journal":
            claim(local, "crashed").joinpath("journal").write_bytes(b"")
        case "claim":
            claim(local, "crashed")
        case "half a claim":
            path = claim(local, "crashed") / "journal"
            path.write_bytes(path.read_bytes()[:40])
        case _:
            start = line("start", at=1.0, pid=1, start_time=1, shim=1, shim_start_time=1, namespace=1, cgroup=None)
            claim(local, "crashed", start, line("refused", at=1.0, stage="exec", errno=2))
    assert local.provider.find("crashed") is None
    handle = local.start("sleep", "600", id="crashed")
    assert carrying("crashed") == [handle.data["pid"]]
    assert local.observe(handle).phase is Phase.RUNNING


def test_a_start_on_record_is_never_repeated(local: Local) -> None:
    # The shim died between its record and the program: the workload's process went with it.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    start = line(
        "start", at=1.0, pid=2**22, start_time=1, shim=2**22 - 1, shim_start_time=1, namespace=namespace, cgroup=None
    )
    claim(local, "started", start, boot=boot)
    handle = local.start("sleep", "600", id="started")
    assert carrying("started") == []
    seen = local.observe(handle)
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.ENDED, None, "shim_lost")


def test_a_start_under_way_is_waited_for(local: Local) -> None:
    directory = claim(local, "under-way")
    with (directory / "journal").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Unreachable, match="being started"):
            local.provider.find("under-way")
        calls = 0

        def check() -> None:
            nonlocal calls
            calls += 1
            if calls == 10:
                raise StopRequested

        with pytest.raises(StopRequested):
            local.provider.dispatch("under-way", Spec(command=("sleep", "600")), check)
        assert directory.exists()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(local.start, "sleep", "600", id="under-way")
            eventually(waiting.running)
            fcntl.flock(other, fcntl.LOCK_UN)
            handle = waiting.result(timeout=50)
    assert carrying("under-way") == [handle.data["pid"]]


def test_release_removes_ended_ones_only(local: Local) -> None:
    running = local.start("sleep", "600")
    with pytest.raises(ProviderError, match="not ended"):
        local.provider.release(running)
    local.provider.kill(running)
    local.end(running)
    local.provider.release(running)
    local.provider.release(running)
    assert not (local.root / running.id).exists()
    assert local.live() == []


def test_handle_of_another_machine(local: Local) -> None:
    here = local.start("sleep", "600")
    there = here.model_copy(update={"backend": "another"})
    for call in (
        lambda: local.stop(there),
        lambda: local.provider.kill(there),
        lambda: local.provider.observe([there]),
        lambda: local.provider.release(there),
    ):
        with pytest.raises(Unreachable, match="machine another"):
            call()
    first, second = local.provider.observe([here, there])
    assert (first.reachable, second.reachable) == (True, False)
    assert alive(here.data["pid"])


def test_machine_without_an_id_keeps_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agora_local import machine

    monkeypatch.setattr(machine, "MACHINE_ID_FILES", (tmp_path / "missing",))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: machine.machine_id(tmp_path / "state"), range(8)))
    assert len(found) == 1
    assert len(found.pop()) == 32
    assert [path.name for path in (tmp_path / "state").iterdir()] == [".machine"]


def test_long_state_directory(tmp_path: Path) -> None:
    local = Local(tmp_path, state_dir=tmp_path / ("d" * 120) / ("e" * 120))
    try:
        handle = local.start("sleep", "600")
        local.stop(handle)
        assert local.end(handle).signal == signal.SIGTERM
    finally:
        local.clean()


@pytest.mark.serial
def test_five_hundred_are_observed_quickly(local: Local) -> None:
    handle = local.start("sleep", "600")
    local.provider.observe([handle])
    took = []
    for _ in range(5):
        began = time.process_time()
        local.provider.observe([handle] * 500)
        took.append(time.process_time() - began)
    assert min(took) < 0.1, took


def test_journal_lines_are_json() -> None:
    text = journal.line("x", a='q"\\', b=None, c=True, d=1.5, e=3)
    assert json.loads(text) == {"record": "x", "a": 'q"\\', "b": None, "c": True, "d": 1.5, "e": 3}
    with pytest.raises(ValueError, match="plain"):
        journal.line("x", a="\n")


def test_dispatch_needs_a_valid_id(local: Local) -> None:
    with pytest.raises(InvalidRequest):
        local.provider.dispatch("../x", Spec(command=("true",)), never)


def test_a_damaged_journal_hides_nobody_else(local: Local) -> None:
    good, bad = local.start("sleep", "600"), local.start("sleep", "600")
    path = local.root / bad.id / "journal"
    whole = path.read_bytes()
    path.write_bytes(b"\1\2 no journal\n" + whole)
    first, second = local.provider.observe([good, bad])
    assert (first.reachable, second.reachable, second.reason) == (True, False, "journal_damaged")
    assert [owned.handle.id for owned in local.provider.list_owned("test-installation")] == [good.id]
    with pytest.raises(ProviderError, match="damaged"):
        local.provider.find(bad.id)
    path.write_bytes(whole)
