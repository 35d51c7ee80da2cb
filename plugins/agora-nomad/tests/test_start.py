"""How a workload is started: once, or not at all, and unchanged."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from agora.errors import DispatchConflict, InvalidRequest, StopRequested, SubmitRefused
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase
from agora.model.spec import Spec
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from agora_nomad import names
from nomad_harness import GRACEFUL, Hands, eventually, never

pytestmark = pytest.mark.backend("nomad")


@pytest.mark.parametrize("driver", ["raw_exec", "exec", "docker"])
def test_a_workload_runs_and_ends(hands: Hands, driver: str) -> None:
    handle = hands.start("echo ready; echo wrong >&2; exit 3", options={"driver": driver})
    seen = hands.end(handle)
    assert (seen.exit_code, seen.never_started, seen.stop_reached, seen.ended_by) == (3, False, False, None)
    assert hands.output(handle, stream="stdout") == b"ready\n"
    assert hands.output(handle, stream="stderr") == b"wrong\n"
    assert not hands.processes(handle)


@pytest.mark.parametrize("driver", ["raw_exec", "exec", "docker"])
def test_arguments_environment_and_directory_are_exact(hands: Hands, driver: str, tmp_path: Path) -> None:
    texts = [
        *("$HOME", "${NOMAD_JOB_ID}", "${X:-y}", "$(X)", "$$", "$${X}", "%{if}", "%%{", "{{x}}"),
        *("a\n\tb\\n", '"q"', "'s'", "`b`", "", "-n", "\U0001f600"),
    ]
    script = 'i=0; for a; do i=$((i+1)); eval "v=\\$V$i"; printf "[%s][%s]" "$a" "$v"; done; pwd'
    handle = hands.start(
        command=("/bin/sh", "-c", script, "probe", *texts),
        env={f"V{number}": text for number, text in enumerate(texts, 1)},
        cwd=str(tmp_path),
        options={"driver": driver},
    )
    assert hands.end(handle).exit_code == 0
    assert hands.output(handle).decode() == "".join(f"[{text}][{text}]" for text in texts) + f"{tmp_path}\n"


def test_the_same_id_again_is_the_same_workload(hands: Hands) -> None:
    handle = hands.start()
    again = hands.start(id=handle.id)
    assert again.data == handle.data
    hands.ready(handle)
    hands.stop(handle)
    hands.end(handle)
    # The record is the fence, also once it is dead.
    assert hands.start(id=handle.id).data == handle.data
    assert len(hands.allocations(handle)) == 1


def test_twenty_at_once_start_one(hands: Hands) -> None:
    id, found = new_dispatch_id(), []
    threads = [threading.Thread(target=lambda: found.append(hands.start(id=id))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len({json.dumps(one.data, sort_keys=True) for one in found}) == 1
    assert len(found) == 20
    hands.ready(found[0])
    assert len(hands.allocations(found[0])) == 1


def test_another_spec_or_another_installation_is_a_conflict(hands: Hands, tmp_path: Path) -> None:
    handle = hands.start()
    with pytest.raises(DispatchConflict, match="another spec"):
        hands.start("exit 1", id=handle.id)
    other = Hands(hands.emulator, tmp_path / "other", "another")
    with pytest.raises(DispatchConflict, match="installation"):
        other.start(id=handle.id)
    assert other.provider.find(handle.id) is None
    hands.ready(handle)
    assert hands.observe(handle).phase is Phase.RUNNING


def test_an_answer_that_was_lost_is_found(hands: Hands) -> None:
    hands.provider.identity()
    id = new_dispatch_id()
    hands.emulator.faults.cut(1, after=True, operation="register")
    # The request is sent again, and adopts what the first one made.
    handle = hands.start(id=id)
    found = hands.provider.find(id)
    assert found is not None
    assert found.data == handle.data
    assert len(hands.jobs()) == 1


def test_a_missing_answer_is_no_refusal(hands: Hands) -> None:
    hands.provider.identity()
    id = new_dispatch_id()
    hands.emulator.faults.fail(None, operation="register", code=500, text="something new", after=True)
    with pytest.raises(Exception, match="something new") as unsaid:
        hands.start(id=id)
    assert not isinstance(unsaid.value, SubmitRefused)
    hands.emulator.faults.clear()
    assert hands.provider.find(id) is not None


def test_a_stop_that_was_requested_before_leaves_nothing(hands: Hands) -> None:
    def requested() -> None:
        raise StopRequested("somebody cancelled")

    id = new_dispatch_id()
    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, Spec(command=("/bin/true",)), requested)
    assert hands.jobs() == []


def test_what_is_on_record_is_never_called_stopped_before_its_start(hands: Hands) -> None:
    """A stop that is requested while the answer to the registration is lost finds a job that runs."""
    hands.provider.identity()
    id = new_dispatch_id()
    left = iter(range(2))

    def check() -> None:
        if next(left, None) is None:
            raise StopRequested("somebody cancelled")

    hands.emulator.faults.cut(1, after=True, operation="register")
    spec = Spec(command=("/bin/sh", "-c", GRACEFUL), grace=5)
    handle = hands.provider.dispatch(id, spec, check)
    hands.ready(handle)
    assert len(hands.jobs()) == 1


@pytest.mark.parametrize(
    ("config", "options", "reason"),
    [
        ({"namespace": "nope"}, {}, "namespace_missing"),
        ({"region": "nope"}, {}, "region_missing"),
        ({}, {"node_pool": "nope"}, "node_pool_missing"),
        ({}, {"job": {"Priority": 1000}}, "job_refused"),
    ],
)
def test_what_the_cluster_refuses(
    emulator: NomadEmulator, tmp_path: Path, config: dict[str, str], options: dict[str, object], reason: str
) -> None:
    hands = Hands(emulator, tmp_path, **config)
    with pytest.raises(SubmitRefused) as refused:
        hands.start(options=options)
    assert refused.value.reason == reason
    hands.provider.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"grace": 31}, r"grace 31 s is above the 30 s"),
        ({"options": {"datacenters": ["nope", "no-*"]}}, r"options\.datacenters"),
        ({"options": {"node_pool": "nope"}}, r"options\.node_pool"),
        ({"image": "x"}, "image"),
    ],
)
def test_what_can_be_checked_is_checked_first(hands: Hands, fields: dict[str, object], words: str) -> None:
    """Nomad accepts these, and waits for ever or cuts the grace."""
    with pytest.raises(InvalidRequest, match=words):
        hands.provider.check(Spec(**{"command": ("a",), **fields}))
    hands.provider.check(Spec(command=("a",), grace=30))
    assert hands.jobs() == []


def test_the_cap_is_the_targets_then_the_agents(tmp_path: Path) -> None:
    with NomadEmulator(max_kill_timeout=12) as emulator:
        with pytest.raises(InvalidRequest, match="above the 12 s"):
            Hands(emulator, tmp_path).provider.check(Spec(command=("a",), grace=13))
        Hands(emulator, tmp_path, max_grace=20).provider.check(Spec(command=("a",), grace=20))
        with pytest.raises(InvalidRequest, match="`max_grace` of the target"):
            Hands(emulator, tmp_path, max_grace=20).provider.check(Spec(command=("a",), grace=21))


def test_a_job_that_cannot_be_placed_says_why(hands: Hands) -> None:
    handle = hands.start(options={"memory_mb": 100_000_000})
    seen = eventually(lambda: one if (one := hands.observe(handle)).reason else None)
    assert (seen.phase, seen.reason) == (Phase.PENDING, "unplaceable")
    assert "memory exhausted on 1 of 1 nodes" in seen.message
    constrained = hands.start(options={"constraints": [{"attribute": "${attr.kernel.name}", "value": "plan9"}]})
    seen = eventually(lambda: one if (one := hands.observe(constrained)).reason else None)
    assert "on 1 of 1 nodes" in seen.message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"command": ("/no/such/program",)}, "program_not_found"),
        ({"command": ("/no/such/program",), "options": {"driver": "docker"}}, "program_not_found"),
        ({"image": "missing/image:1", "options": {"driver": "docker"}}, "image_missing"),
        ({"options": {"config": {"no_such_option": "x"}}}, "job_refused"),
    ],
)
def test_a_start_that_fails_says_why(hands: Hands, fields: dict[str, object], reason: str) -> None:
    handle = hands.start(**fields)  # type: ignore[arg-type]
    seen = hands.end(handle)
    assert (seen.never_started, seen.reason, seen.exit_code) == (True, reason, None)
    assert seen.message


def test_after_a_garbage_collection_the_fence_is_gone_and_find_says_so(tmp_path: Path) -> None:
    with NomadEmulator(timing=Timing()) as emulator:
        hands = Hands(emulator, tmp_path)
        handle = hands.start("exit 0")
        hands.end(handle)
        emulator.collect_garbage()
        assert hands.observe(handle).phase is Phase.ABSENT
        assert hands.provider.find(handle.id) is None
        assert hands.provider.dispatch(handle.id, Spec(command=("/bin/true",)), never).data != handle.data
        # The handle of the first one does not mean the second one.
        assert hands.observe(handle).phase is Phase.ABSENT
        assert names.job_id(handle.id) in hands.jobs()
        hands.provider.close()
