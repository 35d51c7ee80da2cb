"""How a workload is stopped: one StopTask; the grace is the task definition's."""

from __future__ import annotations

from agora.model.cause import Cause
from agora.model.observation import Observation, ReceiptKind, StopReceipt

from agora_fargate import names, story
from agora_fargate.api import Refusal
from agora_fargate.config import FargateConfig
from agora_fargate.names import Item, Mark
from agora_fargate.tasks import Ref, Tasks


def stop(tasks: Tasks, config: FargateConfig, ref: Ref, grace: int, cause: Cause) -> StopReceipt:
    """Stop a task.

    Parameters:
        grace: seconds; ECS has none but that of the task definition.
    """
    if not ref.arn:
        return StopReceipt(kind=ReceiptKind.NOT_FOUND)
    task = tasks.describe([ref.arn]).get(ref.arn)
    if task is not None and (told := _told(task, config, grace)) is not None:
        return told
    # One that is not shown may be too new: ECS's own answer to the stop decides.
    try:
        answer = tasks.api.call("StopTask", cluster=tasks.cluster, task=ref.arn, reason=names.reason(ref.id, cause))
    except Refusal as error:
        if "not found" in error.words.lower():
            return StopReceipt(kind=ReceiptKind.NOT_FOUND)
        raise
    after: Item = answer.get("task") or {}
    if (seen := _ended_before(after)) is not None:
        return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)
    return _receipt(ReceiptKind.SIGNALLED, after or task or {}, config, grace)


def _told(task: Item, config: FargateConfig, grace: int) -> StopReceipt | None:
    """Answer for a task that has ended, or that somebody stops already."""
    if task.get("lastStatus") == story.STOPPED:
        return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=story.look(task))
    if story.is_stopping(task):
        return _receipt(ReceiptKind.ALREADY_STOPPING, task, config, grace)
    return None


def _ended_before(after: Item) -> Observation | None:
    """Return the end that a task shows in the answer to its stop, where it is not of this stop."""
    if after.get("lastStatus") != story.STOPPED or after.get("stopCode") == "UserInitiated":
        return None
    return story.look(after)


def _receipt(kind: ReceiptKind, task: Item, config: FargateConfig, grace: int) -> StopReceipt:
    mark = Mark.of(task)
    if mark is None:
        return StopReceipt(kind=kind)
    degraded = () if config.stop_timeout(grace) == mark.stop_timeout else ("grace",)
    return StopReceipt(kind=kind, effective_grace=mark.stop_timeout, degraded=degraded)
