"""What a client has while it is open: the store, and the parts that carry something out, made at their first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import anyio.abc
import anyio.to_thread

from agora.config import Settings
from agora.store import Store

if TYPE_CHECKING:
    from agora.client.sending import Dispatcher
    from agora.client.supervision import Supervision
    from agora.engine import Engine


class Opened:
    """The parts of an open client.

    To read what is over takes the store alone; the import of the engine would be a good part of such a command.

    Parameters:
        store: the journal.
        settings: the configuration.
        tasks: where sends and the foreground supervisor run.
        extensions: heard on every event, wrapped around every target, besides the installed ones.
        background: whether to start the background supervisor.
        owner: for whom the client acts; null for one that may cancel everything.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        tasks: anyio.abc.TaskGroup,
        *,
        extensions: Sequence[object],
        background: bool,
        owner: str | None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.tasks = tasks
        self.owner = owner
        self._extensions = extensions
        self._background = background
        self._engine: Engine | None = None
        self._dispatcher: Dispatcher | None = None

    @property
    def engine(self) -> Engine:
        """The engine."""
        if self._engine is None:
            from agora.engine import Engine

            self._engine = Engine(self.store, self.settings, self._extensions)
        return self._engine

    @cached_property
    def supervision(self) -> Supervision:
        """Who looks after what."""
        from agora.client.supervision import Supervision

        return Supervision(self.engine, self.tasks, self._background)

    @property
    def dispatcher(self) -> Dispatcher:
        """Who sends."""
        if self._dispatcher is None:
            from agora.client.sending import Dispatcher

            self._dispatcher = Dispatcher(self.engine, self.supervision, self.tasks, self.owner)
        return self._dispatcher

    async def sent(self) -> None:
        """Wait until no send is under way."""
        if self._dispatcher is not None:
            await self._dispatcher.wait()

    async def close(self) -> None:
        """Let targets and store go; what runs goes on."""
        if self._engine is not None:
            await self._engine.close()
        else:
            await anyio.to_thread.run_sync(self.store.close, abandon_on_cancel=True)
