"""Finding a workload by its marks, where the answer to its submit was lost."""

from __future__ import annotations

from agora.engine.core import Core
from agora.engine.targets import LOOK_SECONDS, Target
from agora.model.observation import Handle
from agora.model.record import Entry
from agora.state import Started


class Finder:
    """Adopts workloads that nobody holds a handle of.

    Parameters:
        core: the common ground.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def adopt(self, entry: Entry, target: Target) -> Entry | None:
        """Look for the dispatch on its backend and store its handle.

        Returns:
            the entry with its handle, or null where the backend shows nothing (which proves nothing by itself).
        Raises:
            AgoraError: the target cannot be asked; nothing was changed.
        """
        handle: Handle | None = await target.call("find", seconds=LOOK_SECONDS, id=entry.id)
        if handle is None:
            return None
        applied = await self._core.apply(entry, Started(handle))
        return applied.entry
