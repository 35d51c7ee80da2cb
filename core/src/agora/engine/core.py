"""What every part of the engine shares: store, targets, who we are, and how events are told."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import anyio
import anyio.to_thread

from agora.config import Settings
from agora.engine.extensions import Extensions
from agora.engine.plan import Bounds
from agora.engine.targets import Targets
from agora.errors import ConfigError, PermissionDenied, ProviderError, Unreachable, Vetoed
from agora.model.cancel import CancelResult
from agora.model.events import Event
from agora.model.record import Entry, Failure, Lease
from agora.model.spec import Spec
from agora.provider import Installation
from agora.state import CancelAsked, Fact
from agora.store import Applied, Requested, Store

#: A claim on sending lives so long without a sign of its holder (contract 3), in seconds.
CLAIM_SECONDS = 15.0
#: Extensions may take so long to hear the events of one change, in seconds.
TELL_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Core:
    """The engine's common ground.

    Parameters:
        store: the journal.
        settings: the configuration.
        extensions: heard on every event, wrapped around every target, besides the installed ones.
    """

    def __init__(self, store: Store, settings: Settings, extensions: Sequence[object]) -> None:
        self.store = store
        self.settings = settings
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.bounds = Bounds(settings.lost_after, settings.abandon_after)
        self.extensions = Extensions(extensions)
        self.targets = Targets(settings, Installation(store.installation, store.home), self.extensions)
        self.whole_specs: dict[str, Spec] = {}
        self.interest: Counter[str] = Counter()

    def lease(self) -> Lease:
        """Return a claim of this process that begins now."""
        return Lease(owner=self.owner, until=self.store.now() + timedelta(seconds=CLAIM_SECONDS))

    async def apply(self, entry: Entry, *facts: Fact, durable: bool = False) -> Applied:
        """Apply facts to a dispatch and tell its events to the extensions."""
        # Who leaves must not keep the extensions from hearing of what was just committed.
        with anyio.CancelScope(shield=True):
            applied = await self.store.apply(entry.id, *facts, durable=durable)
            await self.tell(applied.entry, applied.events)
        return applied

    async def request(self, entry: Entry, asked: CancelAsked) -> Requested:
        """Record a stop of a dispatch and of those below it; see `Store.request`."""
        with anyio.CancelScope(shield=True):
            requested = await self.store.request(entry.id, asked)
            for one in (requested.first, *requested.below):
                await self.tell(one.entry, one.events)
        return requested

    async def tell(self, entry: Entry, events: Sequence[Event]) -> None:
        """Hand committed events to the extensions; their failures break nothing, and none is waited for long."""
        if not events:
            return
        for event in events:
            logger.info("dispatch %s: %s", entry.id, event.type.value)
        with anyio.move_on_after(TELL_SECONDS) as scope:
            listeners = await self.extensions.listeners()
            for event in events if listeners else ():
                await anyio.to_thread.run_sync(listeners.tell, event, abandon_on_cancel=True)
        if scope.cancelled_caught:
            logger.error("dispatch %s: the extensions did not take its events within %g s", entry.id, TELL_SECONDS)

    async def answered(self, result: CancelResult) -> None:
        """Hand the answer to a cancel to the extensions that want it, as `tell` does with events."""
        with anyio.move_on_after(TELL_SECONDS) as scope:
            listeners = await self.extensions.listeners()
            if listeners.hear_answers:
                await anyio.to_thread.run_sync(listeners.answered, result, abandon_on_cancel=True)
        if scope.cancelled_caught:
            logger.error("dispatch %s: the extensions did not take an answer within %g s", result.id, TELL_SECONDS)


def failure_of(error: Exception) -> Failure:
    """Say why a target could not be asked, in the contract's words."""
    match error:
        case Vetoed():
            return Failure(type="vetoed", message=str(error), retryable=True)
        case PermissionDenied():
            return Failure(type="permission_denied", message=str(error), retryable=True)
        case Unreachable():
            return Failure(type="unreachable", message=str(error), retryable=True)
        case ConfigError():
            return Failure(type="target_missing", message=str(error), retryable=True)
        case ProviderError():
            return Failure(type="provider_error", message=str(error), retryable=error.retryable)
        case _:
            return Failure(type="provider_error", message=f"{type(error).__name__}: {error}", retryable=True)


def was_sent(error: Exception) -> bool:
    """Whether a failed call may have reached the backend."""
    if isinstance(error, Vetoed | ConfigError):
        return False
    return error.sent if isinstance(error, ProviderError) else True
