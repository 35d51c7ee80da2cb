"""SIGTERM to the leader alone, SIGKILL to what is left: seen from outside, by the processes themselves."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from agora.model.cause import Cause, Via
from agora.model.observation import Phase, ReceiptKind
from agora_local.journal import CAUSE_CHARACTERS, JOURNAL_BYTES
from agora_local.story import read
from local_harness import Local, alive, carrying, eventually

STUBBORN = "trap '' TERM; echo READY; while :; do sleep 0.1; done"


def test_default_disposition_dies_at_once(local: Local) -> None:
    handle = local.start("sleep", "600")
    began = time.monotonic()
    receipt = local.stop(handle, grace=30)
    assert receipt.kind is ReceiptKind.SIGNALLED
    assert receipt.effective_grace == 30
    seen = local.end(handle)
    assert time.monotonic() - began < 20
    assert (seen.exit_code, seen.signal, seen.forced, seen.evidence) == (143, signal.SIGTERM, False, "proven")
    assert seen.stop_reached is True
    assert not alive(handle.data["pid"])
    assert carrying(handle.id) == []


@pytest.mark.parametrize("code", [0, 42, 143, 137])
def test_graceful_exit_keeps_its_code(local: Local, code: int) -> None:
    handle = local.start("sh", "-c", f"trap 'exit {code}' TERM; echo READY; while :; do sleep 0.05 & wait $!; done")
    local.ready(handle)
    local.stop(handle)
    seen = local.end(handle)
    assert (seen.exit_code, seen.signal, seen.forced, seen.stop_reached) == (code, None, False, True)


@pytest.mark.serial
def test_escalates_after_the_grace_and_not_before(both: Local) -> None:
    handle = both.start("sh", "-c", STUBBORN)
    both.ready(handle)
    began = time.monotonic()
    both.stop(handle, grace=2)
    seen = both.end(handle)
    # The contract's bounds: not before the grace is over, at the latest 3 s after it.
    assert 2.0 <= time.monotonic() - began < 5.0
    assert (seen.exit_code, seen.signal, seen.forced, seen.evidence) == (137, signal.SIGKILL, True, "proven")
    assert carrying(handle.id) == []


def test_signals_the_leader_alone_and_once(local: Local) -> None:
    child = "trap 'echo CHILD' TERM; echo UP; while :; do sleep 0.05 & wait $!; done"
    leader = "trap 'echo LEADER' TERM; echo READY; while :; do sleep 0.05 & wait $!; done"
    handle = local.start("sh", "-c", f'sh -c "$1" & {leader}', "leader", child)
    local.ready(handle)
    local.ready(handle, b"UP\n")
    kinds = [local.stop(handle, grace=4).kind for _ in range(5)]
    assert kinds == [ReceiptKind.SIGNALLED] + [ReceiptKind.ALREADY_STOPPING] * 4
    local.end(handle)
    assert local.output(handle).count(b"LEADER\n") == 1
    assert b"CHILD" not in local.output(handle)


def test_repeated_stop_changes_nothing(local: Local) -> None:
    handle = local.start("sh", "-c", STUBBORN)
    local.ready(handle)
    began = time.monotonic()
    local.stop(handle, grace=4)
    again = local.stop(handle, grace=600)
    assert (again.kind, again.effective_grace) == (ReceiptKind.ALREADY_STOPPING, 4)
    local.end(handle)
    assert time.monotonic() - began < 20


def test_twenty_stops_at_once(local: Local) -> None:
    script = "trap 'echo TERM' TERM; echo READY; until [ -e go ]; do sleep 0.05 & wait $!; wait; done"
    handle = local.start("sh", "-c", script, cwd=str(local.directory))
    local.ready(handle)
    with ThreadPoolExecutor(20) as pool:
        receipts = list(pool.map(lambda _: local.stop(handle), range(20)))
    assert sum(receipt.kind is ReceiptKind.SIGNALLED for receipt in receipts) == 1
    assert {receipt.kind for receipt in receipts} <= {ReceiptKind.SIGNALLED, ReceiptKind.ALREADY_STOPPING}
    eventually(lambda: local.output(handle).count(b"TERM\n"))
    (local.directory / "go").touch()
    local.end(handle)
    assert local.output(handle).count(b"TERM\n") == 1


def test_kill_needs_no_grace(both: Local) -> None:
    handle = both.start("sh", "-c", f"({STUBBORN}) & {STUBBORN}")
    both.ready(handle)
    both.stop(handle, grace=600)
    receipt = both.provider.kill(handle)
    assert receipt.kind is ReceiptKind.SIGNALLED
    seen = both.end(handle)
    assert (seen.signal, seen.forced, seen.stop_reached) == (signal.SIGKILL, True, True)
    assert carrying(handle.id) == []


def test_children_that_ignore_or_left_are_killed_with_the_leader(both: Local) -> None:
    # One that ignores SIGTERM, one in a session of its own, one that daemonised, one without the mark.
    script = f"""
        ({STUBBORN.replace("READY", "one")}) &
        setsid sh -c "{STUBBORN.replace("READY", "two")}" &
        (setsid sh -c "{STUBBORN.replace("READY", "three")}" &)
        env -i setsid sh -c "{STUBBORN.replace("READY", "four")}" &
        trap 'exit 5' TERM; echo READY; while :; do sleep 0.05 & wait $!; done
    """
    handle = both.start("sh", "-c", script)
    for word in (b"one\n", b"two\n", b"three\n", b"four\n", b"READY\n"):
        both.ready(handle, word)
    pids = descendants(handle.data["shim"])
    assert len(pids) >= 5
    both.stop(handle, grace=600)
    seen = both.end(handle)
    assert (seen.exit_code, seen.forced) == (5, False)
    assert [pid for pid in pids if alive(pid)] == []
    assert carrying(handle.id) == []


def test_nothing_outlives_a_leader_that_ends_by_itself(both: Local) -> None:
    script = f'({STUBBORN}) & (setsid sh -c "{STUBBORN}" &) ; sleep 0.3; exit 7'
    handle = both.start("sh", "-c", script)
    seen = both.end(handle)
    assert (seen.exit_code, seen.signal, seen.stop_reached, seen.forced) == (7, None, False, False)
    assert carrying(handle.id) == []


def test_background_child_that_holds_stdout_does_not_delay_the_end(both: Local) -> None:
    seen, output = both.run("sh", "-c", "sleep 600 & echo out; exit 3")
    assert (seen.exit_code, output) == (3, b"out\n")


def test_stopped_workload_sees_the_signal(local: Local) -> None:
    handle = local.start("sh", "-c", "trap 'exit 9' TERM; echo READY; kill -STOP $$; while :; do sleep 0.05; done")
    local.ready(handle)
    eventually(lambda: "T" in Path(f"/proc/{handle.data['pid']}/stat").read_text().rpartition(")")[2].split()[0])
    local.stop(handle, grace=20)
    assert local.end(handle).exit_code == 9


def test_stopped_child_is_continued_so_that_its_parent_can_end(local: Local) -> None:
    script = "sh -c 'echo READY; kill -STOP $$' & trap 'wait; exit 8' TERM; wait"
    handle = local.start("sh", "-c", script)
    local.ready(handle)
    eventually(lambda: any(state(pid) == "T" for pid in descendants(handle.data["shim"])))
    local.stop(handle, grace=20)
    assert local.end(handle).exit_code == 8


def test_stopped_stubborn_workload_is_killed(both: Local) -> None:
    handle = both.start("sh", "-c", "trap '' TERM; echo READY; while :; do kill -STOP $$; done")
    both.ready(handle)
    both.stop(handle, grace=2)
    assert both.end(handle).forced is True


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_inherited_signal_settings_do_not_reach_the_workload(tmp_path: Path, how: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    if how == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    local = Local(tmp_path)
    try:
        handle = local.start("sleep", "600")
        status = Path(f"/proc/{handle.data['pid']}/status").read_text()
        masks = {
            line.split(":")[0]: int(line.split()[1], 16)
            for line in status.splitlines()
            if line[:3] == "Sig" and "Q" not in line
        }
        # glibc keeps signals 32 and 33 for itself: its posix_spawn ignores them, nobody else can set them.
        ignored = masks["SigIgn"] & ~(0b11 << 31)
        assert (masks["SigBlk"], ignored, masks["SigCgt"]) == (0, 0, 0)
        local.stop(handle)
        assert local.end(handle).signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
        local.clean()


def test_stop_after_the_end_changes_nothing(local: Local) -> None:
    handle = local.start("sh", "-c", "exit 4")
    local.end(handle)
    for receipt in (local.stop(handle), local.provider.kill(handle)):
        assert receipt.kind is ReceiptKind.ALREADY_EXITED
        assert receipt.observation is not None
        assert (receipt.observation.exit_code, receipt.observation.stop_reached) == (4, False)


def test_stop_of_an_unknown_dispatch(local: Local) -> None:
    handle = local.start("true")
    local.end(handle)
    local.provider.release(handle)
    assert local.stop(handle).kind is ReceiptKind.NOT_FOUND
    assert local.observe(handle).phase is Phase.ABSENT


@pytest.mark.timeout(300)
def test_stop_racing_the_end_tells_who_was_first(local: Local) -> None:
    outcomes: set[tuple[ReceiptKind, int | None]] = set()
    give_up = time.monotonic() + 90
    for offset in itertools.count():  # later and later, until the end comes first now and then
        if offset >= 60 and len({kind for kind, _ in outcomes}) == 2:
            break
        assert time.monotonic() < give_up, outcomes
        handle = local.start("sh", "-c", "trap 'exit 3' TERM; sleep 0.02 & wait $!; exit 0")
        time.sleep(offset / 1500)
        receipt = local.stop(handle)
        seen = local.end(handle)
        outcomes.add((receipt.kind, seen.exit_code))
        if receipt.kind is ReceiptKind.ALREADY_EXITED:
            assert (seen.exit_code, seen.stop_reached) == (0, False)
        else:
            assert receipt.kind is ReceiptKind.SIGNALLED
            assert seen.stop_reached is True
            assert seen.exit_code in (0, 3, 143)  # 143: before the shell had set its trap
    assert {kind for kind, _ in outcomes} == {ReceiptKind.ALREADY_EXITED, ReceiptKind.SIGNALLED}


FORKING = """
import os, sys, time
def burn():
    while True:
        if os.fork():
            os._exit(0)
