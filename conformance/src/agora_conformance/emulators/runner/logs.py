"""What a container has written, line by line, with times."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

#: Bytes that are kept of one container; the kubelet's containerLogMaxSize has the same default.
LOG_LIMIT = 10 * 2**20
#: containerd splits longer lines (max_container_log_line_size).
LINE_LIMIT = 16 * 1024


@dataclass(frozen=True)
class Line:
    """One line of output.

    Parameters:
        at: seconds since the epoch.
        stream: `stdout` or `stderr`.
        data: the bytes, with their line end if they had one.
    """

    at: float
    stream: str
    data: bytes


class Log:
    """The output of one container; read it while it grows.

    Parameters:
        limit: bytes kept; the oldest lines go first.
    """

    def __init__(self, limit: int = LOG_LIMIT) -> None:
        self._lines: deque[Line] = deque()
        self._first = 0
        self._size = 0
        self._limit = limit
        self._news = asyncio.Event()
        self.closed = False

    def append(self, line: Line) -> None:
        """Add a line."""
        self._lines.append(line)
        self._size += len(line.data)
        while self._size > self._limit and len(self._lines) > 1:
            self._size -= len(self._lines.popleft().data)
            self._first += 1
        self._wake()

    def close(self) -> None:
        """Say that nothing more will come."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def lines(self) -> list[Line]:
        """Return what is there now."""
        return list(self._lines)

    async def follow(self, lines: list[Line]) -> AsyncIterator[Line]:
        """Yield what comes after `lines`, the last answer of `lines()`, until the container is over."""
        seen = self._first + len(self._lines)
        if lines and self._lines and lines[-1] is not self._lines[-1]:
            raise ValueError("follow() belongs directly after lines()")
        while True:
            news = self._news
            while seen < self._first + len(self._lines):
                seen = max(seen, self._first)
                yield self._lines[seen - self._first]
                seen += 1
            if self.closed:
                return
            await news.wait()
