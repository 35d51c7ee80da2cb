"""What others do to a workload, and what the cluster says of one that it does not see."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agora.errors import InvalidRequest, PermissionDenied, ProviderError, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.observation import EndedBy, Phase, ReceiptKind
from agora.model.spec import Spec
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from agora_nomad import names
from nomad_harness import STUBBORN, Hands, eventually

pytestmark = pytest.mark.backend("nomad")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Hands]:
    """The provider on a cluster of this test's own, whose client may go away."""
    with NomadEmulator(timing=Timing(heartbeat=0.6, client_return=0.2)) as emulator:
        hands = Hands(emulator, tmp_path)
        yield hands
        hands.provider.close()


def drain(hands: Hands, on: bool) -> None:
    (node,) = hands.api.nodes()
    spec = {"DrainSpec": {"Deadline": 3 * 10**8, "IgnoreSystemJobs": False} if on else None, "MarkEligible": not on}
    hands.api._connection.requester("node").request(node["ID"], "drain", method="post", json=spec)


def test_a_drain_is_an_end_that_nobody_of_ours_asked_for(alone: Hands) -> None:
    handle = alone.start()
    alone.ready(handle)
    drain(alone, True)
    seen = alone.end(handle)
    assert (seen.exit_code, seen.ended_by, seen.message) == (42, EndedBy.EXTERNAL, "alloc is being migrated")
    job = alone.job(handle)
    assert job is not None
    assert job["Stop"] is False
    drain(alone, False)
    assert len(alone.allocations(handle)) == 1


def test_a_stop_or_a_signal_by_somebody_else_is_external(hands: Hands) -> None:
    stopped, signalled = hands.start(), hands.start()
    for handle in (stopped, signalled):
        hands.ready(handle)
    hands.api.deregister(names.job_id(stopped.id))
    hands.api.signal(hands.allocation(signalled), names.TASK, "SIGTERM")
    for handle in (stopped, signalled):
        seen = hands.end(handle)
        assert (seen.exit_code, seen.ended_by) == (42, EndedBy.EXTERNAL)


