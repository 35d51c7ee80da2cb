"""Second runs: a container that somebody starts again after its end is killed, and told of.

A dispatch runs once. Its record is over by then, or soon will be, so nobody else would ever stop such a container.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agora.errors import ProviderError
from agora.model.observation import SECOND_COPY, Handle, Observation

from agora_docker.looking import Looker
from agora_docker.notes import Notes
from agora_docker.stopping import Stopper
from agora_docker.story import TERM

logger = logging.getLogger(__name__)


class Copies:
    """Looks at containers and kills those that run again.

    Parameters:
        looker, stopper, notes: of the target.
    """

    def __init__(self, looker: Looker, stopper: Stopper, notes: Notes) -> None:
        self._looker = looker
        self._stopper = stopper
        self._notes = notes

    def observe(self, handles: Sequence[Handle]) -> list[Observation]:
        """Look at many; a kill that fails is sent again with the next look."""
        seen = self._looker.observe(handles)
        for handle, one in zip(handles, seen, strict=True):
            if one.reason == SECOND_COPY:
                try:
                    self._stopper.kill(handle)
                except ProviderError as error:
                    logger.warning("dispatch %s: runs again and cannot be killed yet: %s", handle.id, error)
        return seen

    def may_follow(self, handle: Handle) -> bool:
        """Whether an end that was heard may be the first half of a restart: a SIGTERM came that was not ours."""
        container = str(handle.data["container"])
        ours = self._notes.sent_stop(handle.id)
        sent = int(ours is not None and ours.container == container)
        return len(self._looker.stories.of(container).last.signals(TERM)) > sent
