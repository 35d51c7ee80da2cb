"""What the parts of the emulated account share."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agora_conformance.emulators.ecs.clock import Clock, Timing
from agora_conformance.emulators.ecs.cloudwatch import LogGroups
from agora_conformance.emulators.ecs.errors import ApiError, Object, invalid
from agora_conformance.emulators.ecs.task import Task
from agora_conformance.emulators.runner import Images, Runner

log = logging.getLogger("agora_conformance.emulators.ecs")

#: Of the account that the emulator plays.
ACCOUNT = "123456789012"
CLUSTER_NAME = r"[A-Za-z0-9_-]{1,255}"


@dataclass
class Cluster:
    """A cluster of ECS.

    Parameters:
        name, arn: of it.
        tags: by key.
        providers: its capacity providers.
        strategy: its default capacity provider strategy.
        tokens: what a clientToken has started, by token.
    """

    name: str
    arn: str
    tags: dict[str, str] = field(default_factory=dict)
    providers: tuple[str, ...] = ("FARGATE", "FARGATE_SPOT")
    strategy: tuple[Object, ...] = ()
    tokens: dict[str, Token] = field(default_factory=dict)


@dataclass(frozen=True)
class Token:
    """A clientToken that has been used.

    Parameters:
        request: the request's parameters.
        tasks: what it has started.
        at: when, by the monotonic clock.
    """

    request: Object
    tasks: tuple[Task, ...]
    at: float


@dataclass
class Secret:
    """A secret of Secrets Manager.

    Parameters:
        value: `SecretString`.
        token: ClientRequestToken of its version.
        tags: by key.
        created: seconds since the epoch.
        deleted: when it will be gone for good, by the same clock; None where nobody has deleted it.
    """

    value: str
    token: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    created: float = 0.0
    deleted: float | None = None


@dataclass
class Account:
    """State and services that the APIs and the tasks work with.

    Parameters:
        region: of the emulated account.
        timing: how long things take.
        images: what image names stand for.
        runner: runs containers.
    """

    region: str
    timing: Timing
    images: Images
    runner: Runner
    clock: Clock = field(default_factory=Clock)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)
    spawned: set[asyncio.Task[None]] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)
    listeners: list[Callable[[Task], None]] = field(default_factory=list)
    start_failures: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logs = LogGroups(self.clock, self.timing, self.arn)
        self.agents = asyncio.Event()
        self.agents.set()
        self.found("default")

    def arn(self, service: str, rest: str) -> str:
        """Return a resource name of this account."""
        return f"arn:aws:{service}:{self.region}:{ACCOUNT}:{rest}"

    def found(self, name: str) -> Cluster:
        """Create a cluster, unless it is there."""
        return self.clusters.setdefault(name, Cluster(name, self.arn("ecs", f"cluster/{name}")))

    def cluster(self, name: str | None) -> Cluster:
        """Return the cluster of a request.

        Raises:
            ApiError: there is none, or that is no name.
        """
        name = (name or "default").rpartition("/")[2] if (name or "").startswith("arn:") else (name or "default")
        if not re.fullmatch(CLUSTER_NAME, name):
            raise invalid("Identifier contains invalid characters.")
        if name not in self.clusters:
            raise ApiError("ClusterNotFoundException", "Cluster not found.")
        return self.clusters[name]

    def alive(self) -> list[Task]:
        """Return every task that the API still knows; what has been stopped for too long is dropped."""
        for task in list(self.tasks.values()):
            self.find(task.id)
        return list(self.tasks.values())

    def find(self, number: str) -> Task | None:
        """Return a task by its id, unless it has been stopped for too long and is dropped."""
        task, life = self.tasks.get(number), self.timing.retention * self.timing.second
        if task is not None and task.over_at is not None and time.monotonic() > task.over_at + life:
            del self.tasks[number]
            return None
        return task

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside everything else; a failure is kept for whoever closes the emulator."""
        task = asyncio.create_task(work)
        self.spawned.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.spawned.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self.failed(problem)

    def failed(self, problem: BaseException) -> None:
        """Keep a failure of the emulator itself."""
        log.error("a part of the emulated account failed: %r", problem)
        self.failures.append(problem)
