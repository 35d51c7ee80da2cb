"""Task definitions and the requests about them."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import dataclass, field

from agora_conformance.emulators.ecs import fargate, tags
from agora_conformance.emulators.ecs.account import ACCOUNT, Account
from agora_conformance.emulators.ecs.errors import ApiError, Object, client, invalid
from agora_conformance.emulators.ecs.pages import page

NAME = r"[A-Za-z0-9_-]{1,255}"
IMAGE = r"\S{1,512}"
#: Bytes of a task definition ("Amazon ECS service quotas").
SIZE_LIMIT = 64 * 1024
CONTAINER_DEFAULTS: Object = {
    "cpu": 0,
    "portMappings": [],
    "essential": True,
    "environment": [],
    "mountPoints": [],
    "volumesFrom": [],
    "systemControls": [],
}


@dataclass
class Family:
    """One family of task definitions.

    Parameters:
        revisions: by number.
        last: the highest number ever given.
    """

    revisions: dict[int, Object] = field(default_factory=dict)
    last: int = 0


class Definitions:
    """The task definitions of the account.

    Parameters:
        account: whose they are.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._families: dict[str, Family] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> Object | None:
        """Return a task definition by ARN, `family:revision` or family, which stands for the latest ACTIVE one."""
        name = name.rpartition("task-definition/")[2]
        family, _, revision = name.partition(":")
        known = self._families.get(family, Family()).revisions
        if revision:
            return known.get(int(revision)) if revision.isdecimal() else None
        active = [one for one in known.values() if one["status"] == "ACTIVE"]
        return active[-1] if active else None

    def register(self, body: Object) -> Object:
        """RegisterTaskDefinition."""
        self._check(body)
        given = tags.read(body.get("tags"))
        family = self._families.setdefault(body["family"], Family())
        family.last += 1
        arn = self._account.arn("ecs", f"task-definition/{body['family']}:{family.last}")
        definition = {key: value for key, value in deepcopy(body).items() if key != "tags"}
        definition["containerDefinitions"] = [
            deepcopy(CONTAINER_DEFAULTS) | one for one in definition["containerDefinitions"]
        ]
        if definition.get("cpu") and definition.get("memory"):
            definition["cpu"] = str(fargate.units(definition["cpu"]))
            definition["memory"] = str(fargate.mebibytes(definition["memory"]))
        serverless = "FARGATE" in definition.get("requiresCompatibilities", [])
        definition |= {
            "taskDefinitionArn": arn,
            "revision": family.last,
            "status": "ACTIVE",
            "volumes": definition.get("volumes", []),
            "placementConstraints": definition.get("placementConstraints", []),
            "requiresAttributes": [],
            "compatibilities": ["EC2", "FARGATE"] if serverless else ["EC2"],
            "registeredAt": self._account.clock.now(),
            "registeredBy": f"arn:aws:iam::{ACCOUNT}:user/emulator",
        }
        family.revisions[family.last] = definition
        self.tags[arn] = given
        return {"taskDefinition": definition, "tags": tags.write(given)}

    @staticmethod
    def _check(body: Object) -> None:
        if not re.fullmatch(NAME, body["family"]):
            raise client("Invalid family name: up to 255 letters, numbers, hyphens and underscores are allowed.")
        containers = body["containerDefinitions"]
        if not containers:
            raise client("Container definitions should not be null or empty.")
        if len(json.dumps(body).encode()) > SIZE_LIMIT:
            raise client("Actual length: the task definition is larger than 64 KiB.")
        names = [one.get("name", "") for one in containers]
        for one in containers:
            if not re.fullmatch(NAME, one.get("name", "")):
                raise client("Container.name contains invalid characters.")
            if not re.fullmatch(IMAGE, one.get("image", "")):
                raise client("Container.image should not be null or empty.")
            if one.get("dependsOn") or one.get("restartPolicy") or one.get("environmentFiles"):
                raise client("the emulator knows no dependsOn, restartPolicy or environmentFiles")
            if any("name" not in variable for variable in one.get("environment") or []):
                raise client("Container.environment contains an entry without a name.")
        if len(set(names)) != len(names):
            raise client("Container name must be unique within a task definition.")
        if not any(one.get("essential", True) for one in containers):
            raise client("At least one container must be essential.")
        if "FARGATE" in body.get("requiresCompatibilities", []):
            fargate.check(body)

    def describe(self, body: Object) -> Object:
        """DescribeTaskDefinition."""
        found = self.find(body["taskDefinition"])
        if found is None:
            raise client("Unable to describe task definition.")
        answer: Object = {"taskDefinition": found}
        if "TAGS" in body.get("include", []):
            answer["tags"] = tags.write(self.tags[found["taskDefinitionArn"]])
        return answer

    def deregister(self, body: Object) -> Object:
        """DeregisterTaskDefinition."""
        if ":" not in body["taskDefinition"].rpartition("task-definition/")[2]:
            raise client("Invalid revision number. Number: ")
        found = self.find(body["taskDefinition"])
        if found is None:
            raise client("The specified task definition does not exist.")
        if found["status"] == "ACTIVE":
            found |= {"status": "INACTIVE", "deregisteredAt": self._account.clock.now()}
        return {"taskDefinition": found}

    def delete(self, body: Object) -> Object:
        """DeleteTaskDefinitions."""
        if len(body["taskDefinitions"]) > 10:
            raise invalid("Up to 10 task definitions can be deleted at once.")
        gone: list[Object] = []
        failures: list[Object] = []
        for name in body["taskDefinitions"]:
            found = self.find(name)
            if found is None:
                failures.append({"arn": name, "reason": "TASK_DEFINITION_NOT_FOUND"})
            elif found["status"] == "ACTIVE":
                reason = "The specified task definition is still in ACTIVE status. Please deregister it and try again."
                failures.append({"arn": name, "reason": reason})
            else:
                found |= {"status": "DELETE_IN_PROGRESS", "deleteRequestedAt": self._account.clock.now()}
                gone.append(found)
                if not any(one.definition is found and one.over_at is None for one in self._account.tasks.values()):
                    del self._families[found["family"]].revisions[found["revision"]]
        return {"taskDefinitions": gone, "failures": failures}

    def list(self, body: Object) -> Object:
        """ListTaskDefinitions."""
        status, prefix = body.get("status", "ACTIVE"), body.get("familyPrefix")
        found = [
            one["taskDefinitionArn"]
            for name, family in sorted(self._families.items())
            if prefix in (None, name)
            for one in family.revisions.values()
            if one["status"] == status
        ]
        if body.get("sort") == "DESC":
            found.reverse()
        return page(found, body, "taskDefinitionArns")

    def families(self, body: Object) -> Object:
        """ListTaskDefinitionFamilies."""
        status, prefix = body.get("status", "ALL"), body.get("familyPrefix", "")
        found = []
        for name, family in sorted(self._families.items()):
            active = any(one["status"] == "ACTIVE" for one in family.revisions.values())
            if name.startswith(prefix) and status in ("ALL", "ACTIVE" if active else "INACTIVE"):
                found.append(name)
        return page(found, body, "families")

    def for_run(self, name: str) -> Object:
        """Return the task definition that RunTask names.

        Raises:
            ApiError: there is none, or it is not ACTIVE.
        """
        found = self.find(name)
        if found is None:
            raise client("TaskDefinition not found.")
        if found["status"] != "ACTIVE":
            raise client("TaskDefinition is inactive")
        return found

    def tagged(self, arn: str) -> dict[str, str]:
        """Return the tags of a task definition, to be changed in place.

        Raises:
            ApiError: there is no such task definition.
        """
        if arn not in self.tags:
            raise ApiError("InvalidParameterException", "The specified task definition was not found.")
        return self.tags[arn]
