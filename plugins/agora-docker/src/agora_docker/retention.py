"""Removing containers some time after their end; what is known of the end is noted first and stays."""

from __future__ import annotations

import logging
import time
from collections import deque
from datetime import UTC, datetime

from agora.errors import ProviderError
from agora.model.observation import Phase

from agora_docker import marks
from agora_docker.engine import Engine
from agora_docker.looking import ENDED, Looker
from agora_docker.notes import KeptEnd, Notes

logger = logging.getLogger(__name__)

#: Seconds between two lists: a tenth of the retention, between these two.
_SHORTEST, _LONGEST = 1.0, 3600.0
#: Containers that are looked at in one step.
_AT_ONCE = 5


class Sweeper:
    """Removes the containers of one target that ended longer ago than its retention.

    Parameters:
        engine, looker, notes: of the target.
        installation: whose containers it may remove; of those it takes only what this target's notes know.
        retention: seconds after the end; None removes nothing.
    """

    def __init__(
        self, engine: Engine, looker: Looker, notes: Notes, installation: str, retention: float | None
    ) -> None:
        self._engine = engine
        self._looker = looker
        self._notes = notes
        self._installation = installation
        self._retention = retention
        self._old: deque[tuple[str, str]] = deque()
        self._next_list = 0.0

    def step(self) -> None:
        """Do a little of the work that is due; what fails is tried again after the next list."""
        if self._retention is None:
            return
        try:
            if not self._old and time.monotonic() >= self._next_list:
                self._next_list = time.monotonic() + min(_LONGEST, max(_SHORTEST, self._retention / 10))
                self._old.extend(self._candidates(self._retention))
            for _ in range(min(_AT_ONCE, len(self._old))):
                self._remove(*self._old.popleft(), self._retention)
        except (ProviderError, OSError) as error:
            self._old.clear()
            logger.info("old containers stay for now: %s", error)

    def _candidates(self, retention: float) -> list[tuple[str, str]]:
        """List what was made before the retention began: what ended before it is among that."""
        facts = self._engine.facts()
        return [
            (one["Labels"][marks.DISPATCH], one["Id"])
            for one in self._looker.owned(self._installation, status=ENDED)
            if one["Created"] <= facts.earliest() - retention
            and self._notes.sent_to(one["Labels"][marks.DISPATCH]) == facts.id
        ]

    def _remove(self, id: str, container: str, retention: float) -> None:
        found = self._looker.inspect(container)
        if found is None:
            return
        seen = self._looker.seen(found)
        latest = datetime.fromtimestamp(self._engine.facts().earliest() - retention, UTC)
        if seen.phase is not Phase.ENDED or (seen.ended_at is not None and seen.ended_at > latest):
            return
        spec = found["Config"]["Labels"][marks.SPEC]
        self._notes.keep_end(id, KeptEnd(container=container, spec=spec, seen=seen))
        # Without force the engine refuses to remove one that runs.
        self._engine.request("DELETE", f"/containers/{container}", params={"v": "1"}, accept=(404, 409))
        self._looker.stories.forget(container)
