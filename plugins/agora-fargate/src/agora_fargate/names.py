"""The marks that this provider puts on tasks, and the names that it makes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agora.model.cause import Cause

Item = dict[str, Any]

#: What families and log streams begin with.
PREFIX = "agora"
#: The container of the workload.
CONTAINER = "main"
#: Variables of the container's override; they stay in the description of a stopped task, where its tags do not.
DISPATCH = "AGORA_DISPATCH_ID"
INSTALLATION = "AGORA_DISPATCH_INSTALLATION"
#: `DIGEST/STOP_TIMEOUT`.
MARK = "AGORA_DISPATCH_MARK"
#: ECS cuts or refuses a longer reason of StopTask.
REASON_CHARACTERS = 255


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def client_token(dispatch_id: str, installation: str) -> str:
    """Return the idempotency key of RunTask for a dispatch of an installation.

    At most 64 characters of 33-126 (botocore's ECS model): an id has 32 at most.
    """
    return f"{dispatch_id}.{_hash(installation, 31)}"


def agent(installation: str) -> str:
    """Return what the clients of an installation call themselves."""
    return f"{PREFIX}/{_hash(installation, 12)}"


def family(content: str) -> str:
    """Return the family of a task definition, made of what it says: equal definitions are one."""
    return f"{PREFIX}-{_hash(content, 32)}"


def own_family(dispatch_id: str, installation: str) -> str:
    """Return the family of a task definition that only one dispatch uses."""
    return f"{PREFIX}-own-{_hash(installation, 12)}-{dispatch_id}"


def is_own_family(name: str) -> bool:
    """Whether a family was named by `own_family`."""
    return re.fullmatch(rf"{PREFIX}-own-[0-9a-f]{{12}}-[0-9a-z-]{{1,32}}", name) is not None


def is_family(name: str) -> bool:
    """Whether a family was named by `family` or `own_family`."""
    return re.fullmatch(rf"{PREFIX}-[0-9a-f]{{32}}", name) is not None or is_own_family(name)


def secret(dispatch_id: str, installation: str) -> str:
    """Return the name of the secret with the inline secrets of a dispatch."""
    return f"{PREFIX}/{installation}/{dispatch_id}"


def secret_token(dispatch_id: str, installation: str) -> str:
    """Return the idempotency key of CreateSecret: 32 to 64 characters (botocore's model of Secrets Manager)."""
    return _hash(f"{installation}/{dispatch_id}", 64)


def family_of(definition_arn: str) -> str:
    """Return the family in the ARN of a task definition."""
    return definition_arn.rpartition("/")[2].partition(":")[0]


def log_stream(task_arn: str) -> str:
    """Return the log stream of a task: `awslogs` names it prefix/container/task-id."""
    return f"{PREFIX}/{CONTAINER}/{task_arn.rpartition('/')[2]}"


@dataclass(frozen=True)
class Mark:
    """Whose task it is.

    Parameters:
        id: its dispatch.
        installation: the store that dispatched it.
        digest: hash of its spec.
        stop_timeout: seconds between SIGTERM and SIGKILL.
    """

    id: str
    installation: str
    digest: str
    stop_timeout: int

    def variables(self) -> dict[str, str]:
        """Return the variables that carry it."""
        mark = f"{self.digest}/{self.stop_timeout}"
        return {DISPATCH: self.id, INSTALLATION: self.installation, MARK: mark}

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Mark | None:
        """Read it from a described task; null for one that no provider of this kind has started."""
        overrides = (task.get("overrides") or {}).get("containerOverrides") or []
        override: Mapping[str, Any] = next((one for one in overrides if one.get("name") == CONTAINER), {})
        variables = {one["name"]: one.get("value", "") for one in override.get("environment") or []}
        digest, _, seconds = variables.get(MARK, "").partition("/")
        id = variables.get(DISPATCH)
        if not (id and digest and seconds.isdigit() and INSTALLATION in variables) or task.get("startedBy") != id:
            return None
        return cls(id, variables[INSTALLATION], digest, int(seconds))


def reason(dispatch_id: str, cause: Cause) -> str:
    """Write who asked for a stop and why, for ECS: it begins with what tells it from anybody else's."""
    text = f"{_ours(dispatch_id)} {cause.summary(REASON_CHARACTERS)}"
    return text.encode()[:REASON_CHARACTERS].decode(errors="ignore").rstrip()


def is_our_reason(dispatch_id: str, text: str | None) -> bool:
    """Whether a reason of a stop was written by `reason`."""
    return (text or "").startswith(_ours(dispatch_id))


def _ours(dispatch_id: str) -> str:
    return f"agora {dispatch_id}:"
