"""StopTask, DescribeTasks, ListTasks, and the requests about clusters."""

from __future__ import annotations

import re

from agora_conformance.emulators.ecs import tags
from agora_conformance.emulators.ecs.account import CLUSTER_NAME, Account, Cluster
from agora_conformance.emulators.ecs.errors import ApiError, Object, client, invalid
from agora_conformance.emulators.ecs.faults import Faults
from agora_conformance.emulators.ecs.lifecycle import Worker
from agora_conformance.emulators.ecs.pages import page
from agora_conformance.emulators.ecs.task import Task

#: Tasks of a DescribeTasks (botocore); characters of a reason (assumed).
TASKS, REASON = 100, 255
ID = r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
NOT_FOUND = "The referenced task was not found"


class Tasks:
    """Answers what is asked of tasks that were started.

    Parameters:
        account: where they are.
        faults: what goes wrong on purpose.
    """

    def __init__(self, account: Account, faults: Faults) -> None:
        self._account, self._faults = account, faults

    def stop(self, body: Object) -> Object:
        """StopTask."""
        cluster = self._account.cluster(body.get("cluster"))
        reason = body.get("reason", "")
        if len(reason) > REASON:
            raise invalid(f"Reason must be at most {REASON} characters.")
        task = self._find(cluster, body["task"])
        if task is None or self._faults.hides_from_stop(task):
            raise invalid(NOT_FOUND)
        if task.over_at is None:
            Worker(self._account, task).end("UserInitiated", reason or "Task stopped by user")
        return {"task": task.look() | {"tags": []}}

    def describe(self, body: Object) -> Object:
        """DescribeTasks."""
        cluster = self._account.cluster(body.get("cluster"))
        if not body["tasks"]:
            raise invalid("Tasks cannot be empty.")
        if len(body["tasks"]) > TASKS:
            raise invalid(f"Tasks cannot have more than {TASKS} elements.")
        found, failures = [], []
        for name in dict.fromkeys(body["tasks"]):
            task = self._find(cluster, name)
            look = None if task is None else self._faults.seen_of(task)
            if task is None or look is None:
                number = name.rpartition("/")[2]
                failures.append({"arn": self._account.arn("ecs", f"task/{cluster.name}/{number}"), "reason": "MISSING"})
                continue
            look["tags"] = tags.write(task.tags) if "TAGS" in body.get("include", []) else []
            found.append(look)
        return {"tasks": found, "failures": failures}

    def list(self, body: Object) -> Object:
        """ListTasks."""
        cluster = self._account.cluster(body.get("cluster"))
        others = {"containerInstance", "family", "serviceName", "launchType", "daemonName"} & body.keys()
        desired = body.get("desiredStatus", "RUNNING")
        if "startedBy" in body and (others or desired != "RUNNING"):
            raise invalid("When you specify startedBy as the filter, it must be the only filter that you use.")
        if others - {"family", "launchType"}:
            raise invalid("the emulator knows no container instances, services and daemons")
        found = []
        for task in self._account.alive():
            look = self._faults.seen_of(task)
            if look is None or look["clusterArn"] != cluster.arn or look["desiredStatus"] != desired:
                continue
            family = body.get("family") in (None, task.definition["family"])
            started = body.get("startedBy") in (None, task.started_by)
            if family and started and body.get("launchType", "FARGATE") == "FARGATE":
                found.append(task.arn)
        return page(found, body, "taskArns")

    def _find(self, cluster: Cluster, name: str) -> Task | None:
        """Return a task by id or ARN.

        Raises:
            ApiError: the name is neither, or it is of another cluster.
        """
        number = name.rpartition("/")[2]
        if not re.fullmatch(ID, number):
            raise invalid("Task Identifier is invalid")
        if name.startswith("arn:"):
            home = name.split("/")[1] if name.count("/") > 1 else cluster.name
            if home != cluster.name:
                raise invalid(f"Invalid identifier: Identifier is for cluster {home}. Your cluster is {cluster.name}")
            if not name.startswith(self._account.arn("ecs", "task/")):
                raise invalid("Task Identifier is invalid")
        task = self._account.find(number)
        return task if task is not None and task.cluster_arn == cluster.arn else None


class Clusters:
    """Answers what is asked of clusters.

    Parameters:
        account: where they are.
    """

    def __init__(self, account: Account) -> None:
        self._account = account

    def create(self, body: Object) -> Object:
        """CreateCluster."""
        name = body.get("clusterName", "default")
        if not re.fullmatch(CLUSTER_NAME, name):
            raise invalid("Identifier contains invalid characters.")
        cluster = self._account.found(name)
        cluster.tags |= tags.read(body.get("tags"))
        cluster.providers = tuple(body.get("capacityProviders", cluster.providers))
        cluster.strategy = tuple(body.get("defaultCapacityProviderStrategy", cluster.strategy))
        return {"cluster": self._look(cluster)}

    def delete(self, body: Object) -> Object:
        """DeleteCluster."""
        cluster = self._account.cluster(body["cluster"])
        if any(task.cluster_arn == cluster.arn and task.over_at is None for task in self._account.alive()):
            raise ApiError("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")
        del self._account.clusters[cluster.name]
        return {"cluster": self._look(cluster) | {"status": "INACTIVE"}}

    def describe(self, body: Object) -> Object:
        """DescribeClusters."""
        names = body.get("clusters") or ["default"]
        if len(names) > 100:
            raise client("Clusters cannot have more than 100 elements.")
        found: list[Object] = []
        failures: list[Object] = []
        for name in names:
            try:
                cluster = self._account.cluster(name)
            except ApiError:
                arn = name if name.startswith("arn:") else self._account.arn("ecs", f"cluster/{name}")
                failures.append({"arn": arn, "reason": "MISSING"})
            else:
                told = tags.write(cluster.tags) if "TAGS" in body.get("include", []) else []
                found.append(self._look(cluster) | {"tags": told})
        return {"clusters": found, "failures": failures}

    def list(self, body: Object) -> Object:
        """ListClusters."""
        return page([one.arn for one in self._account.clusters.values()], body, "clusterArns")

    def _look(self, cluster: Cluster) -> Object:
        mine = [task for task in self._account.alive() if task.cluster_arn == cluster.arn]
        return {
            "clusterArn": cluster.arn,
            "clusterName": cluster.name,
            "status": "ACTIVE",
            "registeredContainerInstancesCount": 0,
            "runningTasksCount": sum(task.status == "RUNNING" for task in mine),
            "pendingTasksCount": sum(task.status in ("PROVISIONING", "PENDING", "ACTIVATING") for task in mine),
            "activeServicesCount": 0,
            "statistics": [],
            "tags": [],
            "settings": [],
            "capacityProviders": list(cluster.providers),
            "defaultCapacityProviderStrategy": list(cluster.strategy),
        }
