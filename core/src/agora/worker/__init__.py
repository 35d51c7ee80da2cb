"""What runs inside a workload: it hears of a cancel, cleans up, and says so.

It needs the standard library alone, installs nothing when it is imported, and is imported in a few milliseconds.
"""

from __future__ import annotations

from agora.worker.base import BaseWorker, Cancelled, WorkerError
from agora.worker.blocking import BlockingWorker
from agora.worker.channels import Channel, MemoryChannel, MemoryHub, Released, Subscription
from agora.worker.secrets import Secrets
from agora.worker.stages import STAGES, Stage, budgets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agora.worker.aio import Worker

__all__ = [
    "STAGES",
    "BaseWorker",
    "BlockingWorker",
    "Cancelled",
    "Channel",
    "MemoryChannel",
    "MemoryHub",
    "Released",
    "Secrets",
    "Stage",
    "Subscription",
    "Worker",
    "WorkerError",
    "budgets",
]


def __getattr__(name: str) -> object:
    """Import the async worker at its first use: asyncio takes longer than everything else here."""
    if name != "Worker":
        raise AttributeError(f"module 'agora.worker' has no attribute {name!r}")
    from agora.worker.aio import Worker

    return Worker
