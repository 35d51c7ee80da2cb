"""Faults on purpose: what a client has to live with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.errors import ApiError
from agora_conformance.emulators.k8s.store import Change

TOO_MANY = "The request has been throttled: too many requests, please try again later."


@dataclass(frozen=True)
class Call:
    """A request as the faults see it.

    Parameters:
        verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
        resource: plural, with a subresource as `pods/log`.
        name: name of the object; empty for a collection.
        selector: label selector of a list or a watch.
    """

    verb: str
    resource: str
    name: str
    selector: str = ""


class Cut(Exception):
    """The connection is to be cut."""


@dataclass
class Rule:
    """One fault that waits for its requests.

    Parameters:
        kind: `before` or `after` the request is carried out.
        verb, resource, name: what it is about; empty for all.
        left: how many more requests; None for all until `clear`.
        act: what happens; returns seconds to wait, or raises.
        selector: part of the label selector of a list or a watch.
    """

    kind: str
    verb: str
    resource: str
    name: str
    left: int | None
    act: Callable[[], float]
    selector: str = ""

    def fits(self, kind: str, call: Call) -> bool:
        """Whether it is about this request."""
        same = all(not mine or mine == theirs for mine, theirs in (
            (self.verb, call.verb), (self.resource, call.resource), (self.name, call.name)
        ))  # fmt: skip
        return self.kind == kind and same and self.selector in call.selector and self.left != 0


class Faults:
    """Faults that a test switches on; every method may be called from any thread.

    `times` counts requests; None means until `clear()`. `verb`, `resource`, `name` and a part of the label `selector`
    choose requests; without them a fault is about every request.

    Parameters:
        cluster: the cluster that they happen to.
        on_loop: runs a function on the emulator's event loop and returns its result.
    """

    def __init__(self, cluster: Cluster, on_loop: Callable[[Callable[[], Any]], Any]) -> None:
        self._cluster = cluster
        self._on_loop = on_loop
        self._rules: list[Rule] = []
        self._lost: list[tuple[str, str, list[int]]] = []
        self._hidden: list[float] = []
        self.watches: set[Callable[[str], None]] = set()
        self.seen: list[Call] = []

    # -- switches ------------------------------------------------------------------------------------------------

    def throttle(self, times: int | None = 1, *, retry_after: int = 1, **about: str) -> None:
        """Answer 429 with Retry-After in seconds, and do nothing."""

        def act() -> float:
            headers = {"Retry-After": str(retry_after)}
            raise ApiError(429, "TooManyRequests", TOO_MANY, {"retryAfterSeconds": retry_after}, headers)

        self._add("before", times, act, **about)

    def fail(self, times: int | None = 1, *, code: int = 500, **about: str) -> None:
        """Answer a server error, and do nothing."""

        def act() -> float:
            raise ApiError(code, "InternalError", "Internal error occurred: etcdserver: request timed out")

        self._add("before", times, act, **about)

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

    def mend(self, selector: str) -> None:
        """End the faults that are about this part of a label selector, and no others."""
        self._on_loop(
            lambda: self._rules.__setitem__(slice(None), [one for one in self._rules if one.selector != selector])
        )

    def hide_created(self, seconds: float) -> None:
        """Answer 404 for an object, and leave it out of lists, for some time after its creation; 0 ends that."""
        self._on_loop(lambda: self._hidden.__setitem__(slice(None), [seconds] if seconds else []))

    def lose_events(self, count: int = 1, *, resource: str = "", type: str = "") -> None:
        """Leave out the next changes in every watch."""
        self._on_loop(lambda: self._lost.append((resource, type, [count])))

    def expire(self) -> None:
        """Forget the history and end every watch with 410, as an etcd compaction does."""

        def act() -> None:
            self._cluster.store.compact()
            self._end_watches("410")

        self._on_loop(act)

    def cut_watches(self) -> None:
        """Cut the connection of every watch."""
        self._on_loop(lambda: self._end_watches("cut"))

    def skew(self, *, server: float = 0.0, node: float = 0.0) -> None:
        """Put the clocks of the control plane and of the node ahead, in seconds."""

        def act() -> None:
            self._cluster.clock.server_skew, self._cluster.clock.node_skew = server, node

        self._on_loop(act)

    def clear(self) -> None:
        """End every fault."""

        def act() -> None:
            self._rules.clear()
            self._lost.clear()
            self._hidden.clear()
            self._cluster.clock.server_skew = self._cluster.clock.node_skew = 0.0

        self._on_loop(act)

    def requests(self, verb: str = "", resource: str = "") -> list[Call]:
        """Return the requests so far."""
        calls: list[Call] = self._on_loop(lambda: list(self.seen))
        return [one for one in calls if verb in ("", one.verb) and resource in ("", one.resource)]

    def _add(
        self,
        kind: str,
        times: int | None,
        act: Callable[[], float],
        *,
        verb: str = "",
        resource: str = "",
        name: str = "",
        selector: str = "",
    ) -> None:
        self._on_loop(lambda: self._rules.append(Rule(kind, verb, resource, name, times, act, selector)))

    def _end_watches(self, how: str) -> None:
        for end in list(self.watches):
            end(how)

    # -- what the server asks ------------------------------------------------------------------------------------

    async def apply(self, kind: str, call: Call) -> None:
        """Let the faults of a request happen.

        Raises:
            ApiError: what is to be answered.
            Cut: the connection is to be cut.
        """
        for rule in self._rules:
            if rule.fits(kind, call):
                if rule.left is not None:
                    rule.left -= 1
                await asyncio.sleep(rule.act())

    def hides(self, created: float) -> bool:
        """Whether an object of this age, created at a time of this machine, is to be hidden."""
        return bool(self._hidden) and time.time() < created + self._hidden[0]

    def loses(self, change: Change) -> bool:
        """Whether a watch leaves this change out."""
        for resource, kind, left in self._lost:
            if left[0] > 0 and resource in ("", change.resource.plural) and kind in ("", change.type):
                left[0] -= 1
                return True
        return False
