"""Task definitions: registered once for all dispatches that can share one, and removed on request.

`python -m agora_fargate.definitions` lists the families that no task uses; with `--remove` it removes them.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from agora.errors import SubmitRefused
from agora.hookspecs import Check

from agora_fargate import names
from agora_fargate.api import Api, Refusal
from agora_fargate.budget import LOOK
from agora_fargate.names import Item

#: Seconds for which a start waits for its turn to register; the published rate is about one a second.
REGISTER_SECONDS = 45.0
#: "You can specify up to 10 task definitions" (botocore's ECS model, DeleteTaskDefinitions).
_DELETED_AT_ONCE = 10


class Definitions:
    """The task definitions of an account that this provider makes.

    Parameters:
        api: the region.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, str] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def ensure(self, body: Item, check: Check | None = None) -> str:
        """Return the ARN of a revision that says what `body` says, registered where there is none.

        Parameters:
            check: called at least once a second of every wait; what it raises ends it.

        Raises:
            SubmitRefused: ECS refuses the definition.
        """
        family: str = body["family"]
        if names.is_own_family(family):  # nobody else asks for it
            return self._latest(family) or self._register(body, check)
        with self._held(family, check):
            if (known := self._known.get(family)) is None:
                known = self._known[family] = self._latest(family) or self._register(body, check)
            return known

    @contextmanager
    def _held(self, family: str, check: Check | None = None) -> Iterator[None]:
        """Keep others from registering the same family meanwhile."""
        with self._lock:
            lock = self._locks[family]
        while not lock.acquire(timeout=LOOK):
            if check is not None:
                check()
        try:
            yield
        finally:
            lock.release()

    def forget(self, arn: str) -> None:
        """Look for a revision anew, since ECS does not start this one any more."""
        family = names.family_of(arn)
        if names.is_own_family(family):
            return
        with self._held(family):
            if self._known.get(family) == arn:
                del self._known[family]

    def _latest(self, family: str) -> str | None:
        try:
            found = self._api.call("DescribeTaskDefinition", taskDefinition=family)["taskDefinition"]
        except Refusal as error:
            if error.code in ("ClientException", "InvalidParameterException"):
                return None  # there is none, in ECS's words
            raise
        arn: str = found["taskDefinitionArn"]
        return arn if found.get("status") == "ACTIVE" else None

    def _register(self, body: Item, check: Check | None) -> str:
        try:
            made = self._api.call("RegisterTaskDefinition", seconds=REGISTER_SECONDS, check=check, **body)
        except Refusal as error:
            raise SubmitRefused(str(error), reason="definition_refused") from error
        arn: str = made["taskDefinition"]["taskDefinitionArn"]
        return arn

    def unused(self, cluster: str) -> list[str]:
        """List our families that no task of a cluster uses which is to run."""
        found = self._api.pages("ListTaskDefinitionFamilies", "families", familyPrefix=names.PREFIX, status="ACTIVE")
        return [
            family
            for family in found
            if names.is_family(family)
            and not self._api.call("ListTasks", cluster=cluster, family=family, maxResults=1)["taskArns"]
        ]

    def remove(self, family: str, seconds: float = REGISTER_SECONDS) -> int:
        """Deregister and delete all revisions of a family; a task that runs goes on.

        Parameters:
            seconds: how long each step may wait for its turn.

        Returns:
            how many there were.
        """
        mine = []
        for status in ("ACTIVE", "INACTIVE"):
            found = self._api.pages("ListTaskDefinitions", "taskDefinitionArns", familyPrefix=family, status=status)
            some = [arn for arn in found if names.family_of(arn) == family]
            for arn in some if status == "ACTIVE" else ():
                self._api.call("DeregisterTaskDefinition", seconds=seconds, taskDefinition=arn)
                self.forget(arn)
            mine += [arn for arn in some if arn not in mine]
        for start in range(0, len(mine), _DELETED_AT_ONCE):
            batch = mine[start : start + _DELETED_AT_ONCE]
            self._api.call("DeleteTaskDefinitions", seconds=seconds, taskDefinitions=batch)
        return len(mine)


def main(arguments: list[str] | None = None) -> int:
    """List or remove the families that no task uses, and return the exit code."""
    import argparse

    from agora.errors import AgoraError

    from agora_fargate.config import FargateConfig
    from agora_fargate.connect import Connection

    parser = argparse.ArgumentParser(prog="python -m agora_fargate.definitions", description=main.__doc__)
    parser.add_argument("--cluster", default="default", help="name or ARN of the cluster")
    parser.add_argument("--region")
    parser.add_argument("--profile")
    parser.add_argument("--config-file", help="AWS configuration file")
    parser.add_argument("--remove", action="store_true", help="deregister and delete them")
    given = parser.parse_args(arguments)
    try:
        config = FargateConfig.model_validate(
            {name: value for name, value in vars(given).items() if name != "remove" and value is not None}
        )
        definitions = Definitions(Api(Connection("definitions", config), config.share))
        for family in definitions.unused(config.cluster):
            said = f" removed, {definitions.remove(family)} revisions" if given.remove else ""
            sys.stdout.write(f"{family}{said}\n")
    except AgoraError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
