"""Time as the emulated service tells it, and how long its parts take."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Self

#: Parts of `Timing` that are the API's own seconds and no delays of the machinery.
OF_THE_API = ("second", "retention", "token_life", "token_after")


@dataclass(frozen=True)
class Timing:
    """Delays in seconds; the defaults are about what published records of Fargate tasks show, none was measured.

    Parameters:
        second: how long one second of the API lasts: of stop timeouts, retention, tokens and throttles.
        provision: in PROVISIONING, while the network interface is made.
        prepare: in PENDING, before the pull.
        pull: what every pull takes; an image may add its own.
        pull_abort: from a stop during a pull to the task's next step; the pull is not interrupted before.
        activate: in ACTIVATING.
        notice: from StopTask to DEACTIVATING.
        deactivate: in DEACTIVATING, before SIGTERM.
        report: from the end of an essential container to the first word about it in the API.
        deprovision: in DEPROVISIONING, while the network interface is removed.
        ingest: from a line of output to its event in CloudWatch Logs.
        flush: output this young is lost where a container with non-blocking logs is killed.
        retention: how long a stopped task stays in the API, in seconds of the API (botocore: "at least one hour").
        token_life, token_after: a clientToken lives this long, or until this long after the task's end, whichever
            comes first, in seconds of the API (ECS_Idempotency: 24 hours, one hour).
    """

    second: float = 1.0
    provision: float = 10.0
    prepare: float = 2.0
    pull: float = 8.0
    pull_abort: float = 5.0
    activate: float = 3.0
    notice: float = 0.5
    deactivate: float = 0.5
    report: float = 2.0
    deprovision: float = 15.0
    ingest: float = 2.0
    flush: float = 0.5
    retention: float = 3600.0
    token_life: float = 86400.0
    token_after: float = 3600.0

    def hurried(self, factor: float) -> Self:
        """Return a service whose machinery takes `factor` times as long; the API's seconds stay."""
        delays = {name: value * factor for name, value in vars(self).items() if name not in OF_THE_API}
        return replace(self, **delays)

    def scaled(self, factor: float) -> Self:
        """Return the same service, `factor` times as slow; stop timeouts, retention and throttles included."""
        return replace(self.hurried(factor), second=self.second * factor)


class Clock:
    """The service's clock.

    Parameters:
        skew: seconds that it is ahead of this machine.
    """

    def __init__(self) -> None:
        self.skew = 0.0

    def now(self, at: float | None = None) -> float:
        """Return the service's time, now or for a time of this machine, in seconds to the millisecond."""
        return round((time.time() if at is None else at) + self.skew, 3)
