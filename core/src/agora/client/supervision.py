"""Who looks after what: the client itself for what it waits for, the background supervisor for the rest."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import anyio.abc
import anyio.to_thread

from agora.engine import Engine
from agora.engine.background import start
from agora.errors import AgoraError
from agora.model.record import Entry
from agora.state import Noted

logger = logging.getLogger(__name__)


class Supervision:
    """Supervision on behalf of one client.

    Parameters:
        engine: the engine.
        tasks: where the foreground supervisor runs.
        background: whether to start the background supervisor.
    """

    def __init__(self, engine: Engine, tasks: anyio.abc.TaskGroup, background: bool) -> None:
        self._engine = engine
        self._tasks = tasks
        self._background = background
        self._foreground = False
        self._children: list[int] = []

    @contextmanager
    def waiting_for(self, id: str) -> Iterator[None]:
        """Look after a dispatch while the block runs."""
        interest = self._engine.core.interest
        interest[id] += 1
        self._engine.store.pulse.beat()
        try:
            yield
        finally:
            interest[id] -= 1
            if not interest[id]:
                del interest[id]

    def ensure_foreground(self) -> None:
        """Run the foreground supervisor unless it runs.

        Raises:
            AgoraError: the client was closed.
        """
        if self._tasks.cancel_scope.cancel_called:
            raise AgoraError("the client was closed")
        if not self._foreground:
            self._foreground = True
            self._tasks.start_soon(self._supervise)

    async def _supervise(self) -> None:
        try:
            await self._engine.supervise(until_idle=True, mine=True)
        except* AgoraError as failed:
            logger.warning("supervision failed and is taken up again: %s", failed.exceptions[0])
            await anyio.sleep(1.0)
        finally:
            self._foreground = False
            self._engine.store.pulse.beat()

    async def ensure_background(self, entry: Entry) -> None:
        """Start the background supervisor unless one is alive, or say on the record that nobody does."""
        self._reap_children()
        why: dict[str, str] = {}
        if self._background:
            home = self._engine.store.home
            try:
                pid = await anyio.to_thread.run_sync(start, home, self._engine.settings)
            except OSError as error:
                # What was asked for is done and recorded; that nobody goes on with it is told, not raised.
                why["error"] = f"cannot be started with its log in {home}: {error.strerror}"
                logger.warning("dispatch %s: the background supervisor %s", entry.id, why["error"])
            else:
                self._children += [] if pid is None else [pid]
                return
        if not any(note.type == "no_supervisor" for note in entry.notes):
            await self._engine.core.apply(entry, Noted("no_supervisor", why))

    async def take_over(self, entry: Entry) -> None:
        """See that somebody looks after a dispatch whose sender may leave, however its send went."""
        if not entry.unsettled:
            return
        with anyio.CancelScope(shield=True):
            try:
                await self.ensure_background(entry)
            except AgoraError as error:
                logger.warning("dispatch %s: who looks after it could not be written down: %s", entry.id, error)

    def _reap_children(self) -> None:
        for pid in list(self._children):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            self._children.remove(pid)
