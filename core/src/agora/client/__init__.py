"""The client: dispatch, cancel, wait and the rest, async and blocking."""

from agora.client.blocking import BlockingClient
from agora.client.client import AgoraClient
from agora.client.combinators import Joined, Raced, Settled
from agora.client.handle import DispatchHandle

__all__ = ["AgoraClient", "BlockingClient", "DispatchHandle", "Joined", "Raced", "Settled"]
