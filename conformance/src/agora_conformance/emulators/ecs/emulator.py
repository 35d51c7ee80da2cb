"""An emulated account of AWS for tests: real ECS API, real processes, no AWS."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from agora_conformance.emulators.ecs.access import Access
from agora_conformance.emulators.ecs.account import ACCOUNT, Account, Secret
from agora_conformance.emulators.ecs.api import Api
from agora_conformance.emulators.ecs.clock import Timing
from agora_conformance.emulators.ecs.control import Control
from agora_conformance.emulators.ecs.errors import Object
from agora_conformance.emulators.ecs.faults import Faults
from agora_conformance.emulators.ecs.queues import Queues
from agora_conformance.emulators.ecs.server import Server
from agora_conformance.emulators.ecs.throttle import Throttle
from agora_conformance.emulators.hosted import Hosted
from agora_conformance.emulators.runner import Image, Images, Runner


class EcsEmulator(Hosted):
    """ECS on Fargate, CloudWatch Logs, Secrets Manager and SQS on one port of the loopback interface, in a thread.

    Use it with `with` or `async with`; every method may be called from any thread. When it closes, every process
    that it has started is gone.

    Parameters:
        timing: how long its parts take; `Timing().scaled(0.2)` is five times as fast, stop timeouts included, and
            `Timing().hurried(0.02)` has fast machinery and real seconds.
        images: what image names stand for, by name or pattern; every other name runs commands on this host.
        missing: patterns of image names that cannot be pulled, beside `missing/...`.
        clusters: names of clusters that are there, beside `default`.
        log_groups: names of log groups that are there.
        secrets: values of secrets, by ARN or whatever a task definition names in `valueFrom`.
        events: name of an SQS queue that gets every state change of a task, as an EventBridge rule sends them.
        throttle: hold to the published token buckets.
        keys: access key ids that are accepted; empty for all.
        policy: IAM policy of whoever asks; None allows everything.
        isolate: give each container a PID namespace of its own where the kernel allows it.
        region: of the account.
        port: to listen on; 0 for any.
    """

    def __init__(
        self,
        *,
        timing: Timing | None = None,
        images: dict[str, Image] | None = None,
        missing: tuple[str, ...] = (),
        clusters: tuple[str, ...] = (),
        log_groups: tuple[str, ...] = (),
        secrets: Mapping[str, str] | None = None,
        events: str = "",
        throttle: bool = True,
        keys: tuple[str, ...] = (),
        policy: Mapping[str, Any] | None = None,
        isolate: bool = True,
        region: str = "eu-central-1",
        port: int = 0,
    ) -> None:
        super().__init__("ecs-emulator", port)
        self._timing = timing or Timing()
        self._images = Images(images, missing=(*Images().missing, *missing))
        self._clusters, self._log_groups, self._secrets = clusters, log_groups, dict(secrets or {})
        self._events = events
        self._throttled, self._isolate = throttle, isolate
        self._access = Access(keys, policy, region)
        self.region = region
        self._account: Account
        self._control: Control
        self.faults: Faults

    # -- life ----------------------------------------------------------------------------------------------------

    def _failures(self) -> Sequence[BaseException]:
        return self._account.failures

    async def _serve(self) -> None:
        self._account = Account(self.region, self._timing, self._images, Runner(isolate=self._isolate))
        self._account.secrets.update({name: Secret(value) for name, value in self._secrets.items()})
        for name in self._clusters:
            self._account.found(name)
        for name in self._log_groups:
            self._account.logs.create(name)
        queues = Queues(self._account, lambda: self.url)
        self.faults = Faults(self._account, queues, self._on_loop)
        if self._events:
            queues.send_events_to(self._events)
        api = Api(self._account, self.faults, queues)
        self._control = Control(self._account, self.faults, api.launcher)
        throttle = Throttle(second=self._timing.second) if self._throttled else None
        server = Server(self._account, api, self._access, self.faults, throttle, self._control)
        async with self._answering(self._listen(), server.app()):
            try:
                await self._until_closed()
            finally:
                tasks = list(self._account.spawned)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._account.runner.close()

    # -- getting there -------------------------------------------------------------------------------------------

    def queue_url(self, name: str) -> str:
        """Return the URL of a queue."""
        return f"{self.url}/{ACCOUNT}/{name}"

    def environment(self) -> dict[str, str]:
        """Return the variables that point the SDKs and the command line of AWS at the emulator."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "AKIAEMULATOR",
            "AWS_SECRET_ACCESS_KEY": "emulator",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    # -- the world outside the API -------------------------------------------------------------------------------

    def processes(self, task: str = "") -> list[int]:
        """Return the live processes of the tasks that an ARN, an id or a startedBy chooses, seen from this host."""
        found: list[int] = self._on_loop(lambda: self._control.processes(task))
        return found

    def terms(self, task: str = "") -> list[float]:
        """Return when SIGTERM was sent to the containers of the chosen tasks, in seconds since the epoch."""
        found: list[float] = self._on_loop(lambda: self._control.terms(task))
        return found

    def history(self, task: str) -> list[Object]:
        """Return how the chosen tasks looked, one after another: what a reader who misses nothing has seen."""
        found: list[Object] = self._on_loop(lambda: self._control.history(task))
        return found

    def populate(self, count: int, request: Object) -> list[str]:
        """Add RUNNING tasks that have no processes, past every limit, and return their ARNs.

        Parameters:
            count: how many.
            request: what a RunTask would have asked for.
        """
        arns: list[str] = self._on_loop(lambda: self._control.populate(count, request))
        return arns

    def interrupt(self, task: str, code: str = "SpotInterruption") -> None:
        """End tasks as AWS does: SpotInterruption, TerminationNotice, or InfrastructureHealth without any SIGTERM."""
        self._on_loop(lambda: self._control.interrupt(task, code))

    def forget(self, task: str = "") -> None:
        """Let tasks that are STOPPED expire from the API now."""
        self._on_loop(lambda: self._control.forget(task))

    def agents_away(self) -> None:
        """Cut the tasks off: they run on, nothing is reported, and stops are accepted but not carried out."""
        self._on_loop(self._control.agents_away)

    def agents_back(self) -> None:
        """End that."""
        self._on_loop(self._control.agents_back)
