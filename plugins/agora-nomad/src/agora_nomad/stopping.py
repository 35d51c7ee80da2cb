"""How a workload is stopped: its job is deregistered and stays on record; a kill is a signal to its allocation."""

from __future__ import annotations

import logging

from agora.errors import PermissionDenied, ProviderError, Unreachable
from agora.model.cause import Cause
from agora.model.observation import Phase, ReceiptKind, StopReceipt

from agora_nomad import names, story
from agora_nomad.api import Refusal
from agora_nomad.cluster import Cluster, Item, Ref, Seen
from agora_nomad.grace import Cap

logger = logging.getLogger(__name__)

#: Seconds for the cause: a stop has ten, and its calls may need them.
REMARK_SECONDS = 1.0
_WORDS = 500


def stop(cluster: Cluster, cap: Cap, ref: Ref, grace: int, cause: Cause) -> StopReceipt:
    """Deregister the job, without a purge, and leave the cause beside it.

    The grace was set when the task was started: another one is told in `effective_grace`, and a longer one as
    `degraded`.
    """
    seen = _looked(cluster, ref)
    if (receipt := _over(seen)) is not None:
        return receipt
    already = seen.job is None or bool(seen.job.get("Stop"))
    if not already and not cluster.api.deregister(ref.job):
        # 200 without an evaluation: the cluster did not know it. Look again, and say what is there.
        seen = cluster.look(ref)
        if (receipt := _over(seen)) is None:
            raise Unreachable(f"the cluster shows the job of {ref.id} and does not know it")
        return receipt
    if not already:
        _remark(cluster, ref, cause)
    effective = _effective(cap, seen)
    degraded = ("grace",) if effective is not None and effective < grace else ()
    kind = ReceiptKind.ALREADY_STOPPING if already else ReceiptKind.SIGNALLED
    return StopReceipt(kind=kind, effective_grace=effective, degraded=degraded)


def _remark(cluster: Cluster, ref: Ref, cause: Cause) -> None:
    """Say beside the job who stopped it and why; the stop is on its way, and holds without it."""
    said = {"actor": cause.actor, "via": cause.via.value, "reason": cause.reason, "policy": cause.policy}
    about = {f"agora.{name}": value[:_WORDS] for name, value in said.items() if value}
    about["agora.request_id"] = cause.request_id
    try:
        cluster.api.remark(ref.job, names.TASK, cause.summary(_WORDS), about, REMARK_SECONDS)
    except ProviderError as error:
        logger.info("the cause of the stop of %s stands in the store alone: %s", ref.id, error)


def kill(cluster: Cluster, cap: Cap, ref: Ref) -> StopReceipt:
    """Deregister the job and send SIGKILL to what runs of it.

    Raises:
        NodeAway: its client cannot be reached.
    """
    seen = _looked(cluster, ref)
    if (receipt := _over(seen)) is not None:
        return receipt
    # First this, so that nothing is started in place of what is killed.
    if seen.job is not None and not seen.job.get("Stop"):
        cluster.api.deregister(ref.job)
        seen = cluster.look(ref)  # it may have been placed meanwhile
    try:
        for allocation in seen.allocations:
            if story.ended(seen.job, allocation) is None:
                _shoot(cluster, allocation)
    except PermissionDenied:
        # The job is stopped all the same, with its grace.
        effective = _effective(cap, seen)
        return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=effective, degraded=("force",))
    return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=0)


def _looked(cluster: Cluster, ref: Ref) -> Seen:
    """Look before anything is sent; where that fails, no stop has reached the cluster."""
    try:
        return cluster.look(ref)
    except ProviderError as error:
        error.sent = False
        raise


def _shoot(cluster: Cluster, allocation: Item) -> None:
    try:
        cluster.api.signal(allocation["ID"], names.TASK, "SIGKILL")
    except Refusal as error:
        # It ended just now, or has not started; then it never will, since its job is stopped.
        if "not running" not in str(error) and "not found" not in str(error) and error.status != 404:
            raise


def _over(seen: Seen) -> StopReceipt | None:
    """Answer for what has ended, or is not there."""
    if seen.observation.phase is Phase.ENDED:
        return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen.observation)
    if seen.observation.phase is Phase.ABSENT:
        return StopReceipt(kind=ReceiptKind.NOT_FOUND)
    return None


def _effective(cap: Cap, seen: Seen) -> float | None:
    """Return the grace in force: as the client has announced it, else as asked for at the start, up to the known cap.

    A client tells what it announces within a second or so; a cap that shows only then is told by the next look.
    """
    allocation = story.current(seen.allocations)
    if allocation is None:
        return None
    if (said := story.announced_grace(seen.job, allocation)) is not None:
        return said
    asked = story.kill_timeout(seen.job)
    return None if asked is None else min(asked, cap.known()[0])
