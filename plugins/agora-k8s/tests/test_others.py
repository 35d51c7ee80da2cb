"""Ends and waits that were not our doing, and what the record says of them through the client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.model.observation import EndedBy, Handle, Observation, Phase, ReceiptKind
from agora.model.record import Note, Record, State
from agora_conformance.emulators.k8s import K8sEmulator, Timing
from agora_k8s import names, story
from agora_k8s.cluster import Cluster
from k8s_harness import GRACEFUL, Hands, eventually

pytestmark = pytest.mark.backend("k8s")

Act = Callable[[Hands, dict[str, Any], dict[str, Any]], object]


@asynccontextmanager
async def client(emulator: K8sEmulator, home: Path, **config: Any) -> AsyncIterator[AgoraClient]:
    """A client whose only target is the emulator."""
    table = {
        "kubeconfig": str(emulator.kubeconfig(home / "kubeconfig")),
        "image": "busybox",
        "defaults": {"security": "image"},
        **config,
    }
    settings = Settings(default_target="c", targets={"c": TargetConfig("c", "k8s", table, "a test")}, supervisor=False)
    async with AgoraClient(home, settings=settings, supervisor=False) as made:
        yield made


def _delete_pod(hands: Hands, job: dict[str, Any], pod: dict[str, Any]) -> object:
    return hands.api.delete("pods", pod)


def _delete_job(hands: Hands, job: dict[str, Any], pod: dict[str, Any]) -> object:
    return hands.api.delete("jobs", job, propagationPolicy="Background")


def _evict(hands: Hands, job: dict[str, Any], pod: dict[str, Any]) -> object:
    name = pod["metadata"]["name"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    return hands.api.call("POST", hands.api.path("pods", name, "eviction"), body=body)


@pytest.mark.parametrize("act", [_delete_pod, _delete_job, _evict], ids=["pod", "job", "eviction"])
@pytest.mark.anyio
async def test_a_stop_that_was_not_ours_is_told_apart(
    act: Act, hands: Hands, emulator: K8sEmulator, tmp_path: Path
) -> None:
    async with client(emulator, tmp_path) as agora:
        handle = await agora.dispatch(command=("sh", "-c", GRACEFUL), grace=5)
        mine = Hands(emulator, tmp_path, (tmp_path / "installation").read_text().strip())
        found = mine.provider.find(handle.id)
        assert found is not None
        mine.ready(found)
        job = mine.job(found)
        assert job is not None

        async def end() -> Record:
            return await agora.wait(handle.id, timeout=50)

        act(mine, job, mine.pods(found)[0])
        record = await end()
        mine.clean()
    assert (record.state, record.reason, record.exit_code) == (State.FAILED, "stopped_externally", 42)
    words = [note.data["message"] for note in record.notes if note.type == "backend_said"]
    assert words
    assert record.confirmed is True


@pytest.mark.anyio
async def test_an_image_that_cannot_be_had_fails_with_the_clusters_words(
    hands: Hands, emulator: K8sEmulator, tmp_path: Path
) -> None:
    async with client(emulator, tmp_path, start_patience=1) as agora:
        handle = await agora.dispatch(command=("true",), image="missing/image:1")
        record = await agora.wait(handle.id, timeout=50)
    assert (record.state, record.reason, record.exit_code) == (State.FAILED, "image_missing", None)
    assert record.confirmed is True
    assert "missing/image:1" in str([note.data for note in record.notes])
    mine = Hands(emulator, tmp_path, (tmp_path / "installation").read_text().strip())
    mine.clean()


def test_a_pod_deleted_with_nobody_watching_leaves_nothing_to_conclude(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    hands.api.delete("pods", hands.pods(handle)[0])
    eventually(lambda: not hands.pods(handle))
    job = eventually(lambda: hands.job(handle))
    eventually(lambda: (hands.job(handle) or {})["status"].get("failed"))
    assert job is not None
    assert hands.observe(handle).phase is Phase.ABSENT
    assert hands.stop(handle).kind is ReceiptKind.NOT_FOUND


def test_a_second_copy_is_killed(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    job = hands.job(handle)
    assert job is not None
    over = story.record(Observation(phase=Phase.ENDED, exit_code=0))
    hands.api.patch("jobs", job["metadata"]["name"], {"metadata": {"annotations": {names.RESULT: over}}})
    seen = hands.observe(handle)
    assert (seen.phase, seen.reason) == (Phase.RUNNING, "second_copy")
    eventually(lambda: not hands.processes(handle))
    job = hands.job(handle)
    assert job is not None
    assert job["spec"]["suspend"] is True
    assert hands.end(handle).exit_code == 0, "the end that was written down first stands"


def test_an_end_that_is_written_down_during_a_look_is_no_second_copy(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = hands.start()
    hands.ready(handle)
    before = hands.pods(handle)
    hands.stop(handle)
    eventually(lambda: hands.observe(handle).phase is Phase.ENDED and not hands.pods(handle))
    listed, answers = Cluster.pods, [before]  # as they were before the end, and then as they are

    def stale(cluster: Cluster, installation: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        return answers.pop() if answers else listed(cluster, installation, ids)

    monkeypatch.setattr(Cluster, "pods", stale)
    seen = hands.observe(handle)
    assert answers == []
    assert (seen.phase, seen.exit_code) == (Phase.ENDED, 42)


def copy(hands: Hands, handle: Handle) -> str:
    """Make a second pod of a workload, as a cluster that has lost count might."""
    pod = hands.pods(handle)[0]
    metadata = {"name": f"zz-{handle.id}-copy", "labels": pod["metadata"]["labels"]}
    spec = {name: pod["spec"][name] for name in ("containers", "restartPolicy", "shareProcessNamespace")}
    hands.api.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return str(metadata["name"])


@pytest.mark.parametrize("over", [False, True], ids=["while it runs", "after its end"])
@pytest.mark.anyio
async def test_a_second_copy_is_killed_and_told_on_the_record(
    over: bool, hands: Hands, emulator: K8sEmulator, tmp_path: Path
) -> None:
    async with client(emulator, tmp_path) as agora:
        # Somebody waits for another one all the while, and so the cluster is watched.
        other = await agora.dispatch(command=("sh", "-c", GRACEFUL), grace=5)
        script = "exit 3" if over else GRACEFUL
        handle = await agora.dispatch(command=("sh", "-c", script), grace=5)
        mine = Hands(emulator, tmp_path, (tmp_path / "installation").read_text().strip())
        found = mine.provider.find(handle.id)
        assert found is not None
        async with anyio.create_task_group() as group:
            group.start_soon(agora.wait, other.id)
            if over:
                await agora.wait(handle.id, timeout=50)
            else:
                mine.ready(found)
                group.start_soon(agora.wait, handle.id)
                await agora.reconcile()
            before = await agora.get(handle.id, refresh=False)
            name = copy(mine, found)

            async def note() -> Note:
                while True:
                    record = await agora.get(handle.id, refresh=False)
                    if notes := [one for one in record.notes if one.type == "second_copy"]:
                        return notes[0]
                    await anyio.sleep(0.1)

            with anyio.fail_after(50):
                told = await note()
            assert told.data["pod"] == name
            await anyio.to_thread.run_sync(eventually, lambda: mine.api.get("pods", name) is None)
            record = await agora.get(handle.id, refresh=False)
            assert record.state is before.state
            assert [one.type for one in record.notes].count("second_copy") == 1
            assert bool(mine.processes(found)) is not over, "the first one is left alone"
            await agora.cancel(other.id)
            await agora.cancel(handle.id)
            record = await agora.wait(handle.id, timeout=50)
        wanted = (State.FAILED, 3) if over else (State.CANCELLED, 42)
        assert (record.state, record.exit_code) == wanted
        mine.clean()


def test_the_jobs_own_deadline_is_told(hands: Hands) -> None:
    handle = hands.start(options={})
    hands.ready(handle)
    job = hands.job(handle)
    assert job is not None
    hands.api.patch("jobs", job["metadata"]["name"], {"spec": {"activeDeadlineSeconds": 1}})
    seen = hands.end(handle)
    assert (seen.ended_by, seen.exit_code) == (EndedBy.DEADLINE, 42)


def test_memory_that_runs_out_is_told(hands: Hands) -> None:
    handle = hands.start("d=0123456789abcdef; while :; do d=$d$d; done", resources={"memory": 32 << 20})
    seen = hands.end(handle)
    assert (seen.oom, seen.exit_code) == (True, 137)


def test_a_program_that_is_not_there_never_started(hands: Hands) -> None:
    handle = hands.start(command=("/no/such/program",))
    seen = hands.end(handle)
    assert (seen.never_started, seen.reason) == (True, "program_not_found")


def test_root_is_refused_with_the_clusters_words(hands: Hands) -> None:
    handle = hands.start(options={"security": "restricted"})
    seen = eventually(lambda: (found := hands.observe(handle)).reason and found)
    assert seen.reason == "container_refused"
    assert "container has runAsNonRoot and image will run as root" in seen.message


@pytest.fixture
def lonely(tmp_path: Path) -> Any:
    """A cluster of this test's own, whose node may go away."""
    timing = Timing(job_batch=0.3, node_monitor=0.5, pod_collect=0.5, kubelet_start=0.3)
    with K8sEmulator(timing=timing) as cluster:
        yield Hands(cluster, tmp_path)


