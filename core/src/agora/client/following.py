"""Following a dispatch: its events, its output and its end, live."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, nullcontext
from datetime import datetime

import anyio

from agora.client.opened import Opened
from agora.errors import DispatchNotFound, InvalidRequest, ProviderError
from agora.model.events import Event
from agora.model.observation import LogChunk
from agora.model.record import Entry
from agora.store import Store

#: Events of a run are read so many at a time: others wait for the same connection.
PAGE = 1_000


async def follow_events(parts: Opened, id: str, follow: bool, after: int) -> AsyncIterator[Event]:
    """Yield events; see `AgoraClient.events`."""
    store = parts.store
    await store.read(id)
    with parts.supervision.waiting_for(id) if follow else nullcontext():
        async with store.pulse.listen() as ear:
            while True:
                entry = await store.read(id)
                for event in await store.events(id, after):
                    after = event.sequence
                    yield event
                if not follow or not entry.live:
                    return
                parts.supervision.ensure_foreground()
                await ear.wait(1.0)


async def follow_run(parts: Opened, run: str, follow: bool, after: str | None) -> AsyncIterator[Event]:
    """Yield the events of a run; see `AgoraClient.run_events`."""
    store = parts.store
    if not await store.has_run(run):
        raise DispatchNotFound(f"there is no dispatch of run {run!r}; `agora ps --all` lists what there is")
    place = after
    told: dict[str, int] = {}
    watched: set[str] = set()

    async def page() -> list[Event]:
        nonlocal place
        try:
            found, place = await store.run_events(run, place, PAGE)
        except InvalidRequest:
            if place == after:
                raise
            # The event that it had come to was pruned meanwhile: what is left is gone through again.
            found, place = await store.run_events(run, None, PAGE)
        return found

    with ExitStack() as interest:
        async with store.pulse.listen() as ear:
            while True:
                live = await store.live_of_run(run)
                for id in live - watched if follow else ():
                    interest.enter_context(parts.supervision.waiting_for(id))
                watched |= live
                while found := await page():
                    for event in found:
                        if event.sequence > told.get(event.subject, 0):
                            told[event.subject] = event.sequence
                            yield event
                if not follow or not live:
                    return
                parts.supervision.ensure_foreground()
                await ear.wait(1.0)


async def follow_logs(
    parts: Opened, id: str, follow: bool, since: datetime | None, tail: int | None
) -> AsyncIterator[LogChunk]:
    """Yield output; see `AgoraClient.logs`."""
    store = parts.store
    entry = await _with_handle(store, id) if follow else await store.read(id)
    if entry.handle is None:
        return
    engine = parts.engine
    target = await engine.core.targets.of(entry)
    if not target.implements("logs"):
        raise ProviderError(f"target {target.name!r} ({target.info.name}) keeps no logs")
    async with aclosing(engine.listener.output(entry, target, follow, since, tail)) as chunks:
        async for chunk in chunks:
            yield chunk


async def follow_end(parts: Opened, id: str, timeout: float | None, confirmed: bool) -> Entry:
    """Wait for the end; see `AgoraClient.wait`."""
    store = parts.store
    entry = await store.read(id)
    if _is_over(entry, confirmed):
        return entry
    with parts.supervision.waiting_for(id), anyio.fail_after(timeout):
        async with store.pulse.listen() as ear:
            while not _is_over(entry := await store.read(id), confirmed):
                parts.supervision.ensure_foreground()
                await ear.wait(1.0)
    return entry


def _is_over(entry: Entry, confirmed: bool) -> bool:
    return entry.state.terminal and not (confirmed and entry.live)


async def _with_handle(store: Store, id: str) -> Entry:
    """Wait until the workload is there, or never will be."""
    async with store.pulse.listen() as ear:
        while True:
            entry = await store.read(id)
            if entry.handle is not None or entry.state.terminal:
                return entry
            await ear.wait(1.0)
