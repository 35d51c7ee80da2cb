"""RunTask."""

from __future__ import annotations

import json
import re
import time
import uuid
from copy import deepcopy
from dataclasses import dataclass

from agora_conformance.emulators.ecs import fargate, tags
from agora_conformance.emulators.ecs.account import Account, Cluster, Token
from agora_conformance.emulators.ecs.definitions import Definitions
from agora_conformance.emulators.ecs.errors import ApiError, Object, client, invalid
from agora_conformance.emulators.ecs.faults import Faults
from agora_conformance.emulators.ecs.lifecycle import Worker
from agora_conformance.emulators.ecs.task import Task, TaskContainer

#: Characters of the overrides with their JSON, tasks of a call, subnets and groups (botocore: RunTask).
OVERRIDES, COUNT, SUBNETS, GROUPS = 8192, 10, 16, 5
STARTED_BY = r"[A-Za-z0-9/_-]{0,128}"
SIGNS = r"[!-~]{1,64}"
NO_NETWORK = "Network Configuration must be provided when networkMode 'awsvpc' is specified."


@dataclass(frozen=True)
class Place:
    """Where and how the tasks of a request run.

    Parameters:
        definition: the task definition.
        cpu, memory: of each task, as text.
        platform: version.
        provider: capacity provider; empty for a launch type.
    """

    definition: Object
    cpu: str
    memory: str
    platform: str
    provider: str


class Launcher:
    """Starts tasks.

    Parameters:
        account: where.
        definitions: of what.
        faults: what goes wrong on purpose.
    """

    def __init__(self, account: Account, definitions: Definitions, faults: Faults) -> None:
        self._account, self._definitions, self._faults = account, definitions, faults

    def run(self, body: Object) -> Object:
        """RunTask."""
        cluster = self._account.cluster(body.get("cluster"))
        request = {key: deepcopy(value) for key, value in body.items() if key not in ("clientToken", "cluster")}
        token = body.get("clientToken")
        if token is not None and not re.fullmatch(SIGNS, token):
            raise invalid("clientToken must have at most 64 characters in the range of 33-126.")
        if token is not None and (used := self._used(cluster, token)) is not None:
            if used.request != request:
                arns = [task.arn for task in used.tasks]
                text = "The provided clientToken is already in use with a different RunTask request."
                raise ApiError("ConflictException", text, more={"resourceIds": arns})
            return {"tasks": [task.look() for task in used.tasks], "failures": []}
        place = self._place(cluster, body)
        given = self._tags(body, place.definition)
        self._faults.at_launch()
        if (reason := self._faults.placement()) is not None:
            return {"tasks": [], "failures": [{"reason": reason}]}
        tasks = tuple(self._start(cluster, request, place, dict(given)) for _ in range(body.get("count", 1)))
        if token is not None:
            cluster.tokens[token] = Token(request, tasks, time.monotonic())
        looks = [task.look() | {"tags": tags.write(task.tags)} for task in tasks]
        return {"tasks": looks, "failures": []}

    def _used(self, cluster: Cluster, token: str) -> Token | None:
        """Return what a token has started, as long as the token lives."""
        used = cluster.tokens.get(token)
        if used is None:
            return None
        timing, now = self._account.timing, time.monotonic()
        ends = [task.over_at for task in used.tasks if task.over_at is not None]
        over = max(ends) if len(ends) == len(used.tasks) else now
        if now < min(used.at + timing.token_life * timing.second, over + timing.token_after * timing.second):
            return used
        del cluster.tokens[token]
        return None

    # -- checks --------------------------------------------------------------------------------------------------

    def _place(self, cluster: Cluster, body: Object) -> Place:
        if not 1 <= body.get("count", 1) <= COUNT:
            raise invalid("Count must be between 1 and 10.")
        if not re.fullmatch(STARTED_BY, body.get("startedBy", "")):
            raise invalid("Started By contains invalid characters, or is longer than 128 characters.")
        definition = self._definitions.for_run(body["taskDefinition"])
        provider = _provider(cluster, body)
        if "FARGATE" not in definition["compatibilities"]:
            text = "Task definition does not support launch_type FARGATE."
            raise invalid(text)
        if body.get("placementConstraints") or body.get("placementStrategy"):
            raise invalid("Placement constraints and strategies are not supported with FARGATE launch type.")
        _check_network(body)
        overrides = body.get("overrides") or {}
        _check_overrides(overrides, definition)
        cpu, memory = fargate.size(
            overrides.get("cpu", definition["cpu"]), overrides.get("memory", definition["memory"])
        )
        return Place(definition, cpu, memory, fargate.platform(body.get("platformVersion")), provider)

    def _tags(self, body: Object, definition: Object) -> dict[str, str]:
        source = body.get("propagateTags", "NONE")
        if source == "SERVICE":
            raise invalid("propagateTags SERVICE is not supported for RunTask.")
        inherited = self._definitions.tags[definition["taskDefinitionArn"]] if source == "TASK_DEFINITION" else {}
        return inherited | tags.read(body.get("tags"))

    # -- start ---------------------------------------------------------------------------------------------------

    def _start(self, cluster: Cluster, request: Object, place: Place, given: dict[str, str]) -> Task:
        task = self.make(cluster, request, place, given)
        task.note()
        self._account.tasks[task.id] = task
        self._account.spawn(Worker(self._account, task).run())
        for listener in self._account.listeners:
            listener(task)
        return task

    def make(self, cluster: Cluster, request: Object, place: Place, given: dict[str, str]) -> Task:
        """Return a task that nobody looks after yet."""
        number = uuid.uuid4().hex
        overrides = (request.get("overrides") or {}).get("containerOverrides") or []
        named = {one["name"]: one for one in overrides}
        containers = [
            TaskContainer(
                definition=one,
                override=named.get(one["name"], {}),
                arn=self._account.arn("ecs", f"container/{cluster.name}/{number}/{uuid.uuid4()}"),
            )
            for one in place.definition["containerDefinitions"]
        ]
        return Task(
            arn=self._account.arn("ecs", f"task/{cluster.name}/{number}"),
            cluster_arn=cluster.arn,
            definition=place.definition,
            request=request,
            cpu=place.cpu,
            memory=place.memory,
            platform=place.platform,
            provider=place.provider,
            containers=containers,
            tags=given,
            times={"createdAt": self._account.clock.now()},
        )

    def populate(self, count: int, body: Object) -> list[str]:
        """Add RUNNING tasks without processes, past every limit, and return their ARNs.

        Parameters:
            count: how many.
            body: a RunTask request.
        """
        cluster = self._account.cluster(body.get("cluster"))
        place = self._place(cluster, body)
        arns = []
        for _ in range(count):
            task = self.make(cluster, deepcopy(body), place, {})
            now = self._account.clock.now()
            task.phantom, task.status, task.version = True, "RUNNING", 3
            task.times |= {"connectivityAt": now, "pullStartedAt": now, "pullStoppedAt": now, "startedAt": now}
            for one in task.containers:
                one.status = "RUNNING"
            task.note()
            self._account.tasks[task.id] = task
            self._account.spawn(Worker(self._account, task).run())
            arns.append(task.arn)
        return arns