def test_a_node_that_is_away_is_no_end(lonely: Hands) -> None:
    handle = lonely.start()
    lonely.ready(handle)
    lonely.emulator.node_away()
    seen = eventually(lambda: not (found := lonely.observe(handle)).reachable and found)
    assert (seen.phase, seen.reason) == (Phase.RUNNING, "node_away")
    assert lonely.stop(handle, grace=2).kind is ReceiptKind.SIGNALLED
    assert lonely.processes(handle), "nobody carries the stop out yet"
    assert lonely.observe(handle).phase is Phase.RUNNING
    lonely.emulator.node_back()
    assert lonely.end(handle).exit_code == 42
    assert lonely.processes(handle) == []


def test_a_node_object_that_is_deleted_is_no_end(lonely: Hands) -> None:
    handle = lonely.start()
    lonely.ready(handle)
    lonely.emulator.node_away()
    lonely.emulator.delete_node()
    eventually(lambda: not lonely.pods(handle))
    eventually(lambda: (lonely.job(handle) or {})["status"].get("failed"))
    assert lonely.processes(handle), "the process runs on"
    assert lonely.observe(handle).phase is Phase.ABSENT, "and nothing says that it does not"
    owned = lonely.provider.list_owned(lonely.installation)
    assert [one.ended for one in owned] == [False]
