"""Reading the log files of a dispatch: from the beginning, the last lines, or along with the workload."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from agora.model.observation import LogChunk

from agora_local.pump import FRAME, HEAD, MAGIC, file_name
from agora_local.story import moment
from agora_local.watch import Inotify

_BLOCK_BYTES = 1024 * 1024
_STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}
#: Seconds between two signs of life to somebody who follows.
_TICK = 1.0


class Frame(NamedTuple):
    """One piece of output; `dropped` bytes are missing before it."""

    at: float
    stream: int
    data: bytes
    dropped: int

    def chunk(self) -> LogChunk:
        """Return it as the contract's chunk."""
        return LogChunk(stream=_STREAMS[self.stream], data=self.data, at=moment(self.at), dropped=self.dropped)


class Reader:
    """Reads on where it stopped, over all files of one log.

    Parameters:
        directory: the dispatch's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1
        self._number = -1
        self._offset = 0
        self._position = 0

    def close(self) -> None:
        """Let go of the open file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def numbers(self) -> list[int]:
        """Return the numbers of the files that are there, in order."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted(int(name[4:]) for name in names if name.startswith("log.") and name[4:].isdecimal())

    def frames(self) -> Iterator[Frame]:
        """Yield what there is now beyond what was read before; what is written meanwhile waits for the next call."""
        last, size = self._end()
        while True:
            following = next((number for number in self.numbers() if number > self._number), None)
            yield from self._rest_of_file(size if self._number == last else None)
            if following is None or following > last or not self._open(following):
                return

    def _end(self) -> tuple[int, int]:
        """Return the number and the size of the file that is written now."""
        for number in reversed(self.numbers()):
            with suppress(FileNotFoundError):
                return number, (self._directory / file_name(number)).stat().st_size
        return -1, 0

    def _open(self, number: int) -> bool:
        try:
            descriptor = os.open(self._directory / file_name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # the oldest file, dropped just now
            self._number = number
            return True
        head = os.pread(descriptor, HEAD.size, 0)
        if len(head) < HEAD.size:  # just being made
            os.close(descriptor)
            return False
        magic, before = HEAD.unpack(head)
        if magic != MAGIC:
            os.close(descriptor)
            raise ValueError(f"{self._directory / file_name(number)} is no log file")
        self.close()
        self._descriptor, self._number, self._offset, self._before = descriptor, number, HEAD.size, before
        return True

    def _rest_of_file(self, size: int | None) -> Iterator[Frame]:
        if self._descriptor < 0:
            return
        rest = b""
        while size is None or self._offset + len(rest) < size:
            block = os.pread(self._descriptor, _BLOCK_BYTES, self._offset + len(rest))
            if not block:
                return
            rest += block
            used = 0
            while len(rest) - used >= FRAME.size:
                nanoseconds, dropped, stream, length = FRAME.unpack_from(rest, used)
                end = used + FRAME.size + length
                if end > len(rest):
                    break
                # Bytes of files that are gone are missing before the first frame of this one.
                missing = max(self._before - self._position, 0) + dropped
                self._position += missing + length
                self._before = 0
                yield Frame(nanoseconds / 1e9, stream, rest[used + FRAME.size : end], missing)
                used = end
                self._offset += FRAME.size + length
            rest = rest[used:]


def last_lines(frames: Iterator[Frame], count: int) -> deque[Frame]:
    """Return the frames that hold the last `count` lines, the first one cut at the beginning of a line."""
    kept: deque[Frame] = deque()
    breaks = 0
    for frame in frames:
        kept.append(frame)
        breaks += frame.data.count(b"\n")
        while len(kept) > 1 and breaks - kept[0].data.count(b"\n") > count:
            breaks -= kept.popleft().data.count(b"\n")
    unfinished = bool(kept) and not kept[-1].data.endswith(b"\n")
    surplus = breaks + unfinished - count
    while kept and surplus > 0:
        frame = kept.popleft()
        here = frame.data.count(b"\n")
        if here >= surplus:
            data = frame.data.split(b"\n", surplus)[surplus]
            if data:
                kept.appendleft(frame._replace(data=data, dropped=0))
            break
        surplus -= here
    return kept


def read(
    directory: Path,
    ended: Callable[[], bool],
    *,
    follow: bool = False,
    since: datetime | None = None,
    tail: int | None = None,
) -> Iterator[LogChunk]:
    """Yield the output of a dispatch.

    Parameters:
        directory: the dispatch's directory.
        ended: whether no more output will come.
        follow: go on until then, with an empty chunk at least once a second.
        since: leave out what came before.
        tail: only so many lines of what is there now.
    """
    reader = Reader(directory)
    watcher = Inotify(directory, Inotify.MODIFY | Inotify.CREATE) if follow and directory.is_dir() else None
    try:
        over = not follow or ended()
        frames: Iterator[Frame] = reader.frames()
        if tail is not None:
            frames = iter(last_lines(frames, tail) if tail > 0 else [])
        yield from _chunks(frames, since)
        while not over:
            if watcher is None or not watcher.wait(_TICK):
                yield LogChunk(stream="stdout", data=b"")
            over = ended()
            yield from _chunks(reader.frames(), since)
    finally:
        reader.close()
        if watcher is not None:
            watcher.close()


def _chunks(frames: Iterator[Frame], since: datetime | None) -> Iterator[LogChunk]:
    chunks = (frame.chunk() for frame in frames)
    return (chunk for chunk in chunks if since is None or chunk.at is None or chunk.at >= since)