def _provider(cluster: Cluster, body: Object) -> str:
    """Return the capacity provider; empty for the launch type FARGATE."""
    strategy = body.get("capacityProviderStrategy") or []
    launch = body.get("launchType")
    if strategy and launch:
        text = (
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again."
        )
        raise invalid(text)
    if not strategy and not launch:
        strategy = list(cluster.strategy)
    if not strategy:
        if launch != "FARGATE":
            raise invalid("No Container Instances were found in your cluster.")
        return ""
    for one in strategy:
        if one["capacityProvider"] not in cluster.providers:
            raise invalid("The specified capacity provider was not found. Specify a valid name and try again.")
    heaviest = max(strategy, key=lambda one: (one.get("base", 0), one.get("weight", 0)))
    return str(heaviest["capacityProvider"])


def _check_network(body: Object) -> None:
    network = (body.get("networkConfiguration") or {}).get("awsvpcConfiguration")
    if network is None:
        raise invalid(NO_NETWORK)
    subnets, groups = network.get("subnets") or [], network.get("securityGroups") or []
    if not subnets:
        raise invalid("subnets can not be empty.")
    if len(subnets) > SUBNETS or len(groups) > GROUPS:
        raise invalid(f"There is a limit of {SUBNETS} subnets and {GROUPS} security groups.")
    for subnet in subnets:
        if not subnet.startswith("subnet-") or "missing" in subnet:
            raise invalid(
                f"Error retrieving subnet information for [{subnet}]: The subnet ID '{subnet}' does not exist "
                "(ErrorCode: InvalidSubnetID.NotFound)"
            )
    for group in groups:
        if not group.startswith("sg-") or "missing" in group:
            raise invalid(
                f"Error retrieving security group information for [{group}]: The security group '{group}' does not "
                "exist (ErrorCode: InvalidGroup.NotFound)"
            )


def _check_overrides(overrides: Object, definition: Object) -> None:
    if len(json.dumps(overrides, separators=(",", ":"), ensure_ascii=False)) > OVERRIDES:
        raise invalid(f"Container Overrides length must be at most {OVERRIDES}")
    names = [one["name"] for one in definition["containerDefinitions"]]
    for one in overrides.get("containerOverrides") or []:
        if "name" not in one:
            raise invalid("Container override must have a name.")
        if one["name"] not in names:
            raise invalid(f"Override for container named {one['name']} is not a container in the TaskDefinition.")
        if one.get("environmentFiles") or one.get("resourceRequirements"):
            raise client("the emulator knows no environmentFiles or resourceRequirements")
        if any("name" not in variable for variable in one.get("environment") or []):
            raise invalid("Environment variable must have a name.")
