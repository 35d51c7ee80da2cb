"""Tags and the requests about them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from agora_conformance.emulators.ecs.account import Account
from agora_conformance.emulators.ecs.errors import ApiError, Object, invalid

#: Of one resource (botocore: `Tags`).
MOST = 50


def read(given: list[Object] | None) -> dict[str, str]:
    """Return the tags of a request by key.

    Raises:
        ApiError: they are not allowed.
    """
    found: dict[str, str] = {}
    for one in given or []:
        key, value = one.get("key", ""), one.get("value", "")
        if not _allowed(key) or not _allowed(value):
            raise invalid("Tags contain invalid characters.")
        if key.lower().startswith("aws:"):
            raise invalid("Tag keys must not begin with aws:, which is reserved.")
        if key in found:
            raise invalid("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
        found[key] = value
    if len(found) > MOST:
        raise invalid("Tags can not have more than 50 elements.")
    return found


def _allowed(text: str) -> bool:
    """Whether a text matches botocore's pattern for tags, `[\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*`."""
    return all(unicodedata.category(sign)[0] in "LZN" or sign in "_.:/=+-@" for sign in text)


def write(found: dict[str, str]) -> list[Object]:
    """Return tags as the API tells them."""
    return [{"key": key, "value": value} for key, value in found.items()]


@dataclass(frozen=True)
class Tags:
    """TagResource, UntagResource and ListTagsForResource.

    Parameters:
        account: whose resources they are about.
        definition: returns the tags of a task definition.
    """

    account: Account
    definition: Callable[[str], dict[str, str]]

    def _of(self, arn: str) -> dict[str, str]:
        kind, _, rest = arn.partition(":ecs:")[2].partition(":")[2].partition(":")[2].partition("/")
        if kind == "task":
            task = self.account.find(rest.rpartition("/")[2])
            if task is None:
                raise invalid("The specified task is not found.")
            return task.tags
        if kind == "task-definition":
            return self.definition(arn)
        if kind == "cluster":
            return self.account.cluster(arn).tags
        raise invalid("Invalid resource ARN.")

    def tag(self, body: Object) -> Object:
        """TagResource."""
        found = self._of(body["resourceArn"])
        wanted = found | read(body["tags"])
        if len(wanted) > MOST:
            raise ApiError("LimitExceededException", "Tags can not have more than 50 elements.")
        if _stopped(self.account, body["resourceArn"]):
            raise invalid("The specified task is stopped. Specify a running task and try again.")
        found.update(wanted)
        return {}

    def untag(self, body: Object) -> Object:
        """UntagResource."""
        found = self._of(body["resourceArn"])
        for key in body["tagKeys"]:
            found.pop(key, None)
        return {}

    def list(self, body: Object) -> Object:
        """ListTagsForResource."""
        return {"tags": write(self._of(body["resourceArn"]))}


def _stopped(account: Account, arn: str) -> bool:
    task = account.tasks.get(arn.rpartition("/")[2])
    return task is not None and task.desired == "STOPPED"
