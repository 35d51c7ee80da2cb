"""Who asked for a stop, through which door, and why."""

from enum import StrEnum
from uuid import uuid4

from pydantic import Field

from agora.model.base import Model


class Via(StrEnum):
    """The front door through which a request came."""

    API = "api"
    CLI = "cli"
    MCP = "mcp"
    DASHBOARD = "dashboard"
    CRD = "crd"
    BUS = "bus"
    POLICY = "policy"


MAX_REASON = 4_096


class Cause(Model):
    """The cause of a stop, carried into the store, the events, the exception and the backend.

    Parameters:
        actor: who asked; a user name, a service account, or `agora` for a policy.
        via: the front door.
        reason: free text of the asker; may be absent.
        policy: the name of the policy that asked (`timeout`, `owner_gone`, ...), if one did.
        request_id: unique id of the request, for logs.
    """

    actor: str = Field(min_length=1, max_length=256)
    via: Via
    reason: str | None = Field(default=None, max_length=MAX_REASON)
    policy: str | None = Field(default=None, max_length=64)
    request_id: str = Field(default_factory=lambda: uuid4().hex, max_length=64)

    def summary(self, limit: int) -> str:
        """Return one line `actor via door: reason` of at most `limit` characters, for a backend's reason field."""
        words = f"{self.actor} via {self.via.value}"
        detail = self.reason or self.policy
        line = " ".join((f"{words}: {detail}" if detail else words).split())
        return line if len(line) <= limit else line[: max(limit - 1, 0)] + "…"
