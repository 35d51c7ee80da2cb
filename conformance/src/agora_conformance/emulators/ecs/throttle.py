"""Token buckets of the APIs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Bucket:
    """One token bucket; it starts full.

    Parameters:
        burst: what it holds at most.
        rate: tokens that come back, a second.
        tokens: what it holds.
        at: when that was so.
    """

    burst: float
    rate: float
    tokens: float
    at: float

    def holds(self, now: float, count: float) -> bool:
        """Fill up until `now`, and tell whether `count` can be taken."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        return self.tokens >= count


#: Bucket: (burst, sustained rate a second). ECS: "Request throttling for the Amazon ECS API" in its API reference.
#: Fargate: "AWS Fargate throttling quotas" in the developer's guide; the bucket of RunTask's calls is assumed to hold
#: one second's worth. Logs: botocore's model names 25 a second for DescribeLogStreams and 50 for CreateLogStream;
#: the others are assumed. Secrets Manager: its quotas, a second; a burst of one second's worth is assumed.
RATES = {
    "ecs cluster modify": (20, 1),
    "ecs cluster read": (50, 20),
    "ecs task definition modify": (20, 1),
    "ecs task definition read": (50, 20),
    "ecs task definition deletion": (5, 1),
    "ecs tag modify": (20, 10),
    "ecs tag read": (50, 20),
    "ecs cluster resource modify": (100, 40),
    "ecs cluster resource read": (100, 20),
    "fargate RunTask": (20, 20),
    "fargate launches": (100, 20),
    "logs DescribeLogStreams": (25, 25),
    "logs CreateLogStream": (50, 50),
    "logs GetLogEvents": (25, 25),
    "logs FilterLogEvents": (10, 10),
    "secretsmanager CreateSecret": (50, 50),
    "secretsmanager DeleteSecret": (50, 50),
    "secretsmanager ListSecrets": (100, 100),
    "secretsmanager read": (10_000, 10_000),
}  # fmt: skip
ACTIONS = {
    "ecs": {
        "CreateCluster": "ecs cluster modify",
        "DeleteCluster": "ecs cluster modify",
        "DescribeClusters": "ecs cluster read",
        "ListClusters": "ecs cluster read",
        "RegisterTaskDefinition": "ecs task definition modify",
        "DeregisterTaskDefinition": "ecs task definition modify",
        "DescribeTaskDefinition": "ecs task definition read",
        "ListTaskDefinitions": "ecs task definition read",
        "ListTaskDefinitionFamilies": "ecs task definition read",
        "DeleteTaskDefinitions": "ecs task definition deletion",
        "TagResource": "ecs tag modify",
        "UntagResource": "ecs tag modify",
        "ListTagsForResource": "ecs tag read",
        "RunTask": "ecs cluster resource modify",
        "StopTask": "ecs cluster resource modify",
        "DescribeTasks": "ecs cluster resource read",
        "ListTasks": "ecs cluster resource read",
    },
    "logs": {
        name: f"logs {name}" for name in ("DescribeLogStreams", "CreateLogStream", "GetLogEvents", "FilterLogEvents")
    },
    "secretsmanager": {
        **{name: f"secretsmanager {name}" for name in ("CreateSecret", "DeleteSecret", "ListSecrets")},
        **dict.fromkeys(("DescribeSecret", "GetSecretValue"), "secretsmanager read"),
    },
}  # fmt: skip


class Throttle:
    """All buckets of one account in one region.

    Parameters:
        clock: seconds; `time.monotonic`, or the clock of a simulation.
        second: how long one second of the API lasts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, second: float = 1.0) -> None:
        self._clock = clock
        now = clock()
        self._buckets = {name: Bucket(burst, rate / second, burst, now) for name, (burst, rate) in RATES.items()}
        self.refused: dict[str, int] = {}

    def admits(self, service: str, action: str, launches: int = 1) -> bool:
        """Take the tokens of a request, all or none, and tell whether it may pass.

        Parameters:
            service, action: such as `ecs` and `RunTask`.
            launches: tasks that a RunTask asks for.
        """
        category = ACTIONS.get(service, {}).get(action)
        if category is None:
            return True
        wanted = {category: 1}
        if action == "RunTask":
            wanted |= {"fargate RunTask": 1, "fargate launches": launches}
        now = self._clock()
        # Each is asked, because asking is what fills it up.
        enough = [self._buckets[name].holds(now, count) for name, count in wanted.items()]
        if not all(enough):
            self.refused[action] = self.refused.get(action, 0) + 1
            return False
        for name, count in wanted.items():
            self._buckets[name].tokens -= count
        return True
