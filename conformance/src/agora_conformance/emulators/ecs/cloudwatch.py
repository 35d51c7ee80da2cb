"""Log groups, log streams and their events."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from agora_conformance.emulators.ecs.clock import Clock, Timing
from agora_conformance.emulators.ecs.errors import ApiError

NO_GROUP = "The specified log group does not exist."
NO_STREAM = "The specified log stream does not exist."


@dataclass(frozen=True)
class Event:
    """One log event.

    Parameters:
        at, ingested: milliseconds since the epoch, by the service's clock.
        visible: when it can be read first, by the monotonic clock.
        message: what was written.
        number: its place in the stream.
    """

    at: int
    ingested: int
    visible: float
    message: str
    number: int


@dataclass
class Stream:
    """One log stream.

    Parameters:
        name, arn: of it.
        created: milliseconds since the epoch.
        events: in the order of their arrival.
    """

    name: str
    arn: str
    created: int
    events: list[Event] = field(default_factory=list)

    def readable(self) -> list[Event]:
        """Return what can be read by now; events become readable in their order."""
        return self.events[: bisect_left(self.events, time.monotonic(), key=lambda event: event.visible)]


@dataclass
class Group:
    """One log group.

    Parameters:
        name, arn: of it.
        created: milliseconds since the epoch.
        streams: by name.
        retention: days; None for ever.
    """

    name: str
    arn: str
    created: int
    streams: dict[str, Stream] = field(default_factory=dict)
    retention: int | None = None


class LogGroups:
    """The log groups of the account.

    Parameters:
        clock: the service's.
        timing: how long an event needs until it can be read.
        arn: makes resource names from a service and the rest.
    """

    def __init__(self, clock: Clock, timing: Timing, arn: Callable[[str, str], str]) -> None:
        self._clock, self._timing, self._arn = clock, timing, arn
        self.groups: dict[str, Group] = {}
        self.lag: float | None = None

    def _now(self) -> int:
        return int(self._clock.now() * 1000)

    def create(self, name: str) -> Group:
        """Create a group.

        Raises:
            ApiError: there is one of this name.
        """
        if name in self.groups:
            raise ApiError("ResourceAlreadyExistsException", "The specified log group already exists")
        group = Group(name, self._arn("logs", f"log-group:{name}"), self._now())
        self.groups[name] = group
        return group

    def group(self, name: str) -> Group:
        """Return a group.

        Raises:
            ApiError: there is none.
        """
        if name not in self.groups:
            raise ApiError("ResourceNotFoundException", NO_GROUP)
        return self.groups[name]

    def stream(self, group: str, name: str) -> Stream:
        """Return a stream.

        Raises:
            ApiError: there is none.
        """
        found = self.group(group).streams.get(name)
        if found is None:
            raise ApiError("ResourceNotFoundException", NO_STREAM)
        return found

    def create_stream(self, group: str, name: str) -> Stream:
        """Create a stream.

        Raises:
            ApiError: there is one of this name, or no such group.
        """
        home = self.group(group)
        if name in home.streams:
            raise ApiError("ResourceAlreadyExistsException", "The specified log stream already exists")
        home.streams[name] = Stream(name, f"{home.arn}:log-stream:{name}", self._now())
        return home.streams[name]

    def write(self, stream: Stream, at: float, data: bytes) -> None:
        """Add an event; an empty line makes none.

        Parameters:
            stream: where to.
            at: time of this machine.
            data: one line.
        """
        text = data.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            return
        delay = self._timing.ingest if self.lag is None else self.lag
        # An event never becomes readable before the one that came earlier.
        visible = max(time.monotonic() + delay, stream.events[-1].visible if stream.events else 0.0)
        told = int(self._clock.now(at) * 1000)
        ingested = int((self._clock.now() + delay) * 1000)
        stream.events.append(Event(told, ingested, visible, text, len(stream.events)))

    def forget(self, stream: Stream, since: float) -> None:
        """Drop what was written after a time of this machine: it was still in the container's buffer."""
        limit = int(self._clock.now(since) * 1000)
        stream.events[:] = [event for event in stream.events if event.at < limit]
