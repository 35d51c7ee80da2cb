"""How a workload is stopped: its pods are deleted with the grace; without a pod its Job is suspended."""

from __future__ import annotations

import time

from agora.errors import PermissionDenied
from agora.model.observation import Observation, Phase, ReceiptKind, StopReceipt

from agora_k8s import names, story
from agora_k8s.cluster import Cluster, Item, Ref

#: A kubelet makes every grace at least this long, in seconds (minimumGracePeriodInSeconds).
MIN_GRACE = 2
#: How long a stop looks whether a pod comes all the same, of the ten seconds that it has.
_LOOK_SECONDS = 4.0
_PAUSE = 0.15


def stop(cluster: Cluster, ref: Ref, grace: int, summary: str, *, hold: bool) -> StopReceipt:
    """Stop a workload; never with grace 0, which removes the record and leaves the process.

    Parameters:
        grace: seconds.
        summary: who asks and why, for the cluster.
        hold: keep the record of its pod until its end is written on its Job.
    """
    grace = max(MIN_GRACE, grace)
    give_up = time.monotonic() + _LOOK_SECONDS
    suspended = False
    while True:
        job, pods = cluster.fetch(ref)
        note = story.stop_note(summary, grace, cluster.api.server_time)
        seen = story.look(job, pods)
        accepted = StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace)
        if seen.phase is Phase.ENDED:
            # What ended because of the suspension just now is no end of its own.
            return accepted if suspended else StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)
        live = [pod for pod in pods if story.ended(job, pod) is None]
        bound = [pod for pod in live if pod["spec"].get("nodeName") or job is None]
        if bound:
            receipts = [_stop_pod(cluster, job, pod, grace, note, hold=hold) for pod in bound]
            if told := [receipt for receipt in receipts if receipt is not None]:
                return _sum(told)
        elif job is None or seen.phase is Phase.ABSENT:
            return StopReceipt(kind=ReceiptKind.NOT_FOUND)
        elif not suspended:
            # The Job's controller removes a pod that has no node yet, and makes no other. What it has counted
            # goes at once; one that we deleted ourselves would wait for the next round of the pod collector.
            for pod in live:
                _mark(cluster, pod, note, hold=hold)
            cluster.suspend(job, {names.CAUSE: note})
            suspended = True
        if time.monotonic() > give_up:
            return accepted
        time.sleep(_PAUSE)


def _stop_pod(
    cluster: Cluster, job: Item | None, pod: Item, grace: int, note: str, *, hold: bool
) -> StopReceipt | None:
    """Stop one pod; null where it changed meanwhile and has to be looked at again."""
    metadata = pod["metadata"]
    if metadata.get("deletionTimestamp"):
        if names.annotation(pod, names.CAUSE) is None:
            _mark(cluster, pod, note, hold=False)
        return StopReceipt(
            kind=ReceiptKind.ALREADY_STOPPING, effective_grace=metadata.get("deletionGracePeriodSeconds") or grace
        )
    marked, degraded = _mark(cluster, pod, note, hold=hold)
    if marked is None:
        return None
    if marked["metadata"].get("deletionTimestamp") is None and (seen := story.ended(job, marked)) is not None:
        cluster.let_go(marked)
        return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)
    deleted = cluster.api.delete("pods", marked, once=True, gracePeriodSeconds=grace)
    if deleted is None:
        return None
    if (over := _ended_before(job, deleted)) is not None:
        if job is not None:
            cluster.record(job, over)
        return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=over)
    return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace, degraded=degraded)


def _mark(cluster: Cluster, pod: Item, note: str, *, hold: bool) -> tuple[Item | None, tuple[str, ...]]:
    """Write the cause on a pod; without the right to do so the stop goes on, and says what it left out."""
    try:
        return cluster.mark_pod(pod, note, hold=hold), ()
    except PermissionDenied:
        return pod, ("cause",)


def _ended_before(job: Item | None, deleted: Item) -> Observation | None:
    """Return the end that a pod already shows in the answer to its delete: it came before."""
    if (story.container(deleted).get("state") or {}).get("terminated") is None:
        return None
    seen = story.ended(job, deleted)
    return None if seen is None else seen.model_copy(update={"stop_reached": False, "forced": None, "evidence": None})


def _sum(receipts: list[StopReceipt]) -> StopReceipt:
    """Answer for several pods: what is still alive counts before what has ended."""
    order = [ReceiptKind.SIGNALLED, ReceiptKind.ALREADY_STOPPING, ReceiptKind.ALREADY_EXITED]
    return min(receipts, key=lambda receipt: order.index(receipt.kind))
