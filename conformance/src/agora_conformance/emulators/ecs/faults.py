"""Faults on purpose: what a client has to live with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agora_conformance.emulators.ecs.account import Account
from agora_conformance.emulators.ecs.errors import ApiError, Object, client, invalid
from agora_conformance.emulators.ecs.queues import Queues
from agora_conformance.emulators.ecs.task import Task

CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"
BUSY = "Tasks provisioning capacity limit exceeded."
NETWORK = "Error retrieving subnet information for [subnet-1]: Rate exceeded (ErrorCode: Throttling)"
NO_INTERFACE = "Timeout waiting for network interface provisioning to complete."
EXPIRED = "The security token included in the request is expired"


@dataclass(frozen=True)
class Call:
    """A request as the faults see it.

    Parameters:
        service: `ecs`, `logs` or `secretsmanager`.
        action: such as `RunTask`.
        body: the whole request.
        at: when it came, in seconds since the epoch.
        agent: the client's User-Agent.
    """

    service: str
    action: str
    body: Object
    at: float
    agent: str = ""


class Cut(Exception):
    """The connection is to be cut."""


@dataclass
class Rule:
    """One fault that waits for its requests.

    Parameters:
        kind: `before` or `after` the request is carried out.
        service, action: what it is about; empty for all.
        text: part of the request's body, such as a task's id, or of its User-Agent; empty for all.
        left: how many more requests; None for all until `clear`.
        act: what happens; returns seconds to wait, or raises.
    """

    kind: str
    service: str
    action: str
    text: str
    left: int | None
    act: Callable[[], float]

    def fits(self, kind: str, call: Call) -> bool:
        """Whether it is about this request."""
        same = self.service in ("", call.service) and self.action in ("", call.action)
        return self.kind == kind and same and self.left != 0 and self.text in f"{call.agent} {call.body}"


class Faults:
    """Faults that a test switches on; every method may be called from any thread.

    `times` counts requests; None means until `clear()`. `service`, `action` and a `text` that the request contains
    choose requests; without them a fault is about every request.

    Parameters:
        account: the account that they happen to.
        queues: where events arrive.
        on_loop: runs a function on the emulator's event loop and returns its result.
    """

    def __init__(self, account: Account, queues: Queues, on_loop: Callable[[Callable[[], Any]], Any]) -> None:
        self._account, self._queues = account, queues
        self._on_loop = on_loop
        self._rules: list[Rule] = []
        self._launches: list[ApiError] = []
        self._placements: list[str] = []
        self._hidden = 0.0
        self._hidden_from_stop = False
        self._lag = 0.0
        self.calls: list[Call] = []

    # -- switches ------------------------------------------------------------------------------------------------

    def throttle(self, times: int | None = 1, **about: str) -> None:
        """Answer ThrottlingException, and do nothing."""
        self._raise(ApiError("ThrottlingException", "Rate exceeded"), times, about)

    def fail(self, times: int | None = 1, *, code: int = 500, **about: str) -> None:
        """Answer a server error, and do nothing."""
        kind = "ServiceUnavailableException" if code == 503 else "ServerException"
        self._raise(ApiError(kind, "Service Unavailable. Please try again later.", code), times, about)

    def deny(self, times: int | None = 1, **about: str) -> None:
        """Answer AccessDeniedException, and do nothing."""
        action = f"{about.get('service', 'ecs')}:{about.get('action', '*')}"
        text = f"User: arn:aws:iam::123456789012:user/emulator is not authorized to perform: {action} on resource: *"
        self._raise(ApiError("AccessDeniedException", text), times, about)

    def expire_credentials(self, times: int | None = 1, **about: str) -> None:
        """Answer ExpiredTokenException, and do nothing."""
        self._raise(ApiError("ExpiredTokenException", EXPIRED), times, about)

    def slow(self, seconds: float, times: int | None = 1, **about: str) -> None:
        """Answer late; the request is carried out at once."""
        self._add("after", times, lambda: seconds, **about)

    def stall(self, seconds: float, times: int | None = 1, **about: str) -> None:
        """Carry the request out late."""
        self._add("before", times, lambda: seconds, **about)

    def cut(self, times: int | None = 1, *, after: bool = False, **about: str) -> None:
        """Cut the connection before the request is carried out, or after it and before the answer."""

        def act() -> float:
            raise Cut

        self._add("after" if after else "before", times, act, **about)

    def throttle_network(self, times: int = 1) -> None:
        """Refuse RunTask as ECS does when EC2 throttles it: InvalidParameterException."""
        self._on_loop(lambda: self._launches.extend([invalid(NETWORK)] * times))

    def throttle_provisioning(self, times: int = 1) -> None:
        """Refuse RunTask because too many tasks are in PROVISIONING: ClientException."""
        self._on_loop(lambda: self._launches.extend([client(BUSY)] * times))

    def fail_placement(self, times: int = 1, *, reason: str = CAPACITY) -> None:
        """Answer RunTask with 200, no task and a failure."""
        self._on_loop(lambda: self._placements.extend([reason] * times))

    def fail_start(self, times: int = 1, *, reason: str = NO_INTERFACE, code: str = "TaskFailedToStart") -> None:
        """Let the next tasks end after PROVISIONING."""
        self._on_loop(lambda: self._account.start_failures.extend([(code, reason)] * times))

    def hide_created(self, seconds: float, *, stop: bool = False) -> None:
        """Let reads, and StopTask with `stop`, not know a task for some time after RunTask; 0 ends that."""
        self._on_loop(lambda: self.__dict__.update(_hidden=seconds, _hidden_from_stop=stop))

    def lag(self, seconds: float) -> None:
        """Let reads tell how the tasks were so many seconds ago; 0 ends that."""
        self._on_loop(lambda: self.__dict__.update(_lag=seconds))

    def lag_logs(self, seconds: float | None) -> None:
        """Let every new line of output take so many seconds to CloudWatch Logs; None ends that."""
        self._on_loop(lambda: setattr(self._account.logs, "lag", seconds))

    def lose_events(self, count: int = 1) -> None:
        """Let the next state changes reach no queue."""
        self._on_loop(lambda: setattr(self._queues, "lost", self._queues.lost + count))

    def repeat_events(self, count: int = 1) -> None:
        """Let the next state changes reach the queue twice."""
        self._on_loop(lambda: setattr(self._queues, "repeated", self._queues.repeated + count))

    def delay_events(self, seconds: float, count: int = 1) -> None:
        """Let the next state changes reach the queue late, after those that come later."""
        self._on_loop(lambda: self._queues.delays.extend([seconds] * count))

    def skew(self, seconds: float) -> None:
        """Put the service's clock ahead."""
        self._on_loop(lambda: setattr(self._account.clock, "skew", seconds))

    def clear(self) -> None:
        """End every fault."""

        def act() -> None:
            queues, failures = self._queues, self._account.start_failures
            for pending in (self._rules, self._launches, self._placements, failures, queues.delays):
                pending.clear()
            queues.lost = queues.repeated = 0
            self._hidden = self._lag = self._account.clock.skew = 0.0
            self._account.logs.lag = None

        self._on_loop(act)

    def mend(self, text: str) -> None:
        """End the faults that choose requests by exactly this text."""
        self._on_loop(lambda: self._rules.__setitem__(slice(None), [one for one in self._rules if one.text != text]))

    def requests(self, action: str = "", text: str = "") -> list[Call]:
        """Return the requests so far, also those that were refused."""
        calls: list[Call] = self._on_loop(lambda: list(self.calls))
        return [one for one in calls if action in ("", one.action) and text in str(one.body)]

    def _raise(self, error: ApiError, times: int | None, about: dict[str, str]) -> None:
        def act() -> float:
            raise error

        self._add("before", times, act, **about)

    def _add(
        self, kind: str, times: int | None, act: Callable[[], float], *, service: str = "", action: str = "",
        text: str = "",
    ) -> None:  # fmt: skip
        self._on_loop(lambda: self._rules.append(Rule(kind, service, action, text, times, act)))

    # -- what the APIs ask ---------------------------------------------------------------------------------------

    async def apply(self, kind: str, call: Call) -> None:
        """Let the faults of a request happen.

        Raises:
            ApiError: what is to be answered.
            Cut: the connection is to be cut.
        """
        for rule in list(self._rules):
            if rule.fits(kind, call):
                if rule.left is not None:
                    rule.left -= 1
                await asyncio.sleep(rule.act())

    def at_launch(self) -> None:
        """Refuse a RunTask that is otherwise in order, where that is wanted.

        Raises:
            ApiError: the refusal.
        """
        if self._launches:
            raise self._launches.pop(0)

    def placement(self) -> str | None:
        """Return why a task cannot be placed; None where it can."""
        return self._placements.pop(0) if self._placements else None

    def seen_of(self, task: Task) -> Object | None:
        """Return what reads know of a task; None for nothing."""
        created = task.history[0][0]
        return None if time.monotonic() < created + self._hidden else task.as_of(self._lag)

    def hides_from_stop(self, task: Task) -> bool:
        """Whether StopTask does not know a task yet."""
        return self._hidden_from_stop and self.seen_of(task) is None
