"""The extensions of this process, loaded once, off the event loop."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import anyio.to_thread

from agora.plugins import Listeners, load_extensions

#: Extensions that could not be loaded in time are not told anything for so long, in seconds.
STUCK_SECONDS = 30.0


class Extensions:
    """The installed extensions and the given ones.

    Parameters:
        given: besides the installed ones.
    """

    def __init__(self, given: Sequence[object]) -> None:
        self._given = tuple(given)
        self._lock = threading.Lock()
        self._loading = anyio.Lock()
        self._loaded: tuple[object, ...] | None = None
        self._listeners: Listeners | None = None
        self._stuck_until = 0.0

    def load(self) -> tuple[object, ...]:
        """Return all of them; blocking, since the first call imports them."""
        with self._lock:
            if self._loaded is None:
                self._loaded = (*load_extensions(), *self._given)
            return self._loaded

    async def listeners(self) -> Listeners:
        """Return those that hear events; none while loading them hangs."""
        async with self._loading:
            if self._listeners is None:
                if anyio.current_time() < self._stuck_until:
                    return Listeners()
                self._stuck_until = anyio.current_time() + STUCK_SECONDS
                self._listeners = Listeners(await anyio.to_thread.run_sync(self.load, abandon_on_cancel=True))
            return self._listeners
