"""How long a grace may be: the client agents cap it silently."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agora.errors import AgoraError, PermissionDenied

from agora_nomad import story
from agora_nomad.api import Api, Refusal
from agora_nomad.config import DEFAULT_MAX_GRACE

#: The agent is asked again after this time, in seconds.
_FRESH = 300.0


class Cap:
    """The longest grace of a target's clients.

    Parameters:
        api: the cluster.
        configured: the target's `max_grace`.
    """

    def __init__(self, api: Api, configured: int | None) -> None:
        self._api = api
        self._configured = configured
        self._asked: tuple[float | None, float] | None = None

    def known(self, *, ask: bool = True) -> tuple[float, str]:
        """Return the cap in seconds, and where it is known from; without `ask` nothing is sent."""
        if self._configured is not None:
            return self._configured, "`max_grace` of the target"
        if (said := self._of_the_agent(ask)) is not None:
            return said, "`max_kill_timeout` of the agent"
        return DEFAULT_MAX_GRACE, "Nomad's default; `max_grace` of the target says another"

    def _of_the_agent(self, ask: bool) -> float | None:
        """Ask the agent that answers, where it is a client and may be asked."""
        if ask and (self._asked is None or time.monotonic() - self._asked[1] > _FRESH):
            try:
                said = _of(self._api.agent())
            except (PermissionDenied, Refusal):
                said = None
            except AgoraError:
                return None
            self._asked = (said, time.monotonic())
        return None if self._asked is None else self._asked[0]


def _of(agent: Mapping[str, Any]) -> float | None:
    client = ((agent.get("config") or {}).get("Client")) or {}
    return story.seconds(str(client.get("MaxKillTimeout") or "")) if client.get("Enabled") else None
