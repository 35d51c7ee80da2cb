"""EVT: the events of every life."""

from __future__ import annotations

from itertools import pairwise

import anyio
from agora.errors import AgoraError
from agora.model.events import Event, EventType
from agora.model.record import Record
from pydantic import ValidationError

from agora_conformance.arena import Arena
from agora_conformance.registry import check
from agora_conformance.verdict import Verdict, Violation, require

LIVES = "lives"

#: The order of a life; what did not happen is left out.
ORDER = (
    EventType.REQUESTED,
    EventType.SUBMITTED,
    EventType.STARTED,
    EventType.CANCEL_REQUESTED,
    EventType.STOPPING,
    EventType.CANCELLED,
    EventType.TERMINATED,
    EventType.CONFIRMED,
)


Lives = list[tuple[Record, list[Event]]]


async def lives(arena: Arena) -> Lives:
    """Live three lives: one that succeeds, one that fails, one that is cancelled; all checks look at the same."""
    shared = arena.setting.shared
    async with arena.setting.lock:
        if LIVES not in shared:
            try:
                shared[LIVES] = await _live(arena)
            except (AgoraError, Verdict) as error:
                shared[LIVES] = error
    told: Lives | Exception = shared[LIVES]
    if isinstance(told, Exception):
        raise told
    return told


async def _live(arena: Arena) -> Lives:
    probes = [
        await arena.start("exit", 0, 10, ready=False),
        await arena.start("exit", 3, 10, ready=False),
        await arena.start("graceful", 0, 20),
    ]
    await probes[-1].cancel(reason="one life")
    for probe in probes:
        await probe.end(5)
    client = await arena.client()
    await anyio.sleep(0.3)
    await client.reconcile()
    return [(await probe.record(), await probe.events()) for probe in probes]


@check("EVT-01")
async def schema(arena: Arena) -> None:
    """Validate every event as JSON."""
    for record, events in await lives(arena):
        require(events, "a dispatch has no events")
        for event in events:
            try:
                Event.model_validate_json(event.model_dump_json())
            except ValidationError as error:
                raise Violation(f"an event does not follow the schema: {error}") from error
            require(event.subject == record.id, f"an event of {record.id} is about {event.subject}")
            require(event.source == events[0].source, "the events of one dispatch have several sources")
        ids = {event.id for event in events}
        require(len(ids) == len(events), "two events have the same id")


@check("EVT-02")
async def order(arena: Arena) -> None:
    """Compare numbers and types with the order of a life; a backend may tell of a start after a stop was requested."""
    for _, events in await lives(arena):
        numbers = [event.sequence for event in events]
        require(numbers == list(range(1, len(events) + 1)), f"the sequence is {numbers}")
        types = list(dict.fromkeys(event.type for event in events if event.type in ORDER))
        told = [kind for kind in types if kind is not EventType.STARTED]
        wanted = [kind for kind in ORDER if kind in told]
        require(told == wanted, f"the order is {[kind.value for kind in types]}")
        if EventType.STARTED in types:
            place = types.index(EventType.STARTED)
            between = types.index(EventType.SUBMITTED) < place < types.index(EventType.TERMINATED)
            require(between, f"the start is told at the wrong place: {[kind.value for kind in types]}")
        needed = {EventType.REQUESTED, EventType.SUBMITTED, EventType.TERMINATED}
        require(needed <= set(types), f"missing: {[kind.value for kind in needed - set(types)]}")
        once = [kind for kind in ORDER if kind is not EventType.STOPPING and kind is not EventType.TERMINATED]
        twice = [kind.value for kind in once if sum(event.type is kind for event in events) > 1]
        require(not twice, f"more than once: {twice}")


@check("EVT-03")
async def one_terminated(arena: Arena) -> None:
    """Count the ends."""
    for record, events in await lives(arena):
        ends = [event for event in events if event.type is EventType.TERMINATED]
        require(len(ends) == 1, f"a dispatch that is {record.state.value} has {len(ends)} ends")


@check("EVT-04")
async def nothing_after(arena: Arena) -> None:
    """Look behind the end."""
    for _, events in await lives(arena):
        end = next(place for place, event in enumerate(events) if event.type is EventType.TERMINATED)
        after = [event.type for event in events[end + 1 :] if event.type is not EventType.TERMINATED]
        require(after in ([], [EventType.CONFIRMED]), f"after the end came {[kind.value for kind in after]}")


@check("EVT-05")
async def aware_times(arena: Arena) -> None:
    """Compare times with each other."""
    for record, events in await lives(arena):
        require(all(event.time.utcoffset() is not None for event in events), "a time has no offset")
        require(all(a.time <= b.time for a, b in pairwise(events)), "the times of the events run backwards")
        stations = [record.requested_at, record.submitted_at, record.stopping_at]
        known = [at for at in stations if at is not None]
        require(all(a <= b for a, b in pairwise(known)), "the times of the record run backwards")
        if record.started_at and record.ended_at:
            require(record.started_at <= record.ended_at, "it ended before it started, by the backend's clock")


@check("EVT-06")
async def end_agrees(arena: Arena) -> None:
    """Compare the event of the end with the record."""
    for record, events in await lives(arena):
        data = next(event.data for event in events if event.type is EventType.TERMINATED)
        said = {key: data.get(key) for key in ("state", "exit_code", "signal")}
        stored = {"state": record.state.value, "exit_code": record.exit_code, "signal": record.signal}
        require(said == stored, f"the event says {said}, the record {stored}")
