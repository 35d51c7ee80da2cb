"""WORK: what a workload says of itself, by marked lines among its output."""

from __future__ import annotations

from agora.model.events import Event, EventType
from agora.model.record import Record, State
from agora.worker.marks import head

from agora_conformance.arena import Arena
from agora_conformance.registry import check
from agora_conformance.verdict import require
from agora_conformance.witness import START_LIMIT, Probe

MARK = head("").rstrip()


async def _stopped(probe: Probe, within: float = 3) -> tuple[Record, list[Event]]:
    """Cancel and wait, and read no output meanwhile: the last words are for the core to look for."""
    await probe.cancel(reason="say so")
    record = await probe.end(within)
    require(record.state is State.CANCELLED, f"it ended as {record.state.value} ({record.reason})")
    return record, await probe.events()


def _words(events: list[Event], kind: EventType) -> list[Event]:
    return [event for event in events if event.type is kind]


@check("WORK-01")
async def acknowledged(arena: Arena) -> None:
    """Cancel a workload that says so."""
    probe = await arena.start("worker", 0, 0, "true")
    record, events = await _stopped(probe)
    require(record.acknowledged is True, f"`acknowledged` is {record.acknowledged}")
    words = _words(events, EventType.CANCELLED)
    require(len(words) == 1, f"the workload's word was told {len(words)} times")
    cause = words[0].data.get("cause")
    reason = cause.get("reason") if isinstance(cause, dict) else None
    require(reason == "say so", f"the workload's word carries the reason {reason!r}")
    ends = _words(events, EventType.TERMINATED)
    said = ends[0].data.get("acknowledged")
    require(said is True, f"`dispatch.terminated` says that `acknowledged` is {said}")
    require(words[0].sequence < ends[0].sequence, "the workload's word comes after the end")


@check("WORK-02")
async def not_done_in_time(arena: Arena) -> None:
    """Cancel a workload that says that it is not done, and something else afterwards."""
    record, _ = await _stopped(await arena.start("worker", 0, 0, "false"))
    require(record.acknowledged is False, f"`acknowledged` is {record.acknowledged}")


@check("WORK-03")
async def silence_is_no_word(arena: Arena) -> None:
    """Cancel one that exits and one that has to be killed."""
    probes = [await arena.start("graceful", 0, 10), await arena.start("stubborn", grace=2)]
    for probe in probes:
        record, events = await _stopped(probe)
        require(record.acknowledged is None, f"nothing was said, and `acknowledged` is {record.acknowledged}")
        require(not _words(events, EventType.CANCELLED), "an event says what the workload did not say")


@check("WORK-04")
async def not_believed(arena: Arena) -> None:
    """Let one that is stopped speak for another, and for the core."""
    other = await arena.start("graceful", 0, 10)
    probe = await arena.start("impostor", other.id)
    record, _ = await _stopped(probe)
    output = await probe.output()
    require(head(other.id) in output, "the mark of another dispatch is not in the output: it was taken for one")
    require(head(probe.id) not in output, "its own marks are in the output")
    require(head(probe.id)[1:] in output, "a line that is no mark is not in the output")
    require(record.acknowledged is None, f"`acknowledged` is {record.acknowledged}")
    events = await probe.events()
    require(not _words(events, EventType.CANCELLED), "what was said of another one was taken for its own word")
    require(len(_words(events, EventType.STARTED)) <= 1, "its word that it started was taken for the core's")
    ends = {str(end.data.get("state")) for end in _words(events, EventType.TERMINATED)}
    require(ends == {State.CANCELLED.value}, f"the end is told as {sorted(ends)}")
    record, events = await _stopped(other)
    require(record.acknowledged is None, f"`acknowledged` of the other one is {record.acknowledged}")
    require(not _words(events, EventType.CANCELLED), "the other one was spoken for")


@check("WORK-05")
async def told_once(arena: Arena) -> None:
    """Read the output several times while it runs, and after its end."""
    probe = await arena.start("worker", 0, 150, "true")
    await probe.says("beat")
    for _ in range(2):
        require(MARK not in await probe.output(), "marks are in the output")
    await probe.end(START_LIMIT)
    for _ in range(2):
        require(MARK not in await probe.output(), "marks are in the output after the end")
    events = await probe.events()
    done = [event.data.get("done") for event in _words(events, EventType.PROGRESS)]
    require(done == [1, 2, 3], f"of the progress 1, 2, 3 was told: {done}")
    end = _words(events, EventType.TERMINATED)[0].sequence
    late = [event.type.value for event in events if event.sequence > end and event.type is EventType.PROGRESS]
    require(not late, f"after the end was told: {late}")
