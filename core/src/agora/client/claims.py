"""Claims on dispatches that go with their owner: kept up while it is there, cancelled when an error makes it leave."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from agora.client.opened import Opened
from agora.client.sending import OWNER_SECONDS
from agora.engine.later import Start
from agora.errors import AgoraError, DispatchNotFound
from agora.model.cause import Cause
from agora.model.record import Entry
from agora.model.spec import Spec
from agora.state import OwnerKept

if TYPE_CHECKING:
    from agora.client.client import AgoraClient

logger = logging.getLogger(__name__)

#: Leaving takes so long at most; a cancel comes back within 10 (contract 4), in seconds.
LEAVE_SECONDS = 12.0


class Claims:
    """What one group, or one run, has dispatched and not seen the end of.

    When its process dies, the claims run out and the background supervisor cancels what was claimed.

    Parameters:
        client: for cancels.
        parts: the client's.
        leaving: the cause with which all are cancelled.
    """

    def __init__(self, client: AgoraClient, parts: Opened, leaving: Cause) -> None:
        self._client = client
        self._store = parts.store
        self._dispatcher = parts.dispatcher
        self._leaving = leaving
        self._held: set[str] = set()

    @property
    def held(self) -> list[str]:
        """Ids of what is claimed now."""
        return sorted(self._held)

    async def dispatch(
        self, spec: Spec, target: str | None, id: str | None, parent: str | None, *, start: Start = None,
        retries: str | None = None,
    ) -> Entry:  # fmt: skip
        """Start a workload, or adopt the one that has this id, and claim it; see `AgoraClient.dispatch`."""
        entry = await self._dispatcher.dispatch(
            spec, target, id, parent, start=start, owned=self._held, retries=retries
        )
        await self.hold(entry.id)
        return entry

    async def hold(self, id: str) -> None:
        """Claim a dispatch, or do so again; what has ended is let go."""
        self._held.add(id)
        try:
            applied = await self._store.apply(id, OwnerKept(self._dispatcher.ownership()))
        except DispatchNotFound:
            self._held.discard(id)
            raise
        if applied.entry.state.terminal:
            self._held.discard(id)

    def ended(self, id: str) -> None:
        """Let go of what has ended."""
        self._held.discard(id)

    async def keep(self) -> None:
        """Keep all claims up, until cancelled.

        Raises:
            StoreError: the store cannot be written.
        """
        while True:
            await anyio.sleep(OWNER_SECONDS / 3)
            for id in self.held:
                await self.hold(id)

    async def cancel(self) -> None:
        """Cancel all that is claimed; within a bounded time, also where the task itself is being cancelled."""
        with anyio.move_on_after(LEAVE_SECONDS, shield=True):
            async with anyio.create_task_group() as tasks:
                for id in self.held:
                    tasks.start_soon(self._cancel_one, id)

    async def _cancel_one(self, id: str) -> None:
        try:
            await self._client.cancel(id, cause=self._leaving)
        except AgoraError as error:
            # The claim runs out, then the background supervisor does it.
            logger.warning("dispatch %s: the cancel of its group could not be recorded: %s", id, error)
