"""How workloads end when we stop them, looked at from the host and in what ECS shows."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from agora.errors import Unreachable
from agora.model.observation import EndedBy, Phase, ReceiptKind
from agora_conformance.emulators.ecs import EcsEmulator, Timing
from agora_fargate import api, connect, logs
from fargate_harness import GROUP, STUBBORN, Hands, eventually, stream_of

pytestmark = pytest.mark.backend("fargate")


def test_a_graceful_stop_keeps_the_exit_code_and_tells_ecs_why(hands: Hands) -> None:
    handle = hands.start(options={"tags": {"team": "x"}})
    hands.ready(handle)
    receipt = hands.stop(handle, grace=5, reason="not needed")
    assert (receipt.kind, receipt.effective_grace, receipt.degraded) == (ReceiptKind.SIGNALLED, 5, ())
    assert hands.task(handle)["stoppedReason"] == f"agora {handle.id}: tester via api: not needed"
    seen = hands.end(handle)
    assert hands.processes(handle) == []
    assert (seen.exit_code, seen.ended_by, seen.forced, seen.stop_reached) == (42, None, False, None)
    assert b"got term" in hands.output(handle)
    # Its tags are gone by now, and its marks are not.
    assert [one.handle.id for one in hands.provider.list_owned(hands.installation)] == [handle.id]


def test_a_stubborn_workload_is_killed_after_its_grace(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=2)
    hands.ready(handle)
    began = time.monotonic()
    assert hands.stop(handle, grace=2).effective_grace == 2
    eventually(lambda: not hands.processes(handle))
    assert 1.5 < time.monotonic() - began < 20
    seen = hands.end(handle)
    assert (seen.exit_code, seen.forced, seen.evidence) == (137, True, "inferred")


@pytest.mark.parametrize("asked", [2, 60])
def test_another_grace_than_the_definitions_is_named_and_not_faked(hands: Hands, asked: int) -> None:
    handle = hands.start(grace=5)
    hands.ready(handle)
    receipt = hands.stop(handle, grace=asked)
    assert (receipt.kind, receipt.effective_grace, receipt.degraded) == (ReceiptKind.SIGNALLED, 5, ("grace",))
    hands.end(handle)


def test_a_grace_between_two_steps_is_the_next_one_and_no_lack(hands: Hands) -> None:
    handle = hands.start(grace=17)
    hands.ready(handle)
    receipt = hands.stop(handle, grace=17)
    assert (receipt.effective_grace, receipt.degraded) == (20, ())
    hands.end(handle)


def test_many_stops_send_one_signal_and_keep_the_first_reason(hands: Hands, tmp_path: Path) -> None:
    leave = tmp_path / "leave"
    waits = f"while [ -z $n ]; do sleep 0.05; done; while [ ! -e {leave} ]; do sleep 0.05; done; exit 7"
    handle = hands.start(f"trap 'n=1' TERM; echo ready; {waits}", grace=30)
    hands.ready(handle)
    first = hands.stop(handle, grace=30, reason="first")
    receipts = []
    threads = [threading.Thread(target=lambda: receipts.append(hands.stop(handle, grace=2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    leave.touch()
    assert first.kind is ReceiptKind.SIGNALLED
    assert {receipt.kind for receipt in receipts} == {ReceiptKind.ALREADY_STOPPING}
    assert {(receipt.effective_grace, receipt.degraded) for receipt in receipts} == {(30, ("grace",))}
    assert len(receipts) == 8
    assert hands.end(handle).exit_code == 7
    assert len(hands.emulator.terms(handle.data["task"])) == 1
    assert len(hands.requests("StopTask", handle)) == 1
    assert "first" in hands.task(handle)["stoppedReason"]


def test_a_finished_workload_is_left_as_it_is(hands: Hands) -> None:
    handle = hands.start("exit 3")
    hands.end(handle)
    receipt = hands.stop(handle)
    assert receipt.kind is ReceiptKind.ALREADY_EXITED
    assert receipt.observation is not None
    assert (receipt.observation.exit_code, receipt.observation.stop_reached) == (3, False)
    assert hands.requests("StopTask", handle) == []
    assert hands.observe(handle) == receipt.observation


def test_an_unknown_task_is_not_found(hands: Hands) -> None:
    handle = hands.start("exit 0")
    hands.end(handle)
    hands.emulator.forget(handle.data["task"])
    with pytest.raises(Unreachable, match="does not show"):
        hands.stop(handle)  # this process started it a moment ago
    hands.provider._new.clear()
    assert hands.stop(handle).kind is ReceiptKind.NOT_FOUND
    assert hands.observe(handle).phase is Phase.ABSENT
    elsewhere = handle.model_copy(update={"backend": f"{handle.backend}-another"})
    with pytest.raises(Unreachable, match="another"):
        hands.stop(elsewhere)


def test_a_stop_whose_answer_is_lost_was_sent_and_is_the_cause_of_the_end(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "READ_SECONDS", 2.5)
    handle = hands.start()
    hands.ready(handle)
    hands.emulator.faults.slow(6, action="StopTask")
    with pytest.raises(Unreachable) as caught:
        hands.stop(handle)
    assert caught.value.sent is True
    seen = hands.end(handle)
    assert (seen.exit_code, seen.ended_by, seen.stop_reached) == (42, None, None)


def test_a_cut_connection_is_tried_again(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    hands.emulator.faults.cut(1, after=True, action="StopTask")
    assert hands.stop(handle).kind is ReceiptKind.SIGNALLED
    assert hands.end(handle).exit_code == 42
    assert len(hands.emulator.terms(handle.data["task"])) == 1


@pytest.mark.parametrize("fault", ["throttle", "fail"])
def test_a_busy_service_is_asked_again_for_a_while(hands: Hands, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = hands.start()
    hands.ready(handle)
    getattr(hands.emulator.faults, fault)(2, action="StopTask")
    assert hands.stop(handle).kind is ReceiptKind.SIGNALLED
    assert hands.end(handle).exit_code == 42
    assert api.CALL_SECONDS + connect.READ_SECONDS < 10, "a stop has ten seconds"
    monkeypatch.setattr(api, "CALL_SECONDS", 0.5)
    getattr(hands.emulator.faults, fault)(None, action="DescribeTasks")
    began = time.monotonic()
    with pytest.raises(Unreachable, match="DescribeTasks") as caught:
        hands.stop(handle)
    assert time.monotonic() - began < 10
    assert caught.value.sent is (fault == "fail")


#: What a task does for a minute in the test below, its status meanwhile, and whether its log stream is there by then.
STATES = {
    "provision": ("PROVISIONING", False),
    "prepare": ("PENDING", False),
    "pull": ("PENDING", True),
    "activate": ("ACTIVATING", True),
}


@pytest.mark.parametrize("part", STATES)
def test_a_stop_in_every_state_before_the_start(tmp_path: Path, part: str) -> None:
    """It never runs, and has no exit code."""
    status, logged = STATES[part]
    timing = replace(Timing().hurried(0.005), **{part: 60.0})
    with EcsEmulator(timing=timing, log_groups=(GROUP,), throttle=False) as emulator:
        hands = Hands(emulator, tmp_path)
        handle = hands.start()
        stream = logs.Stream(hands.api, GROUP, stream_of(handle))
        eventually(lambda: (hands.task(handle)["lastStatus"], bool(stream.page().forward)) == (status, logged))
        receipt = hands.stop(handle)
        assert (receipt.kind, receipt.effective_grace) == (ReceiptKind.SIGNALLED, 5)
        seen = hands.end(handle)
        assert (seen.never_started, seen.exit_code, seen.ended_by) == (True, None, None)
        assert hands.processes(handle) == []
        hands.clean()


def test_a_stop_that_was_not_ours_is_told(hands: Hands) -> None:
    theirs, spot = hands.start(), hands.start()
    for handle in (theirs, spot):
        hands.ready(handle)
    hands.api.call("StopTask", cluster="default", task=theirs.data["task"], reason="Task stopped by user")
    hands.emulator.interrupt(spot.data["task"])
    assert hands.stop(spot).kind is ReceiptKind.ALREADY_STOPPING
    for handle, words in ((theirs, "by user"), (spot, "Spot")):
        seen = hands.end(handle)
        assert (seen.exit_code, seen.ended_by) == (42, EndedBy.EXTERNAL)
        assert words in (seen.message or "")
