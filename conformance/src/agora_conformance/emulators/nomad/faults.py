"""Faults on purpose: what a client has to live with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from agora_conformance.emulators.nomad.errors import ApiError, Object, denied

NO_LEADER = "No cluster leader"


@dataclass(frozen=True)
class Call:
    """A request as the faults see it.

    Parameters:
        operation: what it is for, such as `register`, `deregister`, `job`, `allocation`, `signal`, `logs`, `stream`.
        name: id of the job, allocation, evaluation or node; empty for a list.
        method, path: of HTTP; the path with its query.
    """

    operation: str
    name: str
    method: str
    path: str


class Cut(Exception):
    """The connection is to be cut."""


@dataclass
class Rule:
    """One fault that waits for its requests.

    Parameters:
        kind: `before` or `after` the request is carried out.
        operation, name: patterns of what it is about; empty for all.
        left: how many more requests; None for all until `clear`.
        act: what happens; returns seconds to wait, or raises.
    """

    kind: str
    operation: str
    name: str
    left: int | None
    act: Callable[[], float]

    def fits(self, kind: str, call: Call) -> bool:
        """Whether it is about this request."""
        pairs = ((self.operation, call.operation), (self.name, call.name))
        same = all(not mine or fnmatchcase(theirs, mine) for mine, theirs in pairs)
        return self.kind == kind and same and self.left != 0


class Faults:
    """Faults that a test switches on; every method may be called from any thread.

    `times` counts requests; None means until `clear()`. `operation` and `name` are shell patterns that choose
    requests; without them a fault is about every request.

    Parameters:
        on_loop: runs a function on the emulator's event loop and returns its result.
        leader: seconds that a server without a leader tries before it says so.
    """

    def __init__(self, on_loop: Callable[[Callable[[], Any]], Any], leader: float) -> None:
        self._on_loop, self._leader = on_loop, leader
        self._rules: list[Rule] = []
        self._lost: list[tuple[str, str, list[int]]] = []
        self._hidden: list[str] = []
        self._exits = 0
        self._leaderless = self._silent = False
        self.streams: set[Callable[[], None]] = set()
        self.seen: list[Call] = []

    # -- switches ------------------------------------------------------------------------------------------------

    def throttle(self, times: int | None = 1, *, retry_after: int = 1, **about: str) -> None:
        """Answer 429, as a proxy or a server with `http_max_conns_per_client` does, and do nothing."""

        def act() -> float:
            raise ApiError(429, "Too Many Requests", {"Retry-After": str(retry_after)})

        self._add("before", times, act, **about)

    def fail(
        self, times: int | None = 1, *, code: int = 500, text: str = "rpc error: EOF", after: bool = False, **about: str
    ) -> None:
        """Answer an error instead of carrying the request out, or after it was carried out."""

        def act() -> float:
            raise ApiError(code, text)

        self._add("after" if after else "before", times, act, **about)

    def forbid(self, times: int | None = 1, **about: str) -> None:
        """Answer 403 `Permission denied`, and do nothing."""

        def act() -> float:
            raise denied()

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

    def mend(self, name: str) -> None:
        """End the faults that are about this name pattern, and no others."""
        self._on_loop(lambda: self._rules.__setitem__(slice(None), [one for one in self._rules if one.name != name]))

    def leaderless(self, on: bool = True) -> None:
        """Answer 500 `No cluster leader` to whatever needs one, after a while; `?stale=true` does not."""
        self._switch(_leaderless=on)

    def hide(self, pattern: str = "*") -> None:
        """Have no jobs with these ids, nor anything of theirs, until `show`: 404, and missing in lists and streams."""
        self._on_loop(lambda: self._hidden.append(pattern))

    def show(self) -> None:
        """Have everything again."""
        self._on_loop(self._hidden.clear)

    def lose_events(self, count: int = 1, *, topic: str = "", type: str = "") -> None:
        """Leave out the next events in every stream."""
        self._on_loop(lambda: self._lost.append((topic, type, [count])))

    def silence_streams(self, on: bool = True) -> None:
        """Send nothing on event streams, new ones included, not even heartbeats; they stay open."""
        self._switch(_silent=on)

    def cut_streams(self) -> None:
        """Cut the connection of every event stream."""
        self._on_loop(lambda: [end() for end in list(self.streams)])

    def lose_exit_codes(self, times: int = 1) -> None:
        """Let the next killed tasks of raw_exec end with exit code -1, as about one in eight does in reality."""
        self._switch(_exits=times)

    def clear(self) -> None:
        """End every fault."""

        def act() -> None:
            self._rules.clear()
            self._lost.clear()
            self._hidden.clear()
            self._exits = 0
            self._leaderless = self._silent = False

        self._on_loop(act)

    def requests(self, operation: str = "", name: str = "") -> list[Call]:
        """Return what was asked so far."""

        def find() -> list[Call]:
            rule = Rule("", operation, name, None, lambda: 0.0)
            return [one for one in self.seen if rule.fits("", one)]

        found: list[Call] = self._on_loop(find)
        return found

    def _switch(self, **fields: object) -> None:
        self._on_loop(lambda: self.__dict__.update(fields))

    def _add(
        self, kind: str, times: int | None, act: Callable[[], float], operation: str = "", name: str = ""
    ) -> None:  # fmt: skip
        self._on_loop(lambda: self._rules.append(Rule(kind, operation, name, times, act)))

    # -- what the server asks ------------------------------------------------------------------------------------

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

    async def lead(self, *, stale: bool) -> None:
        """Refuse what needs a leader where there is none.

        Raises:
            ApiError: 500.
        """
        if self._leaderless and not stale:
            await asyncio.sleep(self._leader)
            raise ApiError(500, NO_LEADER)

    @property
    def led(self) -> bool:
        """Whether there is a leader."""
        return not self._leaderless

    def hides(self, job: str) -> bool:
        """Whether a job is to be absent."""
        return any(fnmatchcase(job, one) for one in self._hidden)

    @property
    def silent(self) -> bool:
        """Whether event streams are to say nothing."""
        return self._silent

    def loses(self, event: Object) -> bool:
        """Whether streams leave this event out."""
        for topic, kind, left in self._lost:
            if left[0] > 0 and topic in ("", event["Topic"]) and kind in ("", event["Type"]):
                left[0] -= 1
                return True
        return False

    def lose_exit(self) -> bool:
        """Whether the exit code of the next killed task is to get lost."""
        self._exits -= 1 if (lost := self._exits > 0) else 0
        return lost
