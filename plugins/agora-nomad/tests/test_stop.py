"""How a workload is stopped: one SIGTERM, its grace, and a kill that somebody may bring forward."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.errors import ProviderError, Unreachable
from agora.model.events import EventType
from agora.model.observation import Handle, Phase, ReceiptKind
from agora.model.record import State
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from agora_nomad import names
from nomad_harness import GRACEFUL, STUBBORN, Hands, eventually

pytestmark = pytest.mark.backend("nomad")


@pytest.mark.parametrize("driver", ["raw_exec", "exec", "docker"])
def test_a_workload_that_listens_keeps_its_exit_code(hands: Hands, driver: str) -> None:
    handle = hands.start(options={"driver": driver})
    hands.ready(handle)
    receipt = hands.stop(handle)
    assert (receipt.kind, receipt.effective_grace, receipt.degraded) == (ReceiptKind.SIGNALLED, 5, ())
    seen = hands.end(handle)
    assert (seen.exit_code, seen.forced, seen.stop_reached) == (42, False, True)
    job = hands.job(handle)
    assert job is not None, "never a purge: the record is the fence"
    assert job["Stop"] is True
    assert not hands.processes(handle)


@pytest.mark.parametrize("driver", ["raw_exec", "docker"])
def test_a_workload_that_does_not_listen_is_killed_on_time(hands: Hands, driver: str) -> None:
    # Longer than the five seconds that a task has by itself.
    handle = hands.start(STUBBORN, grace=7, options={"driver": driver})
    hands.ready(handle)
    began = time.monotonic()
    hands.stop(handle, grace=7)
    eventually(lambda: not hands.processes(handle))
    assert 6.5 < time.monotonic() - began < 15
    seen = hands.end(handle)
    assert (seen.exit_code, seen.forced, seen.evidence) == (137, True, "inferred")


@pytest.mark.parametrize("driver", ["exec", "docker"])
def test_the_workload_is_not_process_1(hands: Hands, driver: str) -> None:
    handle = hands.start("echo ready; exec sleep 60", grace=20, options={"driver": driver})
    hands.ready(handle)
    hands.stop(handle)
    eventually(lambda: not hands.processes(handle), 15)
    seen = hands.end(handle)
    assert (seen.exit_code, seen.forced) == (143, False)


def test_further_stops_change_nothing(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=8)
    hands.ready(handle)
    began = time.monotonic()
    first = hands.stop(handle, grace=8)
    kinds = []
    threads = [threading.Thread(target=lambda: kinds.append(hands.stop(handle, grace=2).kind)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert first.kind is ReceiptKind.SIGNALLED
    assert kinds == [ReceiptKind.ALREADY_STOPPING] * 5
    assert len(hands.emulator.terms(names.job_id(handle.id))) == 1
    assert len(hands.emulator.faults.requests("deregister", names.job_id(handle.id))) == 1
    hands.end(handle)
    assert time.monotonic() - began > 7
    last = hands.stop(handle)
    assert last.kind is ReceiptKind.ALREADY_EXITED
    assert last.observation is not None
    assert last.observation.exit_code == 137


def test_the_grace_is_that_of_the_dispatch(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=18)
    hands.ready(handle)
    receipt = hands.stop(handle, grace=20)
    assert (receipt.effective_grace, receipt.degraded) == (18, ("grace",))
    # A shorter one is told as well; the kill that it asks for comes from the core.
    receipt = hands.stop(handle, grace=2)
    assert (receipt.effective_grace, receipt.degraded) == (18, ())
    receipt = hands.provider.kill(handle)
    assert (receipt.kind, receipt.degraded) == (ReceiptKind.SIGNALLED, ())
    eventually(lambda: not hands.processes(handle), 10)
    seen = hands.end(handle)
    assert (seen.exit_code, seen.forced) == (137, True)


def test_a_force_kills_at_once_and_nothing_follows(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=20)
    hands.ready(handle)
    assert hands.provider.kill(handle).kind is ReceiptKind.SIGNALLED
    eventually(lambda: not hands.processes(handle), 10)
    hands.end(handle)
    assert hands.provider.kill(handle).kind is ReceiptKind.ALREADY_EXITED
    assert len(hands.allocations(handle)) == 1
    calls = hands.emulator.faults.requests()
    assert not [call for call in calls if call.operation == "allocation/stop"], "it would start another"


def remarks(hands: Hands, handle: Handle) -> list[dict[str, Any]]:
    """Return what the cluster shows beside a job, to whoever may read it."""
    shown = hands.api.call("get", "job", names.job_id(handle.id), "scale")
    return list(shown["TaskGroups"][names.TASK]["Events"] or [])


def test_who_looks_at_the_cluster_sees_who_stopped_it_and_why(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    assert remarks(hands, handle) == []
    hands.stop(handle, reason="the wrong input\nfile " + "x" * 2000)
    hands.stop(handle, reason="a later one")
    (remark,) = remarks(hands, handle)
    assert remark["Message"].startswith("tester via api: the wrong input file xxx")
    assert len(remark["Message"]) == 500
    assert (remark["Meta"]["agora.actor"], remark["Meta"]["agora.via"]) == ("tester", "api")
    assert remark["Meta"]["agora.reason"].startswith("the wrong input\nfile")
    assert len(remark["Meta"]["agora.reason"]) == 500
    assert "agora.policy" not in remark["Meta"]
    assert remark["Meta"]["agora.request_id"]
    # It changes nothing of the job, whose end is the client's.
    job = hands.job(handle)
    assert job is not None
    assert (job["Version"], job["Stop"]) == (1, True)
    seen = hands.end(handle)
    assert (seen.exit_code, seen.forced, seen.stop_reached) == (42, False, True)
    assert len(hands.allocations(handle)) == 1
    assert [one["TriggeredBy"] for one in hands.api.evaluations(names.job_id(handle.id))].count("scaling") == 0


def test_what_others_stopped_gets_no_remark_of_ours(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=20)
    hands.ready(handle)
    hands.api.deregister(names.job_id(handle.id))
    assert hands.stop(handle, grace=2).kind is ReceiptKind.ALREADY_STOPPING
    assert remarks(hands, handle) == []


@pytest.mark.parametrize("fault", ["fail", "forbid", "cut", "stall"])
def test_a_remark_that_is_not_taken_is_no_failure_of_the_stop(hands: Hands, fault: str) -> None:
    handle = hands.start()
    hands.ready(handle)
    switch = getattr(hands.emulator.faults, fault)
    switch(*((30.0, None) if fault == "stall" else (None,)), operation="job/scale")
    began = time.monotonic()
    assert hands.stop(handle).kind is ReceiptKind.SIGNALLED
    assert time.monotonic() - began < 10, "a stop has ten seconds"
    assert hands.end(handle).exit_code == 42
    hands.emulator.faults.clear()
    assert remarks(hands, handle) == []


def test_what_was_never_placed_ends_without_an_allocation(hands: Hands) -> None:
    handle = hands.start(options={"memory_mb": 100_000_000})
    eventually(lambda: hands.observe(handle).reason == "unplaceable")
    assert hands.stop(handle).kind is ReceiptKind.SIGNALLED
    seen = hands.end(handle)
    assert (seen.never_started, seen.reason, seen.exit_code) == (True, "never_placed", None)
    assert hands.allocations(handle) == []


def test_a_stop_right_after_the_start_ends_in_any_case(hands: Hands) -> None:
    handles = [hands.start("echo ran; sleep 60") for _ in range(6)]
    for number, handle in enumerate(handles):
        time.sleep(0.03 * number)
        hands.stop(handle)
    for handle in handles:
        seen = hands.end(handle)
        assert seen.never_started or seen.exit_code in (143, None)
        assert not hands.processes(handle)


def test_an_empty_evaluation_is_looked_into(hands: Hands) -> None:
    handle = hands.start("exit 0")
    hands.end(handle)
    hands.provider.release(handle)
    eventually(lambda: hands.observe(handle).phase is Phase.ABSENT)
    assert hands.job(handle) is None
    assert hands.stop(handle).kind is ReceiptKind.NOT_FOUND
    assert hands.provider.kill(handle).kind is ReceiptKind.NOT_FOUND
    # Between the look and the stop somebody removes it.
    other = hands.start("sleep 60")
    hands.running(other)
    hands.emulator.faults.hide(names.job_id(other.id))
    assert hands.api.deregister(names.job_id(other.id)) is False


def test_what_lives_is_not_released(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=6)
    hands.ready(handle)
    with pytest.raises(ProviderError, match="has not ended"):
        hands.provider.release(handle)
    hands.stop(handle, grace=6)
    with pytest.raises(ProviderError, match="has not ended"):
        hands.provider.release(handle)
    hands.end(handle)
    hands.provider.release(handle)
    hands.provider.release(handle)
    assert hands.jobs() == []


def test_an_exit_code_that_got_lost_is_null(hands: Hands) -> None:
    hands.emulator.faults.lose_exit_codes(2)
    willing, killed = hands.start(GRACEFUL), hands.start(STUBBORN, grace=2)
    for handle, grace in ((willing, 5), (killed, 2)):
        hands.ready(handle)
        hands.stop(handle, grace=grace)
    seen = hands.end(willing)
    assert (seen.exit_code, seen.signal, seen.forced) == (None, None, False)
    seen = hands.end(killed)
    assert (seen.exit_code, seen.signal, seen.forced) == (None, None, True)


def test_a_stop_of_a_client_that_is_away_is_taken_and_a_kill_is_not(tmp_path: Path) -> None:
    with NomadEmulator(timing=Timing(heartbeat=0.6)) as emulator:
        hands = Hands(emulator, tmp_path)
        handle = hands.start(STUBBORN, grace=2)
        hands.ready(handle)
        emulator.node_away()
        eventually(lambda: not hands.observe(handle).reachable)
        # The server keeps the stop for when the client is back.
        assert hands.stop(handle, grace=2).kind is ReceiptKind.SIGNALLED
        with pytest.raises(Unreachable, match="No path to node"):
            hands.provider.kill(handle)
        assert hands.processes(handle)
        seen = hands.observe(handle)
        assert (seen.phase, seen.reachable) == (Phase.RUNNING, False)
        emulator.node_back()
        assert hands.end(handle).stop_reached is True
        assert not hands.processes(handle)
        hands.provider.close()


@pytest.mark.anyio
async def test_a_cap_that_shows_late_is_told_in_a_further_event(tmp_path: Path) -> None:
    with NomadEmulator(max_kill_timeout=3) as emulator:
        table = {"address": emulator.url, "driver": "raw_exec", "max_grace": 30}
        config = TargetConfig("c", "nomad", table, "a test")
        settings = Settings(default_target="c", targets={"c": config}, supervisor=False)
        async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:
            handle = await agora.dispatch(command=("/bin/sh", "-c", STUBBORN), grace=20, timeout=60)
            async for chunk in agora.logs(handle.id, follow=True):
                if b"ready" in chunk.data:
                    break
            result = await agora.cancel(handle.id, reason="a test")
            assert result.effective_grace == 20
            record = await agora.wait(handle.id, timeout=50)
            assert (record.state, record.forced, record.effective_grace) == (State.CANCELLED, True, 3)
            told = [event.data async for event in agora.events(handle.id) if event.type == EventType.STOPPING]
            assert [bool(data.get("clamped")) for data in told] == [False, True]


@pytest.mark.anyio
async def test_what_waits_for_a_place_says_why_on_its_record(tmp_path: Path) -> None:
    with NomadEmulator() as emulator:
        config = TargetConfig("c", "nomad", {"address": emulator.url, "driver": "raw_exec"}, "a test")
        settings = Settings(default_target="c", targets={"c": config}, supervisor=False)
        async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:
            handle = await agora.dispatch(command=("/bin/true",), options={"memory_mb": 100_000_000})
            record = await agora.get(handle.id)
            with anyio.fail_after(50):
                while record.reason != "unplaceable":
                    await anyio.sleep(0.1)
                    record = await agora.get(handle.id)
            assert record.state is State.SUBMITTED
            assert any("memory exhausted on 1 of 1 nodes" in str(note.data) for note in record.notes)
            await agora.cancel(handle.id)
            record = await agora.wait(handle.id, timeout=50)
            assert (record.state, record.confirmed, record.exit_code) == (State.CANCELLED, True, None)
