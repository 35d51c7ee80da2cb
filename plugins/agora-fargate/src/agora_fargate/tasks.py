"""The tasks of a cluster: described in batches, found by their marks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agora.errors import ProviderError
from agora.model.observation import Handle

from agora_fargate.api import Api
from agora_fargate.names import Item, Mark

#: "A list of up to 100 task IDs or full ARN entries" (botocore's ECS model, DescribeTasks).
BATCH = 100
#: Marks of tasks that are remembered: they never change.
_REMEMBERED = 20_000


@dataclass(frozen=True)
class Ref:
    """One workload.

    Parameters:
        id: its dispatch.
        installation: whose it is.
        arn: its task; empty where only its secrets are left.
    """

    id: str
    installation: str
    arn: str

    @classmethod
    def of(cls, handle: Handle) -> Ref:
        """Read a handle."""
        return cls(handle.id, handle.data["installation"], handle.data["task"])

    @classmethod
    def to(cls, mark: Mark, task: Item) -> Ref:
        """Refer to a described task."""
        return cls(mark.id, mark.installation, task["taskArn"])

    def handle(self, cluster_arn: str) -> Handle:
        """Write a handle."""
        return Handle(id=self.id, backend=cluster_arn, data={"task": self.arn, "installation": self.installation})


class Tasks:
    """Reads the tasks of one cluster.

    Parameters:
        api: its region.
        cluster: its name or ARN.
    """

    def __init__(self, api: Api, cluster: str) -> None:
        self.api = api
        self.cluster = cluster
        self._marks: OrderedDict[str, Mark | None] = OrderedDict()
        self._lock = threading.Lock()

    def describe(self, arns: Sequence[str], *, background: bool = False) -> dict[str, Item]:
        """Return the descriptions of tasks by ARN; one that ECS does not know, and no ARN at all, is left out.

        Raises:
            ProviderError: ECS says of one that it failed to describe it, and not that it is missing.
        """
        found: dict[str, Item] = {}
        arns = [arn for arn in arns if arn]
        for start in range(0, len(arns), BATCH):
            batch = list(arns[start : start + BATCH])
            answer = self.api.call("DescribeTasks", background=background, cluster=self.cluster, tasks=batch)
            for task in answer.get("tasks") or []:
                found[task["taskArn"]] = task
            for failure in answer.get("failures") or []:
                if failure.get("reason") != "MISSING":
                    words = f"{failure.get('reason')} {failure.get('detail') or ''}".strip()
                    raise ProviderError(f"ECS cannot describe {failure.get('arn')}: {words}")
        self._remember(found.values())
        return found

    def _remember(self, tasks: Iterable[Item]) -> None:
        with self._lock:
            for task in tasks:
                self._marks[task["taskArn"]] = Mark.of(task)
            while len(self._marks) > _REMEMBERED:
                self._marks.popitem(last=False)

    def started_by(self, dispatch_id: str) -> list[str]:
        """List the tasks of a dispatch that are to run; the filter takes no other beside it, so no stopped ones."""
        return self._list(startedBy=dispatch_id)

    def stopped(self) -> list[str]:
        """List the tasks of the cluster that are stopped, or being stopped."""
        return self._list(desiredStatus="STOPPED")

    def running(self) -> list[str]:
        """List the tasks of the cluster that run, or are to run."""
        return self._list(desiredStatus="RUNNING")

    def _list(self, **filters: str) -> list[str]:
        return self.api.pages("ListTasks", "taskArns", cluster=self.cluster, **filters)

    def marks(self, arns: Sequence[str]) -> Mapping[str, Mark]:
        """Return the marks of those tasks that have one; each task is described once for it."""
        with self._lock:
            unknown = [arn for arn in arns if arn not in self._marks]
        self.describe(unknown)
        with self._lock:
            return {arn: mark for arn in arns if (mark := self._marks.get(arn)) is not None}
