"""The last words of a container, heard while it is being stopped.

The engine gives the log of a container that has ended only once it has cleaned up behind it; whoever is attached to
its output has all of it by the end itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from agora.errors import AgoraError
from agora.model.observation import LogChunk

from agora_docker.engine import Engine
from agora_docker.logs import STREAMS, LogReader
from agora_docker.story import KILL, TERM, Story
from agora_docker.streams import Reader, frames, in_background

logger = logging.getLogger(__name__)

#: Seconds by which a stop may be held up for its last words to be heard.
_BEGIN = 0.05
#: Seconds for which they are waited for once the end was told.
_LATE = 0.1
#: Bytes that are read at a time, and pieces of output that are kept: who says more has a log that is read.
_READ, _KEPT = 65_536, 500
#: Lines of what was said before.
_LINES = 200
#: Seconds of silence after which nobody listens any more, as to an engine that hangs: longer than a stop takes.
_SILENT = 10.0


class LastWords:
    """Listens to what one container says while it is stopped: a context manager, within which the stop is sent.

    Nothing is heard where the engine is not on this machine: what lies between could cut the output short, which
    looks like its end.

    Parameters:
        engine: the engine.
        container: its id.
        events: what listens to its events, without which nothing is proven.
    """

    def __init__(self, engine: Engine, container: str, events: Reader[dict[str, Any]] | None) -> None:
        self._reader: Reader[tuple[int, bytes]] | None = None
        if events is not None and engine.is_local:
            params = {"stream": "1", "stdout": "1", "stderr": "1"}
            answer = engine.stream("POST", f"/containers/{container}/attach", params=params, seconds=_SILENT)
            self._reader = Reader(answer, self._frames, _READ)
        self._log = LogReader(engine, container, lambda: False)
        self._before: Future[list[LogChunk]] | None = None
        self._attached = self._dropped = False

    def __enter__(self) -> LastWords:
        if self._reader is not None:
            self._reader.__enter__()
            try:
                self._attached = self._reader.begun(_BEGIN)
            except AgoraError as error:
                logger.debug("the output of a container cannot be listened to: %s", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.__exit__(kind, error, trace)

    def recall(self) -> None:
        """Begin to read what it had said before, once the stop was sent."""
        if self._reader is not None:
            self._before = in_background(lambda: list(self._log.read(False, None, _LINES)), "agora-docker-log")

    def whole(self, story: Story, at: int) -> tuple[LogChunk, ...] | None:
        """Return its last lines, from before the stop to its end; None where they may not be all.

        What it said just before the stop is in them twice, and a line that was under way may lack its beginning.

        Parameters:
            story: everything from its start to its end.
            at: when the stop was sent, in nanoseconds by the engine's clock.
        """
        # The event alone may be that of somebody else's.
        if self._reader is None or self._before is None or not (self._attached and _listened(story, at)):
            return None
        give_up = time.monotonic() + _LATE
        said: list[LogChunk] = []
        try:
            while not self._reader.over:
                frame = self._reader.next(max(0.0, give_up - time.monotonic()))
                if frame is not None:
                    said.append(LogChunk(stream=STREAMS.get(frame[0], "stdout"), data=frame[1]))
                elif time.monotonic() >= give_up:
                    return None
            known = self._before.result(max(0.0, give_up - time.monotonic()))
        except (AgoraError, TimeoutError) as error:
            logger.debug("the last words of a container were not heard: %s", error)
            return None
        return None if self._dropped or self._reader.cut else (*known, *said)

    def _frames(self, pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        for number, frame in enumerate(frames(pieces)):
            # Read on and dropped: what nobody reads would hold the container up.
            if number < _KEPT:
                yield frame
            else:
                self._dropped = True


def _listened(story: Story, at: int) -> bool:
    """Whether the engine tells that somebody was attached before the first signal."""
    attached = next((event for event in story.events if event.action == "attach" and event.at >= at), None)
    signals = story.signals(TERM, KILL)
    return attached is not None and bool(signals) and attached < signals[0]
