"""Whether the servers are there, or frozen."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Gate:
    """Open while the servers are there."""

    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        """Wait until the servers are there."""
        await self._open.wait()

    @property
    def closed(self) -> bool:
        """Whether the servers are away."""
        return not self._open.is_set()

    def set(self, there: bool) -> None:
        """Open or close it."""
        if there:
            self._open.set()
        else:
            self._open.clear()