def test_the_backstop_is_told_as_a_deadline(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agora_nomad.jobspec.BACKSTOP", 0)
    handle = hands.start(STUBBORN, timeout=1, grace=9)
    hands.ready(handle)
    # While its grace runs, the allocation is `complete` already.
    eventually(lambda: hands.allocations(handle)[0]["ClientStatus"] == "complete")
    assert hands.observe(handle).phase is Phase.RUNNING
    assert hands.processes(handle)
    seen = hands.end(handle)
    assert (seen.ended_by, seen.forced) == (EndedBy.DEADLINE, True)
    assert not hands.processes(handle)


def test_memory_is_told(hands: Hands) -> None:
    script = "x=0123456789abcdef; while :; do x=$x$x; done"
    handle = hands.start(script, resources={"memory": 32 << 20}, options={"driver": "docker"})
    seen = hands.end(handle)
    assert (seen.exit_code, seen.oom, seen.reason, seen.stop_reached) == (137, True, "oom_killed", False)


# -- away is not gone --------------------------------------------------------------------------------------------


def test_a_client_that_is_away_ends_nothing_and_comes_back(alone: Hands, tmp_path: Path) -> None:
    go = tmp_path / "go"
    handle = alone.start(f"echo ready; until [ -e {go} ]; do sleep 0.05; done; exit 7")
    alone.ready(handle)
    alone.emulator.node_away()
    eventually(lambda: alone.observe(handle).reachable is False)
    go.touch()
    assert alone.allocations(handle)[0]["ClientStatus"] == "unknown"
    eventually(lambda: not alone.processes(handle))
    seen = alone.observe(handle)
    assert (seen.phase, seen.reachable, seen.reason) == (Phase.RUNNING, False, "node_away")
    alone.emulator.node_back()
    assert alone.end(handle).exit_code == 7
    # Nothing was started in its place: the disconnect block is ours.
    assert len(alone.allocations(handle)) == 1


def test_stopped_while_away_is_no_end_before_the_client_says_so(alone: Hands) -> None:
    handle = alone.start()
    alone.ready(handle)
    alone.emulator.node_away()
    eventually(lambda: alone.observe(handle).reachable is False)
    assert alone.stop(handle).kind is ReceiptKind.SIGNALLED
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        assert alone.observe(handle).phase is Phase.RUNNING
        assert alone.processes(handle)
    alone.emulator.node_back()
    assert alone.end(handle).phase is Phase.ENDED
    assert not alone.processes(handle)
    assert len(alone.allocations(handle)) == 1


def test_no_leader_ends_nothing(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agora_nomad.api.CALL_SECONDS", 1.0)
    handle = hands.start()
    hands.ready(handle)
    hands.emulator.faults.leaderless()
    with pytest.raises(Unreachable, match="No cluster leader"):
        hands.observe(handle)
    hands.emulator.faults.leaderless(False)
    assert hands.observe(handle).phase is Phase.RUNNING


def test_a_refused_token_ends_nothing(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    hands.emulator.faults.forbid(None)
    for call in (hands.observe, hands.stop, hands.provider.kill, hands.provider.release):
        with pytest.raises(PermissionDenied, match="no token") as refused:
            call(handle)
        assert refused.value.sent is (call == hands.observe or call == hands.provider.release)
    hands.emulator.faults.clear()
    assert hands.observe(handle).phase is Phase.RUNNING


def test_an_allocation_that_a_missing_token_hides_is_no_end(hands: Hands) -> None:
    """Without a token a server calls an allocation unknown, with status 500."""
    handle = hands.start()
    hands.ready(handle)
    words = f'Unknown allocation "{hands.allocation(handle)}"'
    hands.emulator.faults.fail(None, operation="signal", code=500, text=words)
    with pytest.raises(ProviderError, match="Unknown allocation"):
        hands.provider.kill(handle)
    hands.emulator.faults.clear()
    assert hands.end(handle).exit_code == 42, "the job is stopped, with its grace"
    assert not hands.processes(handle)


def test_a_record_that_is_gone_is_no_proof_of_death(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=2)
    hands.ready(handle)
    hands.emulator.faults.hide(names.job_id(handle.id))
    assert hands.observe(handle).phase is Phase.ABSENT
    assert hands.provider._made.identity.backend() == handle.backend
    hands.emulator.faults.show()
    assert hands.observe(handle).phase is Phase.RUNNING


def test_another_cluster_never_says_that_a_workload_is_gone(hands: Hands, tmp_path: Path) -> None:
    handle = hands.start()
    hands.ready(handle)
    with NomadEmulator() as other:
        elsewhere = Hands(other, tmp_path / "elsewhere", hands.installation)
        for call in (elsewhere.observe, elsewhere.stop, elsewhere.provider.kill, elsewhere.provider.release):
            with pytest.raises(Unreachable, match="is not"):
                call(handle)
        mine = elsewhere.start()
        seen = elsewhere.provider.observe([handle, mine])
        assert (seen[0].phase, seen[0].reachable, seen[0].reason) == (Phase.RUNNING, False, "another_backend")
        assert seen[1].reachable
        elsewhere.provider.close()
    assert hands.observe(handle).phase is Phase.RUNNING


# -- what nobody asked for ---------------------------------------------------------------------------------------


def test_a_second_copy_is_killed_by_signal_and_told(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=2)
    hands.ready(handle)
    first = hands.allocation(handle)
    hands.api._connection.requester("allocation").request(first, "stop", method="post")
    seen = eventually(lambda: one if (one := hands.observe(handle)).reason == "second_copy" else None)
    assert (seen.phase, seen.native["allocation"] != first) == (Phase.RUNNING, True)
    assert seen.native["allocation"] in seen.message
    ended = hands.end(handle)
    assert (ended.native["allocation"], ended.exit_code, ended.ended_by) == (first, 137, EndedBy.EXTERNAL)
    eventually(lambda: not hands.processes(handle))
    assert len(hands.allocations(handle)) == 2
    calls = [call.operation for call in hands.emulator.faults.requests()]
    assert calls.count("allocation/stop") <= 1, "the test's own"


def test_another_installations_workloads_are_not_ours(hands: Hands, tmp_path: Path) -> None:
    other = Hands(hands.emulator, tmp_path / "other", 'another "one"')
    theirs, ours = other.start(), hands.start()
    for mine, handle in ((other, theirs), (hands, ours)):
        mine.running(handle)
    assert [item.handle.id for item in hands.provider.list_owned(hands.installation)] == [ours.id]
    assert [item.handle.id for item in other.provider.list_owned(other.installation)] == [theirs.id]
    assert hands.provider.find(theirs.id) is None
    assert hands.provider.find(new_dispatch_id()) is None
    other.clean()


def test_what_is_owned_is_listed_page_by_page(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agora_nomad.api.PAGE", 2)
    monkeypatch.setattr("agora_nomad.cluster._BATCH", 3)
    ended = hands.start("exit 0")
    hands.end(ended)
    handles = [hands.start() for _ in range(4)]
    for handle in handles:
        hands.running(handle)
    owned = {item.handle.id: item for item in hands.provider.list_owned(hands.installation)}
    assert {id for id, item in owned.items() if item.ended} == {ended.id}
    assert set(owned) == {ended.id, *(handle.id for handle in handles)}
    assert [owned[handle.id].handle.data for handle in handles] == [handle.data for handle in handles]
    seen = hands.provider.observe([ended, *handles])
    assert [one.phase for one in seen] == [Phase.ENDED, *[Phase.RUNNING] * 4]


def test_many_that_wait_are_looked_at_with_four_lists(hands: Hands) -> None:
    waiting = [hands.start(options={"memory_mb": 100_000_000}) for _ in range(5)]
    running = hands.start()
    hands.running(running)
    hands.stop(waiting[0])
    hands.end(waiting[0])
    before = len(hands.emulator.faults.requests())
    seen = hands.provider.observe([*waiting, running])
    assert [one.operation for one in hands.emulator.faults.requests()[before:]] == [
        *("jobs", "allocations", "evaluations", "allocations")
    ]
    assert (seen[0].phase, seen[0].reason) == (Phase.ENDED, "never_placed")
    assert [one.reason for one in seen[1:5]] == ["unplaceable"] * 4
    assert seen[5].phase is Phase.RUNNING


def test_a_cluster_that_does_not_answer_refuses_nothing(tmp_path: Path) -> None:
    with NomadEmulator() as emulator:
        hands = Hands(emulator, tmp_path)
    hands.provider.check(Spec(command=("a",), grace=30))
    with pytest.raises(Unreachable) as away:
        hands.start()
    assert away.value.sent is False
    with pytest.raises(InvalidRequest, match="above the 30 s"):
        hands.provider.check(Spec(command=("a",), grace=31))
    hands.provider.close()
