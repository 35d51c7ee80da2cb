"""What the workload itself says: marked lines among its output become events, and the output is given without them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agora.engine.core import Core
from agora.engine.event_file import file_of, marks_in
from agora.engine.targets import Target
from agora.errors import AgoraError, InvalidRequest, Unreachable
from agora.model.events import EventType
from agora.model.observation import LogChunk
from agora.model.record import Entry, State
from agora.state import WORKER_TYPES, WorkerSaid
from agora.state.budget import rises
from agora.state.quiet import elsewhere
from agora.worker.marks import Sieve

logger = logging.getLogger(__name__)

#: Before an end that was seen is written, the workload's last words are read for so long at most (contract 5), in s.
DRAIN_SECONDS = 2.0
#: How many lines at the end of the output they are looked for in.
DRAIN_LINES = 200
#: A target that gives no output and no sign of life for so long is given up, in seconds.
SILENT_SECONDS = 10.0
#: Reading all that is new takes so long at most; what is left is read the next time, in seconds.
CATCH_UP_SECONDS = 20.0
#: What was read last is read again, in seconds: a mark may have come in pieces.
OVERLAP_SECONDS = 1.0
#: Pieces of output that one hop to a worker thread fetches where nobody follows them live.
CHUNKS_AT_ONCE = 256
#: Where marks are among the last lines, twice as many are asked for, so often at most.
_MOST_READS = 10


class _Mark(BaseModel):
    """The part of a worker's event that is of interest here."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    id: str = Field(pattern=r"^[0-9a-f]{1,32}\.[0-9]{1,18}$")
    type: EventType
    subject: str
    sequence: int = Field(ge=1)
    data: dict[str, object]


def facts_of(entry: Entry, marks: Iterable[bytes]) -> list[WorkerSaid]:
    """Return what the marks say that was not heard before; of an ended one only a cancel and what it spent count."""
    facts = []
    for mark in marks:
        try:
            said = _Mark.model_validate_json(mark)
        except ValidationError:
            logger.warning("dispatch %s: its output has a mark that is none of a worker's", entry.id)
            continue
        source = said.id.partition(".")[0]
        fact = WorkerSaid(said.type, dict(said.data), source, said.sequence)
        over = entry.state.terminal and (said.type is not EventType.CANCELLED or entry.acknowledged is not None)
        wanted = not over or rises(entry, fact)
        if said.subject == entry.id and wanted and said.sequence > entry.heard.get(source, 0):
            facts.append(fact)
    return facts


def counts_silence(entry: Entry) -> bool:
    """Whether a workload is cancelled when it gives no sign."""
    return entry.heartbeat_timeout is not None or entry.silence_timeout is not None


def reads_output(entry: Entry) -> bool:
    """Whether the output of a workload is read while it runs, though nobody follows it."""
    return counts_silence(entry) or (bool(entry.budget) and not elsewhere(entry))


@dataclass
class Caught:
    """What one reading found, and where the next one of the same process goes on.

    Parameters:
        marks: what the worker said, what was said before included.
        read_to: the time of the newest piece, by the log's clock; null where it has none.
        output: there was output that had not been read before.
        output_at: the time of the newest output.
        output_size: how many bytes of output there are, where the log has no clock.
        whole: everything up to now was read.
    """

    marks: list[bytes] = field(default_factory=list)
    read_to: datetime | None = None
    output: bool = False
    output_at: datetime | None = None
    output_size: int | None = None
    whole: bool = False


