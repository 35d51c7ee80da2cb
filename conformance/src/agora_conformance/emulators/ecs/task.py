"""A task as ECS knows it."""

from __future__ import annotations

import asyncio
import time
import uuid
from copy import deepcopy
from dataclasses import dataclass, field

from agora_conformance.emulators.ecs.cloudwatch import Stream
from agora_conformance.emulators.ecs.errors import Object
from agora_conformance.emulators.runner import Container

#: Seconds of SIGTERM before SIGKILL where a container names none (botocore: `stopTimeout` on Fargate).
DEFAULT_STOP_TIMEOUT = 30


@dataclass
class TaskContainer:
    """One container of a task.

    Parameters:
        definition: of the task definition.
        override: of RunTask.
        arn: of it.
        status: `lastStatus`.
        exit_code: None as long as it has none, for ever where it never ran.
        reason: what ECS says about it.
        process: what runs.
        stream: where its output goes.
        pump: carries it there.
    """

    definition: Object
    override: Object
    arn: str
    status: str = "PENDING"
    exit_code: int | None = None
    reason: str | None = None
    process: Container | None = None
    stream: Stream | None = None
    pump: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Return its name."""
        return str(self.definition["name"])

    @property
    def stop_timeout(self) -> float:
        """Return its seconds between SIGTERM and SIGKILL."""
        return float(self.definition.get("stopTimeout", DEFAULT_STOP_TIMEOUT))

    def memory(self) -> int | None:
        """Return its own hard limit in MiB."""
        limit = self.override.get("memory", self.definition.get("memory"))
        return None if limit is None else int(limit)


@dataclass
class Task:
    """One task.

    Parameters:
        arn, cluster_arn: of it and of its cluster.
        definition: its task definition.
        request: what RunTask asked for.
        cpu, memory: units and MiB, as text.
        platform: version of the platform.
        provider: capacity provider; empty where a launch type was asked for.
        containers: in the order of the definition.
        tags: by key; they go when it is stopped.
        status, desired: `lastStatus` and `desiredStatus`.
        version: counts what an event tells.
        stop_code, stopped_reason: why it ends.
        times: members such as `createdAt`, in seconds since the epoch.
        phantom: it has no processes.
    """

    arn: str
    cluster_arn: str
    definition: Object
    request: Object
    cpu: str
    memory: str
    platform: str
    provider: str
    containers: list[TaskContainer]
    tags: dict[str, str] = field(default_factory=dict)
    status: str = "PROVISIONING"
    desired: str = "RUNNING"
    version: int = 1
    stop_code: str = ""
    stopped_reason: str = ""
    times: dict[str, float] = field(default_factory=dict)
    phantom: bool = False
    over_at: float | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    history: list[tuple[float, Object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = self.arn.rpartition("/")[2]
        self.interface = str(uuid.uuid4())

    @property
    def started_by(self) -> str:
        """Return who says to have started it."""
        return str(self.request.get("startedBy", ""))

    @property
    def group(self) -> str:
        """Return its group."""
        return str(self.request.get("group") or f"family:{self.definition['family']}")

    def is_called(self, selector: str) -> bool:
        """Whether a selector is its ARN, its id, its startedBy, or nothing."""
        return selector in ("", self.arn, self.id, self.started_by)

    def note(self) -> Object:
        """Remember how the task looks now, and return it."""
        look = self.look()
        self.history.append((time.monotonic(), look))
        return look

    def as_of(self, lag: float) -> Object | None:
        """Return how the task looked `lag` seconds ago; None where it was not there."""
        limit = time.monotonic() - lag
        seen = [look for at, look in self.history if at <= limit]
        return dict(seen[-1]) if seen else None

    def look(self) -> Object:
        """Return the task as the API tells it, without its tags."""
        subnets = self._network().get("subnets") or ["subnet-0"]
        attached = {"PROVISIONING": "PRECREATED", "DEPROVISIONING": "DETACHING", "STOPPED": "DELETED"}
        overrides = deepcopy(self.request.get("overrides") or {})
        told = {one["name"]: one for one in overrides.get("containerOverrides") or []}
        overrides["containerOverrides"] = [told.get(one.name, {"name": one.name}) for one in self.containers]
        overrides.setdefault("inferenceAcceleratorOverrides", [])
        look: Object = {
            "taskArn": self.arn,
            "clusterArn": self.cluster_arn,
            "taskDefinitionArn": self.definition["taskDefinitionArn"],
            "attachments": [{
                "id": self.interface,
                "type": "ElasticNetworkInterface",
                "status": attached.get(self.status, "ATTACHED"),
                "details": [{"name": "subnetId", "value": subnets[0]}],
            }],
            "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
            "containers": [self._container(one) for one in self.containers],
            "cpu": self.cpu,
            "memory": self.memory,
            "desiredStatus": self.desired,
            "lastStatus": self.status,
            "enableExecuteCommand": bool(self.request.get("enableExecuteCommand", False)),
            "group": self.group,
            "healthStatus": "UNKNOWN",
            "inferenceAccelerators": [],
            "launchType": "FARGATE",
            "overrides": overrides,
            "platformVersion": self.platform,
            "platformFamily": "Linux",
            "version": self.version,
            "ephemeralStorage": self.definition.get("ephemeralStorage", {"sizeInGiB": 20}),
            **self.times,
        }  # fmt: skip
        if "connectivityAt" in self.times:
            look["connectivity"] = "CONNECTED"
        for name, value in (
            ("startedBy", self.started_by), ("stopCode", self.stop_code),
            ("stoppedReason", self.stopped_reason), ("capacityProviderName", self.provider),
        ):  # fmt: skip
            if value:
                look[name] = value
        return look

    def _network(self) -> Object:
        found: Object = (self.request.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
        return found

    def _container(self, one: TaskContainer) -> Object:
        limit = one.memory()
        look: Object = {
            "containerArn": one.arn,
            "taskArn": self.arn,
            "name": one.name,
            "image": one.definition["image"],
            "lastStatus": one.status,
            "networkInterfaces": [],
            "healthStatus": "UNKNOWN",
            "cpu": str(one.override.get("cpu", one.definition.get("cpu", 0))),
        }
        if one.process is not None:
            look["runtimeId"] = f"{self.id}-{one.arn.rpartition('-')[2]}"
        if limit is not None:
            look["memory"] = str(limit)
        if one.exit_code is not None:
            look["exitCode"] = one.exit_code
        if one.reason is not None:
            look["reason"] = one.reason[:1024]
        return look
