"""Wake-ups: who waits for the store hears of commits of this process at once, and of others' soon after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

#: How often other processes' commits are looked for (a read of one integer), in seconds.
LOOK_EVERY = 0.05


class Ear:
    """One listener; hears every change since it began to listen, or since `wait` last returned."""

    def __init__(self, data_version: Callable[[], Awaitable[int]]) -> None:
        self._data_version = data_version
        self._seen = -1
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()

    async def attend(self) -> None:
        """Count changes from here on."""
        self._seen = await self._data_version()
        self.event.clear()

    async def wait(self, seconds: float) -> bool:
        """Return true after a change, false when `seconds` have passed without one."""
        until = self.loop.time() + seconds
        while True:
            version = await self._data_version()
            if self.event.is_set() or version != self._seen:
                self._seen = version
                self.event.clear()
                return True
            left = until - self.loop.time()
            if left <= 0:
                return False
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the event.
                async with asyncio.timeout(min(left, LOOK_EVERY)):
                    await self.event.wait()
            except TimeoutError:
                continue


class Pulse:
    """Counts changes of the store.

    Parameters:
        data_version: reads SQLite's `PRAGMA data_version`, which changes with other connections' commits.
    """

    def __init__(self, data_version: Callable[[], Awaitable[int]]) -> None:
        self._data_version = data_version
        self._ears: set[Ear] = set()

    def beat(self) -> None:
        """Wake everybody who listens; called from the store's thread after a commit."""
        for ear in list(self._ears):
            with suppress(RuntimeError):  # its event loop is closed, so nobody listens there
                ear.loop.call_soon_threadsafe(ear.event.set)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Ear]:
        """Listen; read the store after this, so that no change falls between."""
        ear = Ear(self._data_version)
        self._ears.add(ear)
        try:
            await ear.attend()
            yield ear
        finally:
            self._ears.discard(ear)
