"""Reading a container's output: from the engine's log, over cut connections, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal

from agora.errors import Unreachable
from agora.model.observation import LogChunk

from agora_docker import times
from agora_docker.engine import Engine
from agora_docker.streams import Reader, frames

STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}
#: Seconds between two signs of life to somebody who follows.
_TICK = 1.0
#: So many lines come in one answer, without a connection of their own: the engine splits lines at 16 KiB.
_AT_ONCE = 256
#: Seconds for which a follower bears an engine that does not answer.
_PATIENCE = 60.0


class LogReader:
    """Reads the output of one container.

    Parameters:
        engine: the engine.
        container: its id.
        ended: whether it has ended.
    """

    def __init__(self, engine: Engine, container: str, ended: Callable[[], bool]) -> None:
        self._engine = engine
        self._path = f"/containers/{container}/logs"
        self._ended = ended
        self._last = ""
        self._same = 0

    def read(self, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Yield the output; see the hook."""
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
        if since is not None:
            params["since"] = times.query(since.timestamp())
        params["tail"] = "all" if tail is None else str(tail)
        if not follow and tail is not None and tail <= _AT_ONCE:
            content = self._engine.request("GET", self._path, params=params).content
            yield from (_chunk(*_stamped(frame)) for frame in frames([content]))
            return
        away: float | None = None
        while True:
            try:
                # Asked first: what it wrote before its end is then in the log that is read after.
                over = not follow or self._ended()
                yield from self._connection(params, follow)
                away = None
            except Unreachable:
                if not follow:
                    raise
                away = time.monotonic() if away is None else away
                if time.monotonic() - away > _PATIENCE:
                    raise
                over = False
            if over:
                return
            yield LogChunk(stream="stdout", data=b"")
            if away is not None:
                time.sleep(_TICK)
            params = self._onward(params)

    def _onward(self, params: dict[str, str]) -> dict[str, str]:
        """Return the parameters to go on after a cut: from the time of the last piece, which is read again."""
        stamp = times.parse(self._last) if self._last else None
        if stamp is None:
            return params
        return {**params, "since": times.query(stamp.timestamp() - 0.001), "tail": "all"}

    def _connection(self, params: dict[str, str], follow: bool) -> Iterator[LogChunk]:
        known, skip = self._last, self._same
        with Reader(self._engine.stream("GET", self._path, params=params), frames) as reader:
            while not reader.over:
                frame = reader.next(_TICK)
                if frame is None:
                    if follow:
                        yield LogChunk(stream="stdout", data=b"")
                    continue
                stream, at, data = _stamped(frame)
                if known and (at < known or (at == known and skip > 0)):
                    skip -= at == known
                    continue
                self._same = self._same + 1 if at == self._last else 1
                self._last = at
                yield _chunk(stream, at, data)


def _stamped(frame: tuple[int, bytes]) -> tuple[int, str, bytes]:
    """Split a piece of output with its time into stream, time and output."""
    stream, line = frame
    stamp, _, data = line.partition(b" ")
    return stream, stamp.decode("ascii", "replace"), data


def _chunk(stream: int, at: str, data: bytes) -> LogChunk:
    return LogChunk(stream=STREAMS.get(stream, "stdout"), data=data, at=times.parse(at))
