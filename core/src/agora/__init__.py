"""Dispatch a workload to any backend, stop it from anywhere, and know how it ended."""

from __future__ import annotations

__version__ = "0.1.0"

# Not from typing: its import takes as long as the start of the interpreter.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from agora.client import AgoraClient, BlockingClient, DispatchHandle, Joined, Raced, Run, Settled
    from agora.errors import (
        AgoraError,
        DispatchCancelled,
        DispatchConflict,
        DispatchFailed,
        DispatchLost,
        DispatchNotFound,
        DispatchTimedOut,
        InvalidRequest,
        NoneSucceeded,
    )
    from agora.hookspecs import hookimpl
    from agora.model.cancel import CancelResult, Outcome
    from agora.model.cause import Cause, Via
    from agora.model.events import Event, EventType
    from agora.model.record import Record, State
    from agora.model.run import RunOutcome, RunSummary
    from agora.model.spec import Resources, Spec

_HOMES = {
    "agora.client": ("AgoraClient", "BlockingClient", "DispatchHandle", "Joined", "Raced", "Run", "Settled"),
    "agora.errors": (
        "AgoraError",
        "DispatchCancelled",
        "DispatchConflict",
        "DispatchFailed",
        "DispatchLost",
        "DispatchNotFound",
        "DispatchTimedOut",
        "InvalidRequest",
        "NoneSucceeded",
    ),
    "agora.hookspecs": ("hookimpl",),
    "agora.model.cancel": ("CancelResult", "Outcome"),
    "agora.model.cause": ("Cause", "Via"),
    "agora.model.events": ("Event", "EventType"),
    "agora.model.record": ("Record", "State"),
    "agora.model.run": ("RunOutcome", "RunSummary"),
    "agora.model.spec": ("Resources", "Spec"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AgoraClient",
    "AgoraError",
    "BlockingClient",
    "CancelResult",
    "Cause",
    "DispatchCancelled",
    "DispatchConflict",
    "DispatchFailed",
    "DispatchHandle",
    "DispatchLost",
    "DispatchNotFound",
    "DispatchTimedOut",
    "Event",
    "EventType",
    "InvalidRequest",
    "Joined",
    "NoneSucceeded",
    "Outcome",
    "Raced",
    "Record",
    "Resources",
    "Run",
    "RunOutcome",
    "RunSummary",
    "Settled",
    "Spec",
    "State",
    "Via",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use, so that `import agora` stays light."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'agora' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME_OF[name]), name)
