"""Time as the emulated cluster tells it, and how long its parts take."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self


@dataclass(frozen=True)
class Timing:
    """Delays in seconds, as measured on a real cluster (API server, controllers and kubelet 1.36.2, containerd 2.1).

    Parameters:
        second: how long one second of the API lasts: of graces, deadlines and times to live.
        schedule: from a pod's creation to its node.
        observe: from a change in the API to the kubelet's first answer.
        sandbox: to the pod's sandbox.
        start: from there to a running container.
        pull_failure: from the sandbox to the first word on an image that cannot be had.
        pull_backoff: from a failed pull to the back-off state; the next pull comes that much later again.
        exit_report: from a container's exit to `terminated`.
        sandbox_stop: from there to the pod's final phase, unless the pod is being deleted.
        cleanup: from the final status of a pod that is being deleted to the kubelet's own, last delete.
        never_started: from the deletion of a pod without containers to its final status.
        job_batch: how long the Job controller collects changes (`syncJobBatchPeriod`).
        job_write: from the pods that it makes or removes to the Job's status.
        collect: what the garbage collector takes.
        minimum_grace: the shortest grace that the kubelet gives, in seconds of the API (`minimumGracePeriodInSeconds`).
        kubelet_start: from the start of a kubelet to its first work.
        node_monitor: from the last word of a kubelet to `Ready: Unknown` on its node.
        pod_collect: from the deletion of a node object to the end of its pods.
    """

    second: float = 1.0
    schedule: float = 0.005
    observe: float = 0.015
    sandbox: float = 0.11
    start: float = 0.08
    pull_failure: float = 0.3
    pull_backoff: float = 10.0
    exit_report: float = 0.1
    sandbox_stop: float = 1.05
    cleanup: float = 0.5
    never_started: float = 0.95
    job_batch: float = 1.0
    job_write: float = 0.008
    collect: float = 0.01
    minimum_grace: int = 2
    kubelet_start: float = 1.1
    node_monitor: float = 20.0
    pod_collect: float = 60.0

    def scaled(self, factor: float) -> Self:
        """Return the same cluster, `factor` times as slow; graces and deadlines included."""
        delays = {name: value * factor for name, value in vars(self).items() if name != "minimum_grace"}
        return replace(self, **delays)


class Clock:
    """The clocks of the control plane and of the node, which may differ.

    Parameters:
        server_skew, node_skew: seconds that each is ahead of this machine.
    """

    def __init__(self) -> None:
        self.server_skew = 0.0
        self.node_skew = 0.0

    def server(self, ahead: float = 0.0) -> str:
        """Return the control plane's time as the API writes it, `ahead` seconds from now."""
        return stamp(time.time() + self.server_skew + ahead)

    def node(self, at: float | None = None) -> str:
        """Return the node's time, now or for a time of this machine."""
        return stamp((time.time() if at is None else at) + self.node_skew)

    def micro(self) -> str:
        """Return the control plane's time in microseconds."""
        now = datetime.fromtimestamp(time.time() + self.server_skew, UTC)
        return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stamp(at: float) -> str:
    """Write a time as the API does: whole seconds, cut off."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> float:
    """Read a time of the API."""
    return datetime.fromisoformat(text).timestamp()


async def pause(seconds: float) -> None:
    """Let a delay of the emulated cluster pass."""
    await asyncio.sleep(max(seconds, 0.0))