print("READY", flush=True)
for _ in range(3):
    if not os.fork():
        os.setsid()
        burn()
time.sleep(600)
"""
GROWING = """
import os, time
print("READY", flush=True)
while len(os.listdir("/proc")) < 1500:
    os.fork()
    time.sleep(0.01)
time.sleep(600)
"""


@pytest.mark.serial
@pytest.mark.parametrize("program", [FORKING, GROWING], ids=["chain", "growing"])
def test_trees_that_fork_all_the_time_are_killed(both: Local, program: str) -> None:
    handle = both.start(sys.executable, "-I", "-S", "-c", program)
    both.ready(handle)
    threading.Event().wait(0.5)
    both.stop(handle, grace=600)
    seen = both.end(handle)
    assert seen.signal == signal.SIGTERM
    assert carrying(handle.id) == []


def test_deadline_of_its_own_when_everybody_else_is_dead(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    import agora_local.request

    # The shim adds 60 s to the timeout; a negative one brings that within the patience of a test.
    packed = agora_local.request.Request.pack

    def soon(self: agora_local.request.Request) -> bytes:
        self.timeout = -56
        return packed(self)

    monkeypatch.setattr(agora_local.request.Request, "pack", soon)
    handle = local.start("sh", "-c", "trap 'exit 6' TERM; echo READY; while :; do sleep 0.05 & wait $!; done")
    seen = local.end(handle)
    assert (seen.exit_code, seen.ended_by, seen.stop_reached) == (6, "deadline", False)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def test_cause_stands_in_the_journal(local: Local) -> None:
    handle = local.start("sleep", "600")
    reason = 'say "no" \\ ' + "🙂" * 300
    local.provider.stop(handle, 10, Cause(actor="ann", via=Via.CLI, reason=reason))
    local.end(handle)
    told = read(local.root / handle.id)
    assert told is not None
    assert told.records["stop"]["cause"].startswith('ann via cli: say "no" \\ 🙂')
    assert len(told.records["stop"]["cause"]) == CAUSE_CHARACTERS
    assert told.length < JOURNAL_BYTES