class Listener:
    """Hears the workloads of one engine.

    Parameters:
        core: the common ground.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def hear(self, id: str, marks: Sequence[bytes]) -> None:
        """Write down what marks say, if anything of it is new; whoever only reads the output is told of no failure."""
        if not marks:
            return
        try:
            entry = await self._core.store.read(id)
            if facts := facts_of(entry, marks):
                await self._core.apply(entry, *facts)
        except AgoraError as error:
            logger.warning("dispatch %s: what its worker said could not be written down: %s", id, error)

    async def take(self, event: bytes) -> bool:
        """Write down an event that came another way; see `AgoraClient.hear`."""
        try:
            said = _Mark.model_validate_json(event)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(f"no event of a worker: {where or 'JSON'}: {first['msg']}") from None
        if said.type not in WORKER_TYPES:
            raise InvalidRequest(f"no event of a worker: {said.type.value} is for Agora itself to say")
        entry = await self._core.store.read(said.subject)
        facts = facts_of(entry, [event])
        applied = await self._core.apply(entry, *facts) if facts else None
        return applied is not None and applied.entry.version > entry.version

    async def drain(
        self, entry: Entry, target: Target, seconds: float = DRAIN_SECONDS, output: Sequence[LogChunk] | None = None
    ) -> None:
        """Read the last words of a workload that has ended, was asked to stop or has a budget; for two seconds at most.

        Parameters:
            entry: as stored now.
            target: where it ran.
            seconds: how long its caller can wait, if that is less.
            output: its last lines, where they are known.
        """
        if (path := file_of(entry, target)) is not None and not entry.state.terminal:
            await self.hear(entry.id, await anyio.to_thread.run_sync(marks_in, path, abandon_on_cancel=True))
        wanted = entry.state is State.STOPPING and entry.acknowledged is None
        wanted = wanted or (bool(entry.budget) and not entry.state.terminal)
        if not wanted or entry.handle is None or not target.has("logs") or not target.implements("logs"):
            return
        if output is not None and not entry.budget:
            sieves = _Sieves(entry.id)
            await self.hear(entry.id, [mark for chunk in output for mark in sieves.feed(chunk)[1]])
            return
        with anyio.move_on_after(min(DRAIN_SECONDS, seconds)) as scope:
            try:
                async with aclosing(self._read(entry, target, False, None, DRAIN_LINES)) as chunks:
                    sieves = _Sieves(entry.id)
                    marks = [mark async for chunk in chunks for mark in sieves.feed(chunk)[1]]
            except AgoraError as error:
                logger.info("dispatch %s: the last words of its worker cannot be read: %s", entry.id, error)
                return
            await self.hear(entry.id, marks)
        if scope.cancelled_caught:
            logger.info("dispatch %s: its output did not come in time", entry.id)

    async def catch_up(self, entry: Entry, target: Target, before: Caught | None) -> Caught:
        """Read what a running workload has said, on every way that leads to this machine.

        Parameters:
            entry: with its handle.
            target: where it runs.
            before: what this process read before; null the first time.
        Raises:
            AgoraError: it cannot be read.
        """
        caught = Caught(read_to=entry.output_at if before is None else before.read_to)
        if (path := file_of(entry, target)) is not None:
            caught.marks += await anyio.to_thread.run_sync(marks_in, path, abandon_on_cancel=True)
        if not reads_output(entry):
            caught.whole = True
        elif target.implements("logs"):
            with anyio.move_on_after(CATCH_UP_SECONDS):
                await self._catch_up_output(entry, target, before, caught)
                caught.whole = True
        return caught

    async def _catch_up_output(self, entry: Entry, target: Target, before: Caught | None, caught: Caught) -> None:
        known = caught.read_to
        since = None if known is None else known - timedelta(seconds=OVERLAP_SECONDS)
        first = known is None and before is None and entry.output_size is None
        sieves = _Sieves(entry.id)
        size = 0
        # For silence the end of it is enough; what was spent may stand anywhere.
        tail = DRAIN_LINES if first and not entry.budget else None
        async with aclosing(self._read(entry, target, False, since, tail)) as chunks:
            async for chunk in chunks:
                rest, marks = sieves.feed(chunk)
                caught.marks += marks
                size += len(rest.data) + rest.dropped
                if chunk.at is not None:
                    caught.read_to = max(chunk.at, caught.read_to or chunk.at)
                    if (rest.data or rest.dropped) and (known is None or chunk.at > known):
                        caught.output, caught.output_at = True, chunk.at
        if caught.read_to is None and not first:
            # A log without a clock is read from its beginning each time: more of it is new.
            caught.output_size = size
            caught.output = size != (entry.output_size or 0)

    async def output(
        self, entry: Entry, target: Target, follow: bool, since: datetime | None, tail: int | None
    ) -> AsyncGenerator[LogChunk, None]:
        """Yield the output of a workload without the marks in it, and write down what these say.

        Parameters:
            entry: with its handle.
            target: where it runs.
            follow, since, tail: as for the hook `logs`; marks do not count as lines.
        """
        surplus = 0
        if tail:
            tail, surplus = await self._window(entry, target, since, tail)
        sieves = _Sieves(entry.id)
        async with aclosing(self._read(entry, target, follow, since, tail)) as chunks:
            async for chunk in chunks:
                rest, marks = sieves.feed(chunk)
                await self.hear(entry.id, marks)
                if surplus:
                    lines = rest.data.split(b"\n", surplus)
                    surplus -= len(lines) - 1
                    rest = rest.model_copy(update={"data": b"" if surplus else lines[-1]})
                if rest.data or rest.dropped:
                    yield rest
        for rest in sieves.close():
            yield rest

    async def _window(self, entry: Entry, target: Target, since: datetime | None, tail: int) -> tuple[int, int]:
        """Return how many of the last lines hold `tail` lines of output, and how many are in them besides."""
        lines = tail
        for _ in range(_MOST_READS):
            sieves = _Sieves(entry.id)
            marks = breaks = visible = 0
            end = b"\n"
            async with aclosing(self._read(entry, target, False, since, lines)) as chunks:
                async for chunk in chunks:
                    rest, found = sieves.feed(chunk)
                    marks += len(found)
                    breaks += chunk.data.count(b"\n")
                    visible += rest.data.count(b"\n")
                    end = rest.data[-1:] or end
            visible += end != b"\n"
            if not marks or visible >= tail or breaks < lines:
                return lines, max(visible - tail, 0)
            lines *= 2
        return lines, 0

    async def _read(
        self, entry: Entry, target: Target, follow: bool, since: datetime | None, tail: int | None
    ) -> AsyncGenerator[LogChunk, None]:
        at_once = 1 if follow else CHUNKS_AT_ONCE

        def begin(chunks: Iterator[LogChunk]) -> tuple[Iterator[LogChunk], Sequence[LogChunk]]:
            # Whoever follows may have to wait for the first one, which is no matter of asking for it.
            return chunks, () if follow else tuple(islice(chunks, at_once))

        chunks, read = await target.call(
            "logs", seconds=SILENT_SECONDS, then=begin, handle=entry.handle, follow=follow, since=since, tail=tail
        )
        for chunk in read:
            yield chunk
        if not follow and len(read) < at_once:
            return
        limiter = anyio.CapacityLimiter(1)
        while True:
            read = ()
            with anyio.move_on_after(SILENT_SECONDS) as scope:
                read = await anyio.to_thread.run_sync(
                    lambda: tuple(islice(chunks, at_once)), limiter=limiter, abandon_on_cancel=True
                )
            if scope.cancelled_caught:
                raise Unreachable(f"target {target.name!r} gave no sign of life within {SILENT_SECONDS:g} s")
            for chunk in read:
                yield chunk
            if len(read) < at_once:
                return


class _Sieves:
    """A sieve for each stream of one dispatch."""

    def __init__(self, id: str) -> None:
        self._sieves = {"stdout": Sieve(id), "stderr": Sieve(id)}
        self._last: dict[str, LogChunk] = {}

    def feed(self, chunk: LogChunk) -> tuple[LogChunk, list[bytes]]:
        """Return a chunk without marks, and the marks."""
        rest, marks = self._sieves[chunk.stream].feed(chunk.data)
        self._last[chunk.stream] = chunk
        return chunk if rest == chunk.data else chunk.model_copy(update={"data": rest}), marks

    def close(self) -> list[LogChunk]:
        """Return what was held back and is output."""
        held = ((chunk, self._sieves[stream].close()) for stream, chunk in self._last.items())
        return [chunk.model_copy(update={"data": data, "dropped": 0}) for chunk, data in held if data]
