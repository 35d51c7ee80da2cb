"""The worker of an asyncio program."""

from __future__ import annotations

import asyncio
import os

from agora.worker.base import EXIT_CODE, BaseWorker
from agora.worker.stages import take_no_more_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any, Self


class Worker(BaseWorker):
    """The inside of a workload, as an `async with` block.

    SIGTERM cancels the task that is in the block. Once the block is left, the stages run and the program exits with
    143. A SIGTERM that comes when the block is through changes nothing. Callbacks and channels may be async.

    Parameters:
        settings: as for every worker: `grace`, `budgets`, `progress_every`, `heartbeat_every`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._task: asyncio.Task[Any] | None = None
        self._asked = False

    async def wait(self) -> None:
        """Wait for SIGTERM; only for tasks beside the block, which itself is cancelled."""
        await self._event.wait()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._stages_over = asyncio.Event()
        self._task = asyncio.current_task()
        self._begin()
        if self.cancelled:
            await self._leave(None)
            raise SystemExit(EXIT_CODE)
        self._inside = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        if os.getpid() != self._pid:
            return  # a fork lets go of nothing: all that is its parent's
        if self._claim("finished"):
            try:
                await asyncio.to_thread(self._finish_apart, error)
            finally:
                self.forget()
            return
        if self._asked and self._task is not None:
            self._task.uncancel()
        cancelled = error is None or isinstance(error, asyncio.CancelledError)
        await self._leave(None if cancelled else error)
        if cancelled:
            raise SystemExit(EXIT_CODE) from None

    def _finish_apart(self, error: BaseException | None) -> None:
        try:
            self._finish(error)
        finally:
            if self._blocked:
                take_no_more_signals()  # the event loop keeps this thread

    async def _leave(self, error: BaseException | None) -> None:
        self._leave_with(error)
        until = self._loop.time() + sum(self._budgets.values())
        while not self._over.is_set() and self._loop.time() < until:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue  # whoever cancels besides gets the same end a little later
        self._leave_cancelled()

    def _interrupt(self, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._event.set()
        if self._inside and self._task is not None:
            self._asked = True
            self._task.cancel("SIGTERM")

    def _hooked(self, hook: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            answer = hook()
            if asyncio.iscoroutine(answer):
                asyncio.run_coroutine_threadsafe(answer, self._loop).result()

        return call
