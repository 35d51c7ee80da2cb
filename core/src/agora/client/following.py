"""Following a dispatch: its events and its output, live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from itertools import islice

import anyio
import anyio.to_thread

from agora.client.supervision import Supervision
from agora.engine import Engine
from agora.errors import ProviderError, Unreachable
from agora.model.events import Event
from agora.model.observation import LogChunk
from agora.model.record import Entry
from agora.store import Store

#: A target that gives no output and no sign of life for so long is given up, in seconds.
SILENT_SECONDS = 10.0
#: Pieces of output that one hop to a worker thread fetches where nobody follows them live.
CHUNKS_AT_ONCE = 256


async def follow_events(
    engine: Engine, supervision: Supervision, id: str, follow: bool, after: int
) -> AsyncIterator[Event]:
    """Yield events; see `AgoraClient.events`."""
    store = engine.store
    await store.read(id)
    with supervision.waiting_for(id, follow):
        async with store.pulse.listen() as ear:
            while True:
                entry = await store.read(id)
                for event in await store.events(id, after):
                    after = event.sequence
                    yield event
                if not follow or not entry.live:
                    return
                supervision.ensure_foreground()
                await ear.wait(1.0)


async def follow_logs(
    engine: Engine, id: str, follow: bool, since: datetime | None, tail: int | None
) -> AsyncIterator[LogChunk]:
    """Yield output; see `AgoraClient.logs`."""
    entry = await _with_handle(engine.store, id) if follow else await engine.store.read(id)
    if entry.handle is None:
        return
    target = await engine.core.targets.of(entry)
    if not target.implements("logs"):
        raise ProviderError(f"target {target.name!r} ({target.info.name}) keeps no logs")
    chunks: Iterator[LogChunk] = await target.call(
        "logs", seconds=SILENT_SECONDS, handle=entry.handle, follow=follow, since=since, tail=tail
    )
    limiter = anyio.CapacityLimiter(1)
    at_once = 1 if follow else CHUNKS_AT_ONCE
    while True:
        read: Sequence[LogChunk] = ()
        with anyio.move_on_after(SILENT_SECONDS) as scope:
            read = await anyio.to_thread.run_sync(
                lambda: tuple(islice(chunks, at_once)), limiter=limiter, abandon_on_cancel=True
            )
        if scope.cancelled_caught:
            raise Unreachable(f"target {target.name!r} gave no sign of life within {SILENT_SECONDS:g} s")
        if not read:
            return
        for chunk in read:
            if chunk.data or chunk.dropped:
                yield chunk


async def _with_handle(store: Store, id: str) -> Entry:
    """Wait until the workload is there, or never will be."""
    async with store.pulse.listen() as ear:
        while True:
            entry = await store.read(id)
            if entry.handle is not None or entry.state.terminal:
                return entry
            await ear.wait(1.0)
