"""What ECS says about one task: pure functions from its description to an observation.

Proof of death is `lastStatus` STOPPED and nothing else; one without an exit code that never started has never run.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from agora.model.observation import EndedBy, Observation, Phase

from agora_fargate import names
from agora_fargate.names import Item, Mark

STOPPED = "STOPPED"
_KILLED = 137
#: Times of one task are of one clock, but rounded; seconds.
_SLACK = 1.0
_WORDS = 1000
#: Who ended a task that nobody of ours stopped (`stopCode`, botocore's ECS model).
_EXTERNAL = frozenset({"ServiceSchedulerInitiated", "SpotInterruption", "TerminationNotice", "InfrastructureHealth"})
_OOM = re.compile(r"\bOutOfMemory|\bOOM", re.IGNORECASE)
#: Words of ECS about a task that never started, and what they are called here; the first that fits counts.
_NEVER = (
    (
        re.compile(r"executable file not found|no such file or directory|exec format error", re.IGNORECASE),
        "program_not_found",
    ),
    (
        re.compile(r"CannotPull(Container|ImageManifest)|manifest unknown|image .*not found", re.IGNORECASE),
        "image_missing",
    ),
    (re.compile(r"capacity is unavailable|no capacity|RESOURCE:|insufficient capacity", re.IGNORECASE), "no_capacity"),
    (re.compile(r"ResourceInitializationError", re.IGNORECASE), "resource_initialization"),
    (
        re.compile(r"CannotStartContainer|CannotCreateContainer|ContainerRuntime|DockerTimeout", re.IGNORECASE),
        "start_failed",
    ),
)


def look(task: Item) -> Observation:
    """Say how a task is."""
    if task.get("lastStatus") == STOPPED:
        return _ended(task)
    container = _container(task)
    started = _moment(task, "startedAt")
    mark = Mark.of(task)
    stopping = task.get("desiredStatus") == STOPPED
    away = task.get("connectivity") == "DISCONNECTED"
    return Observation(
        phase=Phase.PENDING if started is None and task.get("lastStatus") != "RUNNING" else Phase.RUNNING,
        reachable=not away,
        reason="agent_away" if away else None,
        message=_cut(container.get("reason")),
        started_at=started,
        effective_grace=mark.stop_timeout if mark is not None and stopping else None,
        native=_native(task),
    )


def is_stopping(task: Item) -> bool:
    """Whether a task that is not stopped yet will be."""
    return task.get("desiredStatus") == STOPPED


def family(task: Item) -> str:
    """Return the family of a task's definition."""
    return names.family_of(task.get("taskDefinitionArn") or "")


def never_started_reason(words: str) -> str:
    """Return the machine word for what ECS says of a task that did not start."""
    return next((reason for pattern, reason in _NEVER if pattern.search(words)), "start_failed")


def _ended(task: Item) -> Observation:
    container = _container(task)
    code, started = container.get("exitCode"), _moment(task, "startedAt")
    stop_code, stopped_reason = task.get("stopCode"), task.get("stoppedReason")
    words = "; ".join(dict.fromkeys(text for text in (stopped_reason, container.get("reason")) if text))
    told: dict[str, Any] = {
        "phase": Phase.ENDED,
        "ended_at": _moment(task, "executionStoppedAt") or _moment(task, "stoppedAt"),
        "native": _native(task),
    }
    ours = _is_ours(task)
    if started is None and (code is None or stop_code == "TaskFailedToStart"):
        word = "never_started" if stop_code == "UserInitiated" else never_started_reason(words)
        return Observation(
            never_started=True,
            reason=word,
            message=_cut(words),
            ended_by=None if ours or stop_code != "UserInitiated" else EndedBy.EXTERNAL,
            **told,
        )
    oom = bool(_OOM.search(words)) or None
    forced = _forced(task, code, oom=bool(oom)) if stop_code == "UserInitiated" else None
    external = stop_code in _EXTERNAL or (stop_code == "UserInitiated" and not ours)
    by_itself = stop_code == "EssentialContainerExited"
    return Observation(
        exit_code=code,
        oom=oom,
        reason="oom_killed" if oom else None,
        message=_cut(words) if external or oom or code is None else _cut(container.get("reason")),
        started_at=started,
        # Whose StopTask came first decides: a container that had exited before is told as such.
        stop_reached=False if by_itself else None,
        forced=forced,
        evidence=None if forced is None else "inferred",
        ended_by=EndedBy.EXTERNAL if external else None,
        **told,
    )


def _is_ours(task: Item) -> bool:
    return names.is_our_reason(task.get("startedBy") or "", task.get("stoppedReason"))


def _forced(task: Item, code: int | None, *, oom: bool) -> bool | None:
    """Infer whether it had to be killed, from the exit code and from ECS's own times."""
    if code is None:
        return None
    if code != _KILLED or oom:
        return False
    asked, over, mark = _moment(task, "stoppingAt"), _moment(task, "executionStoppedAt"), Mark.of(task)
    if asked is None or over is None or mark is None:
        return None
    return (over - asked).total_seconds() >= mark.stop_timeout - _SLACK


def _container(task: Item) -> Item:
    containers: list[Item] = task.get("containers") or []
    return next((one for one in containers if one.get("name") == names.CONTAINER), {})


def _moment(task: Item, name: str) -> datetime | None:
    at: datetime | None = task.get(name)
    return at


def _native(task: Item) -> dict[str, Any]:
    told = {
        "task": task.get("taskArn"),
        "task_definition": family(task),
        "status": task.get("lastStatus"),
        "stop_code": task.get("stopCode"),
        "platform": task.get("platformVersion"),
        "capacity_provider": task.get("capacityProviderName"),
    }
    return {name: value for name, value in told.items() if value}


def _cut(text: str | None) -> str | None:
    return text if not text or len(text) <= _WORDS else text[: _WORDS - 1] + "…"
