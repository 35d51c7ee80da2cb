"""The client: dispatch, cancel, wait and the rest, async and blocking."""

from __future__ import annotations

# Not from typing: its import takes as long as the start of the interpreter.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from agora.client.blocking import BlockingClient
    from agora.client.client import AgoraClient
    from agora.client.combinators import Joined, Raced, Settled
    from agora.client.handle import DispatchHandle
    from agora.client.run import Run

_HOME_OF = {
    "AgoraClient": "client",
    "BlockingClient": "blocking",
    "DispatchHandle": "handle",
    "Joined": "combinators",
    "Raced": "combinators",
    "Run": "run",
    "Settled": "combinators",
}

__all__ = ["AgoraClient", "BlockingClient", "DispatchHandle", "Joined", "Raced", "Run", "Settled"]


def __getattr__(name: str) -> object:
    """Import a public name at its first use: the async client does without the blocking one."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'agora.client' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"agora.client.{_HOME_OF[name]}"), name)
