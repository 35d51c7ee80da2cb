"""What a task has written, a file a stream, which can be read while it grows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from agora_conformance.emulators.runner import Container

STREAMS = ("stdout", "stderr")


@dataclass
class Output:
    """The log files of a task; they outlive its processes.

    Parameters:
        lag: seconds by which the files are behind.
    """

    lag: float = 0.0
    data: dict[str, bytearray] = field(default_factory=lambda: {name: bytearray() for name in STREAMS})

    def __post_init__(self) -> None:
        self._news = asyncio.Event()

    @property
    def news(self) -> asyncio.Event:
        """Is set at the next line; take it before looking."""
        return self._news

    async def collect(self, container: Container) -> None:
        """Take over what a container writes until it is over."""
        first = container.log.lines()
        for line in first:
            self.data[line.stream] += line.data
        self._wake()
        async for line in container.log.follow(first):
            if self.lag:
                await asyncio.sleep(self.lag)
            self.data[line.stream] += line.data
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
