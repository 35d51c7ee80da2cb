"""One watch per target, however many dispatches: push where the provider can, one batched poll where it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

import anyio
import anyio.abc
import anyio.to_thread

from agora.config import TargetConfig
from agora.engine.core import Core
from agora.engine.look import Looker
from agora.engine.targets import Target
from agora.errors import AgoraError
from agora.model.observation import SECOND_COPY, Handle, Observation
from agora.model.record import Entry

logger = logging.getLogger(__name__)

#: Everything is looked at so often even while a watch stands, in seconds: streams are hints.
BACKSTOP = 30.0
#: Pause before a broken watch is set up again: the first, and the longest, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class TargetWatch:
    """Keeps an eye on one target's live dispatches until it is stopped.

    Parameters:
        core: the common ground.
        looker: writes down what is seen.
        config: the target.
        defer: seconds to wait before writing down what was pushed, so that a waiting client goes first.
    """

    def __init__(self, core: Core, looker: Looker, config: TargetConfig, defer: float) -> None:
        self._core = core
        self._looker = looker
        self._config = config
        self._defer = defer
        self._entries: dict[str, Entry] = {}
        self._fresh: set[str] = set()
        self._wake = asyncio.Event()
        self._scope = anyio.CancelScope()

    def update(self, entries: dict[str, Entry]) -> None:
        """Set what is looked after; what is new is looked at once, since its end may have been pushed before."""
        self._fresh |= entries.keys() - self._entries.keys()
        self._entries = entries
        if self._fresh:
            self._wake.set()

    def stop(self) -> None:
        """Stop watching."""
        self._scope.cancel()

    async def run(self) -> None:
        """Watch until stopped."""
        with self._scope:
            target = await self._target()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._look_at_fresh)
                if target.implements("watch"):
                    tasks.start_soon(self._repeat, BACKSTOP)
                    await self._watch(target, tasks)
                else:
                    await self._repeat(target.limits.poll_interval)

    async def _target(self) -> Target:
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._core.targets.get(self._config)
            except AgoraError as error:
                await self._looker.failed(list(self._entries.values()), error)
            await anyio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _repeat(self, seconds: float) -> None:
        pause = seconds
        while True:
            await anyio.sleep(pause)
            away = await self._looker.look(list(self._entries.values()))
            pause = min(max(LONGEST_PAUSE, seconds), pause * 2) if away else seconds

    async def _look_at_fresh(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            fresh, self._fresh = self._fresh, set()
            await self._looker.look([self._entries[id] for id in fresh if id in self._entries])

    async def _watch(self, target: Target, tasks: anyio.abc.TaskGroup) -> None:
        pause = FIRST_PAUSE
        while True:
            sink = _Sink(self, target, tasks)
            try:
                call = partial(target.hooks.call, "watch", sink=sink)
                await anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True)
            except Exception as error:  # noqa: BLE001 - any failure of a stream is healed the same way
                logger.info("target %s: the watch broke and is set up again: %s", target.name, error)
            finally:
                sink.close()
            if sink.stood:
                pause = FIRST_PAUSE
            await self._poll_for(pause, target.limits.poll_interval)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _poll_for(self, seconds: float, interval: float) -> None:
        """Look while no stream stands, as often as where there is none; rarely where nobody answers."""
        until = asyncio.get_running_loop().time() + seconds
        while True:
            away = await self._looker.look(list(self._entries.values()))
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await anyio.sleep(left if away else min(interval, left))

    def look_at_all(self) -> None:
        """Look at everything soon: the stream stands (again), and what came before it is not known."""
        self._fresh |= self._entries.keys()
        self._wake.set()

    def look_at(self, id: str) -> None:
        """Look at one dispatch soon."""
        self._fresh.add(id)
        self._wake.set()

    def handles(self) -> Mapping[str, Handle]:
        """Return the handles of what is looked after."""
        return {id: entry.handle for id, entry in self._entries.items() if entry.handle is not None}

    async def hear(self, id: str, observation: Observation, target: Target) -> None:
        """Write down what was pushed about one dispatch."""
        entry = self._entries.get(id)
        if entry is None and observation.reason != SECOND_COPY:
            return
        try:
            if entry is None or self._defer:
                await anyio.sleep(self._defer)
                entry = await self._core.store.read(id)
            await self._looker.hear(entry, observation, target)
        except AgoraError as error:
            logger.warning("dispatch %s: what was heard could not be written down: %s", id, error)
            self.look_at(id)


class _Sink:
    """A `WatchSink`: called from the watch's thread, acts on the event loop."""

    def __init__(self, watch: TargetWatch, target: Target, tasks: anyio.abc.TaskGroup) -> None:
        self._watch = watch
        self._target = target
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.stood = False

    def close(self) -> None:
        self._closed = True

    def connected(self) -> None:
        self.stood = True
        self._soon(self._watch.look_at_all)

    def push(self, dispatch_id: str, observation: Observation) -> None:
        self._soon(partial(self._tasks.start_soon, self._watch.hear, dispatch_id, observation, self._target))

    def stale(self, dispatch_id: str) -> None:
        self._soon(partial(self._watch.look_at, dispatch_id))

    def handles(self) -> Mapping[str, Handle]:
        return self._watch.handles()

    @property
    def closed(self) -> bool:
        return self._closed or self._loop.is_closed()

    def _soon(self, work: Callable[[], object]) -> None:
        if not self.closed:
            self._loop.call_soon_threadsafe(work)
