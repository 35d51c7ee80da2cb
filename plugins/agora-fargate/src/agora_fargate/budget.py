"""Rates of calls: every target of a process shares them, and keeps under what AWS publishes for an account."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Part of a full bucket that calls in the background leave for the others: a stop waits for no watch.
RESERVE = 0.25
#: Seconds between two looks whether a stop was requested, in a wait that such a request ends.
LOOK = 0.5


@dataclass(frozen=True)
class Rate:
    """A published limit.

    Parameters:
        burst: calls at once.
        per_second: calls in the long run.
    """

    burst: float
    per_second: float


#: For one account in one region, by groups of calls. ECS: "Request throttling for the Amazon ECS API" of its API
#: reference; RunTask and StopTask share a bucket of 100 and 40 a second, and Fargate lets 20 calls of RunTask and 20
#: launches a second through ("AWS Fargate throttling quotas"). Of CloudWatch Logs botocore's model names 25 a second
#: for DescribeLogStreams; the same is assumed for GetLogEvents, and less for the rest. Secrets Manager lets 50 calls of
#: CreateSecret and 50 of DeleteSecret a second through ("Secrets Manager quotas"), and more of the others.
RATES = {
    "run": Rate(20, 20),
    "stop": Rate(80, 20),
    "describe": Rate(100, 20),
    "define": Rate(20, 1),
    "definitions": Rate(50, 20),
    "delete definitions": Rate(5, 1),
    "clusters": Rate(50, 20),
    "logs": Rate(25, 25),
    "streams": Rate(5, 5),
    "queue": Rate(100, 100),
    "secrets": Rate(25, 50),
}


@dataclass
class Bucket:
    """A token bucket.

    Parameters:
        rate: what it lets through.
        clock, sleep: replaced by tests.
    """

    rate: Rate
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _tokens: float = field(init=False)
    _at: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._tokens = max(1.0, self.rate.burst)
        self._at = self.clock()

    def take(self, until: float, *, background: bool = False, look: Callable[[], None] | None = None) -> bool:
        """Wait for a call's turn.

        Parameters:
            until: by the clock; there is no point in a call that comes later.
            background: leave the reserve to others.
            look: called every `LOOK` seconds of the wait; what it raises ends it.
        Returns:
            false where its turn would come too late.
        """
        while True:
            wait = self._try(background=background)
            if wait <= 0:
                return True
            if self.clock() + wait > until:
                return False
            if look is None:
                self.sleep(wait)
            else:
                look()
                self.sleep(min(wait, LOOK))

    def _try(self, *, background: bool) -> float:
        """Take a token; or return the seconds after which there may be one."""
        with self._lock:
            now, most = self.clock(), max(1.0, self.rate.burst)
            self._tokens = min(most, self._tokens + (now - self._at) * self.rate.per_second)
            self._at = now
            wanted = 1.0 + (RESERVE * (most - 1) if background else 0.0)
            if self._tokens >= wanted:
                self._tokens -= 1
                return 0.0
            return (wanted - self._tokens) / self.rate.per_second + 0.001

    def drain(self) -> None:
        """Start from nothing: the backend says that it has had enough."""
        with self._lock:
            self._tokens = min(self._tokens, 0.0)
            self._at = self.clock()


class Budget:
    """The buckets of one account and region.

    Parameters:
        share: part of each published rate.
    """

    def __init__(self, share: float) -> None:
        self._buckets = {
            name: Bucket(Rate(max(1.0, rate.burst * share), rate.per_second * share)) for name, rate in RATES.items()
        }

    def bucket(self, name: str) -> Bucket:
        """Return the bucket of a group of calls."""
        return self._buckets[name]


def sleep(seconds: float, look: Callable[[], None]) -> None:
    """Sleep, and look every `LOOK` seconds; what that raises ends it."""
    until = time.monotonic() + seconds
    look()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LOOK))
        look()


_shared: dict[tuple[str, float], Budget] = {}
_lock = threading.Lock()


def shared(where: str, share: float) -> Budget:
    """Return the budget that every target of this process has for one place."""
    with _lock:
        return _shared.setdefault((where, share), Budget(share))
