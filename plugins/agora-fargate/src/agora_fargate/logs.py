"""The output of a workload, from CloudWatch Logs, where it comes a little after it was written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agora.errors import ProviderError, Unreachable
from agora.model.observation import LogChunk

from agora_fargate.api import Api, Refusal
from agora_fargate.names import Item

#: Contract 8: with `follow` an empty chunk comes so often, in seconds.
TICK = 1.0
#: Seconds between two looks whether a followed workload is over.
_LOOK = 3.0
_CHUNK = 32_768
#: "The maximum number of log events returned" is 10,000 (botocore's model of CloudWatch Logs, GetLogEvents).
_PAGE = 10_000


@dataclass(frozen=True)
class Page:
    """One answer.

    Parameters:
        events: oldest first.
        forward, backward: tokens; null where there is no stream yet.
    """

    events: list[Item]
    forward: str | None = None
    backward: str | None = None


@dataclass(frozen=True)
class Stream:
    """The log of one task.

    Parameters:
        api: its region.
        group, name: of the log stream.
        since: only what is later.
    """

    api: Api
    group: str
    name: str
    since: datetime | None = None

    def page(self, **how: Any) -> Page:
        """Return one page; an empty one where nothing was ever written."""
        if self.since is not None:
            how["startTime"] = max(0, int(self.since.timestamp() * 1000) + 1)
        try:
            answer = self.api.call("GetLogEvents", logGroupName=self.group, logStreamName=self.name, **how)
        except Refusal as error:
            if error.code == "ResourceNotFoundException":
                return Page([])
            raise
        return Page(answer.get("events") or [], answer.get("nextForwardToken"), answer.get("nextBackwardToken"))

    def forward(self, token: str | None) -> Iterator[Page]:
        """Yield pages from a token, or from the beginning, to the newest; the end is the token that was sent."""
        while True:
            page = self.page(startFromHead=True, **({} if token is None else {"nextToken": token}))
            if page.events:
                yield page
            if page.forward in (None, token):
                return
            token = page.forward
            if not page.events:
                yield page

    def tail(self, count: int) -> Page:
        """Return the last events, at most `count`, and the token that goes on after them."""
        found: list[Item] = []
        token, newest = None, None
        while len(found) < count:
            how: dict[str, Any] = {} if token is None else {"nextToken": token}
            page = self.page(startFromHead=False, limit=min(_PAGE, count - len(found)), **how)
            newest = newest or page.forward
            found = page.events + found
            if page.backward in (None, token):
                break
            token = page.backward
        return Page(found, newest)


def read(stream: Stream, tail: int | None) -> Iterator[LogChunk]:
    """Yield the output so far."""
    if tail is not None:
        yield from _chunks(stream.tail(tail).events if tail else [])
        return
    for page in stream.forward(None):
        yield from _chunks(page.events)


def wait(over_since: float | None, lag: float) -> None:
    """Wait until the last lines can have arrived.

    Parameters:
        over_since: when the end was seen, by `time.monotonic`; null where it was not.
        lag: seconds that they need.
    """
    if over_since is not None:
        time.sleep(max(0.0, over_since + lag - time.monotonic()))


def follow(stream: Stream, tail: int | None, lag: float, over: Callable[[], bool]) -> Iterator[LogChunk]:
    """Yield the output to the end, with an empty chunk every second in which there is none.

    Parameters:
        lag: seconds for which lines may come after the end.
        over: says whether the workload has ended; may raise `Unreachable`.
    """
    token: str | None = None
    if tail is not None:
        first = stream.tail(tail)
        token = first.forward
        yield from _chunks(first.events)
    look_at, leave_at = time.monotonic(), None
    while True:
        began, heard = time.monotonic(), False
        if leave_at is None and began >= look_at:
            look_at = began + _LOOK
            with suppress(Unreachable):
                leave_at = began + lag if over() else None
        last = leave_at is not None and began >= leave_at
        with suppress(Unreachable):
            for page in stream.forward(token):
                token = page.forward or token
                heard = heard or bool(page.events)
                yield from _chunks(page.events)
        if last:
            return
        if not heard:
            yield LogChunk(stream="stdout", data=b"")
        time.sleep(max(0.0, TICK - (time.monotonic() - began)))


def remove(api: Api, group: str, name: str) -> None:
    """Delete a log stream; harmless where there is none."""
    try:
        api.call("DeleteLogStream", logGroupName=group, logStreamName=name)
    except Refusal as error:
        if error.code != "ResourceNotFoundException":
            raise ProviderError(f"the log stream {name} stays: {error}") from error


def _chunks(events: list[Item]) -> Iterator[LogChunk]:
    """Join lines to chunks of a fair size; both streams of a workload arrive as one, each line without its end."""
    pieces: list[bytes] = []
    size, at = 0, None
    for event in events:
        pieces.append(str(event.get("message", "")).encode() + b"\n")
        size, at = size + len(pieces[-1]), event.get("timestamp")
        if size >= _CHUNK:
            yield _chunk(pieces, at)
            pieces, size = [], 0
    if pieces:
        yield _chunk(pieces, at)


def _chunk(pieces: list[bytes], at: int | None) -> LogChunk:
    moment = None if at is None else datetime.fromtimestamp(at / 1000, UTC)
    return LogChunk(stream="stdout", data=b"".join(pieces), at=moment)
