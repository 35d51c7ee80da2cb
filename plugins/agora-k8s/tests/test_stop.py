"""How workloads end when we stop them, looked at from the node and in the cluster's records."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agora.errors import ProviderError, Unreachable
from agora.model.observation import Handle, Observation, Phase, ReceiptKind
from agora_k8s import names
from agora_k8s.api import STRATEGIC_PATCH
from agora_k8s.cluster import Cluster
from k8s_harness import STUBBORN, Hands, eventually, lingering

pytestmark = pytest.mark.backend("k8s")

KUBECTL = shutil.which("kubectl")


def notes(hands: Hands, handle: Handle) -> dict[str, str]:
    job = hands.job(handle)
    assert job is not None
    found: dict[str, str] = job["metadata"].get("annotations") or {}
    return found


def test_a_graceful_stop_keeps_the_exit_code_and_the_words(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    receipt = hands.stop(handle, grace=3, reason="not needed")
    assert (receipt.kind, receipt.effective_grace, receipt.degraded) == (ReceiptKind.SIGNALLED, 3, ())
    [pod] = hands.pods(handle)
    note = json.loads(pod["metadata"]["annotations"][names.CAUSE])
    assert note["by"] == "tester via api: not needed"
    assert (note["grace"], pod["metadata"]["deletionGracePeriodSeconds"]) == (3, 3)
    seen = hands.end(handle)
    assert hands.processes(handle) == []
    assert (seen.exit_code, seen.ended_by, seen.forced) == (42, None, False)


def test_a_stubborn_workload_is_killed_after_its_grace(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=30)
    hands.ready(handle)
    began = time.monotonic()
    hands.stop(handle, grace=2)
    seen = hands.end(handle)
    assert 1.5 < time.monotonic() - began < 20
    assert (seen.exit_code, seen.forced, seen.evidence) == (137, True, "inferred")
    assert hands.processes(handle) == []


def test_the_grace_is_never_shorter_than_the_kubelets(hands: Hands) -> None:
    handle = hands.start(STUBBORN)
    hands.ready(handle)
    assert hands.stop(handle, grace=0).effective_grace == 2
    [pod] = hands.pods(handle)
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 2


def test_many_stops_send_one_signal(hands: Hands, tmp_path: Path) -> None:
    go = tmp_path / "go"
    handle = hands.start(f"trap 'n=1' TERM; echo ready; until [ -n \"$n\" -a -e {go} ]; do sleep 0.05; done; exit 7")
    hands.ready(handle)
    receipts = []
    threads = [threading.Thread(target=lambda: receipts.append(hands.stop(handle, grace=40))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    go.touch()
    kinds = {receipt.kind for receipt in receipts}
    assert kinds <= {ReceiptKind.SIGNALLED, ReceiptKind.ALREADY_STOPPING}
    assert len(receipts) == 8
    assert hands.end(handle).exit_code == 7
    assert len(hands.emulator.terms(f"{names.DISPATCH}={handle.id}")) <= 1
    assert hands.stop(handle).kind is ReceiptKind.ALREADY_EXITED


def test_a_later_shorter_grace_changes_nothing_and_says_so(hands: Hands, tmp_path: Path) -> None:
    handle = hands.start(lingering(tmp_path / "go"), grace=10)
    hands.ready(handle)
    hands.stop(handle, grace=40)
    receipt = hands.stop(handle, grace=2)
    assert (receipt.kind, receipt.effective_grace) == (ReceiptKind.ALREADY_STOPPING, 40)
    (tmp_path / "go").touch()
    assert hands.end(handle).exit_code == 42


def test_a_finished_workload_is_left_as_it_is(hands: Hands) -> None:
    handle = hands.start("exit 3")
    hands.end(handle)
    before = hands.emulator.faults.requests()
    receipt = hands.stop(handle)
    assert receipt.kind is ReceiptKind.ALREADY_EXITED
    assert receipt.observation is not None
    assert (receipt.observation.exit_code, receipt.observation.stop_reached) == (3, False)
    after = hands.emulator.faults.requests()[len(before) :]
    assert {call.verb for call in after} <= {"get", "list"}
    assert len(hands.pods(handle)) == 1
    assert hands.stop(handle).kind is ReceiptKind.ALREADY_EXITED


def test_a_stop_whose_answer_is_lost_is_still_the_cause_of_the_end(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    hands.emulator.faults.cut(1, after=True, verb="delete", resource="pods")
    with pytest.raises(Unreachable) as caught:
        hands.stop(handle)
    assert caught.value.sent is True
    eventually(lambda: not hands.processes(handle))
    seen = hands.end(handle)
    assert (seen.exit_code, seen.stop_reached, seen.ended_by) == (42, None, None)


def test_an_end_between_the_mark_and_the_delete_is_its_own(
    hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    handle = hands.start(f"echo ready; until [ -e {go} ]; do sleep 0.05; done; exit 7")
    hands.ready(handle)
    delete = hands.api.delete

    def late(kind: str, item: dict[str, Any], **options: Any) -> Any:
        go.touch()
        eventually(lambda: "terminated" in hands.pods(handle)[0]["status"]["containerStatuses"][0]["state"])
        return delete(kind, item, **options)

    monkeypatch.setattr(hands.api, "delete", late)
    receipt = hands.stop(handle)
    assert receipt.kind is ReceiptKind.ALREADY_EXITED
    assert receipt.observation is not None
    assert (receipt.observation.exit_code, receipt.observation.stop_reached) == (7, False)
    monkeypatch.undo()
    hands.observe(handle)
    eventually(lambda: not hands.pods(handle))
    assert (hands.observe(handle).exit_code, hands.observe(handle).stop_reached) == (7, False)


def test_an_end_is_written_down_once(hands: Hands) -> None:
    handle = hands.start("exit 0")
    job, cluster = hands.job(handle), Cluster(hands.api)
    assert job is not None
    first, second = (Observation(phase=Phase.ENDED, exit_code=code) for code in (1, 2))
    assert cluster.record(job, first)
    assert cluster.record(job, second), "something stands there"
    assert json.loads(notes(hands, handle)[names.RESULT])["exit_code"] == 1


def test_an_unschedulable_pod_is_stopped_before_it_starts(hands: Hands) -> None:
    handle = hands.start(options={"node_selector": {"disk": "none"}})
    eventually(lambda: hands.observe(handle).reason == "unschedulable")
    assert "node affinity/selector" in (hands.observe(handle).message or "")
    assert hands.stop(handle).kind is ReceiptKind.SIGNALLED
    seen = hands.end(handle)
    assert (seen.never_started, seen.exit_code) == (True, None)
    eventually(lambda: not hands.pods(handle))
    assert hands.observe(handle).never_started
    assert hands.job(handle) is not None


def test_a_job_without_a_pod_is_suspended_and_never_starts(hands: Hands) -> None:
    # Nothing makes pods while its Job is suspended; so a Job is left in the state just after its creation.
    handle = hands.start(options={"node_selector": {"disk": "none"}})
    eventually(lambda: hands.pods(handle))
    job = hands.job(handle)
    assert job is not None
    hands.api.patch("jobs", job["metadata"]["name"], {"spec": {"suspend": True}})
    eventually(lambda: not hands.pods(handle))
    assert hands.observe(handle).reason == "suspended", "somebody else's suspension is no end"
    receipt = hands.stop(handle)
    assert receipt.kind is ReceiptKind.SIGNALLED
    assert hands.end(handle).never_started
    job = hands.job(handle)
    assert job is not None
    assert job["spec"]["suspend"] is True
    assert names.CAUSE in job["metadata"]["annotations"]


def test_the_exit_code_survives_where_nobody_looked(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    hands.stop(handle)
    eventually(lambda: not hands.processes(handle))
    eventually(lambda: hands.pods(handle)[0]["status"]["phase"] == "Failed")
    [pod] = hands.pods(handle)
    assert names.FINALIZER in pod["metadata"]["finalizers"], "the record is held"
    assert hands.observe(handle).exit_code == 42
    eventually(lambda: not hands.pods(handle))
    assert hands.observe(handle).exit_code == 42
    recorded = Observation.model_validate_json(notes(hands, handle)[names.RESULT])
    assert (recorded.phase, recorded.exit_code) == (Phase.ENDED, 42)


def test_without_the_finalizer_an_end_that_nobody_saw_is_not_known(hands: Hands, tmp_path: Path) -> None:
    bare = Hands(hands.emulator, hands.provider._tails._directory.parents[2], hands.installation, finalizer=False)
    handle = bare.start(lingering(tmp_path / "go"))
    bare.ready(handle)
    bare.stop(handle)
    assert names.FINALIZER not in bare.pods(handle)[0]["metadata"]["finalizers"]
    (tmp_path / "go").touch()
    eventually(lambda: not bare.pods(handle))
    assert bare.observe(handle).phase is Phase.ABSENT
    bare.provider.close()


def test_only_pods_that_we_stop_are_held(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    [pod] = hands.pods(handle)
    assert names.FINALIZER not in pod["metadata"]["finalizers"]


def _by_api(hands: Hands, pod: str, patch: str, folder: Path) -> None:
    # What `kubectl patch` sends without --type.
    hands.api.patch("pods", pod, json.loads(patch), STRATEGIC_PATCH)


def _by_kubectl(hands: Hands, pod: str, patch: str, folder: Path) -> None:
    if KUBECTL is None:
        pytest.skip("not tested: kubectl is not installed")
    way = ["--kubeconfig", str(hands.emulator.kubeconfig(folder / "admin")), "--cache-dir", str(folder / "cache")]
    command = [KUBECTL, *way, "patch", "pod", pod, "-n", "default", "-p", patch]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("send", [_by_api, _by_kubectl], ids=["api", "kubectl"])
def test_the_documented_patch_lets_a_held_pod_go(
    send: Callable[[Hands, str, str, Path], None], hands: Hands, tmp_path: Path
) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    found = re.search(r"kubectl patch pod POD -n NAMESPACE -p '(.*)'", page)
    assert found is not None
    handle = hands.start()
    hands.ready(handle)
    hands.stop(handle)
    eventually(lambda: hands.pods(handle)[0]["status"]["phase"] == "Failed")
    [pod] = hands.pods(handle)
    assert names.FINALIZER in pod["metadata"]["finalizers"]
    send(hands, pod["metadata"]["name"], found[1], tmp_path)
    eventually(lambda: not hands.pods(handle))
    eventually(lambda: (hands.job(handle) or {})["status"].get("failed") == 1)


def test_what_lives_is_not_released(hands: Hands) -> None:
    handle = hands.start(STUBBORN)
    hands.ready(handle)
    with pytest.raises(ProviderError, match="has not ended"):
        hands.provider.release(handle)
    hands.stop(handle, grace=6)
    with pytest.raises(ProviderError, match="has not ended"):
        hands.provider.release(handle)
    assert hands.processes(handle)
    assert hands.job(handle) is not None
    assert hands.end(handle).exit_code == 137
    hands.provider.release(handle)
    eventually(lambda: hands.job(handle) is None)


def test_a_held_pod_is_the_record_where_the_job_is_gone(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    hands.stop(handle)
    job = hands.job(handle)
    assert job is not None
    hands.api.delete("jobs", job, propagationPolicy="Background")
    assert hands.end(handle).exit_code == 42
    assert [one.ended for one in hands.provider.list_owned(hands.installation)] == [True]
    hands.provider.release(handle)
    eventually(lambda: not hands.pods(handle))
    assert list(hands.provider.list_owned(hands.installation)) == []


def test_a_namesake_of_what_is_meant_is_never_touched(hands: Hands) -> None:
    handle = hands.start(STUBBORN)
    hands.ready(handle)
    earlier_job, [earlier_pod] = hands.job(handle), hands.pods(handle)
    assert earlier_job is not None
    cluster = Cluster(hands.api)
    for item in (earlier_job, earlier_pod):  # as they were, under names that others have by now
        item["metadata"] = {**item["metadata"], "uid": "an-earlier-one"}
    assert hands.api.delete("pods", earlier_pod, gracePeriodSeconds=2) is None
    assert hands.api.delete("jobs", earlier_job, propagationPolicy="Background") is None
    assert cluster.mark_pod(earlier_pod, "a note", hold=True) is None
    cluster.suspend(earlier_job, {names.CAUSE: "a note"})
    assert cluster.record(earlier_job, Observation(phase=Phase.ENDED, exit_code=0)) is False
    job, [pod] = hands.job(handle), hands.pods(handle)
    assert job is not None
    assert (job["spec"].get("suspend", False), names.CAUSE in job["metadata"].get("annotations", {})) == (False, False)
    assert names.RESULT not in job["metadata"].get("annotations", {})
    assert "deletionTimestamp" not in pod["metadata"]
    assert names.FINALIZER not in pod["metadata"]["finalizers"]
    assert names.CAUSE not in pod["metadata"].get("annotations", {})
