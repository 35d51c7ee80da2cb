"""Reading what a workload says, on a backend on paper: logs without a clock, logs that cannot be read, marks alone."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, hookimpl
from agora.config import Settings
from agora.engine import attend
from agora.engine.listen import DRAIN_LINES
from agora.errors import Unreachable
from agora.model.observation import LogChunk
from agora.model.record import Entry, State
from agora.worker.marks import pack

Run = Callable[..., Any]


class Log:
    """The output of every workload, which a test writes and the backend gives; each reading is counted."""

    def __init__(self) -> None:
        self.chunks: list[LogChunk] = []
        self.asked: list[tuple[datetime | None, int | None]] = []
        self.read_of: list[str] = []
        self.readable = True

    def read(self, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Give it, as the hook does."""
        self.asked.append((since, tail))
        if not self.readable:
            raise Unreachable("the log is away")
        for chunk in self.chunks:
            if since is None or chunk.at is None or chunk.at > since:
                yield chunk

    async def read_again(self, times: int) -> None:
        """Wait until it was read so many times more."""
        wanted = len(self.asked) + times
        async with asyncio.timeout(60):
            while len(self.asked) < wanted:  # noqa: ASYNC110 - the backend is asked from another thread
                await asyncio.sleep(0.02)


@pytest.fixture
def log(paper: Any, monkeypatch: pytest.MonkeyPatch) -> Log:
    """The log of the backend on paper; it is read often."""
    given = Log()

    def logs(self: object, handle: Any, follow: bool, since: Any, tail: Any) -> Any:
        assert not follow
        given.read_of.append(handle.id)
        return given.read(since, tail)

    monkeypatch.setattr(paper.Paper, "logs", hookimpl(logs))
    monkeypatch.setattr(attend, "SHORTEST_PAUSE", 0.2)
    monkeypatch.setattr(attend, "BUDGET_PAUSE", 0.2)
    return given


async def stored(client: AgoraClient, id: str) -> Entry:
    """The entry of a dispatch."""
    return await client._opened.store.read(id)


async def asked_to_stop(client: AgoraClient, id: str) -> Entry:
    """The entry of a dispatch, once a stop of it is recorded."""
    async with asyncio.timeout(60):
        while not (entry := await stored(client, id)).cause:  # noqa: ASYNC110 - a supervisor writes it
            await asyncio.sleep(0.02)
    return entry


def mark(number: int) -> bytes:
    """A heartbeat."""
    event = {"id": f"abc.{number}", "type": "dispatch.heartbeat", "subject": "d1", "sequence": number, "data": {}}
    return pack("d1", json.dumps(event).encode())


@pytest.mark.parametrize("clock", [True, False])
def test_output_that_grows_is_no_silence_whether_the_log_has_a_clock_or_not(
    log: Log, paper_settings: Callable[..., Settings], home: Path, run: Run, clock: bool
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client, asyncio.TaskGroup() as tasks:
            handle = await client.dispatch(command=("true",), id="d1", silence_timeout=2)
            waiting = tasks.create_task(handle.wait(timeout=60))
            begun = datetime.now(UTC)
            # Longer than the timeout; each piece is the same as the one before.
            while datetime.now(UTC) - begun < timedelta(seconds=3):
                log.chunks.append(LogChunk(stream="stdout", data=b".", at=datetime.now(UTC) if clock else None))
                await log.read_again(2)
            entry = await stored(client, "d1")
            assert entry.state is State.RUNNING
            assert entry.silent.seconds < 2
            assert (entry.output_at is not None, entry.output_size is None) == (clock, clock)
            tails = [tail for _, tail in log.asked]
            assert tails[0] is not None, "the first time nothing is known: the end of it is enough"
            assert set(tails[1:]) == {None}, "after that everything new is read"
            assert all((since is not None) is clock for since, _ in log.asked[2:])
            entry = await asked_to_stop(client, "d1")
            assert entry.cause is not None
            assert entry.cause.policy == "output_silence"
            waiting.cancel()

    run(work(), 120)


def test_marks_are_heartbeats_and_no_output(
    log: Log, paper_settings: Callable[..., Settings], home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client, asyncio.TaskGroup() as tasks:
            handle = await client.dispatch(command=("true",), id="d1", silence_timeout=3, heartbeat_timeout=60)
            waiting = tasks.create_task(handle.wait(timeout=60))

            async def write(data: bytes) -> None:
                """Write a piece, and wait until it was read; once it is asked to stop, nobody reads."""
                log.chunks.append(LogChunk(stream="stdout", data=data, at=datetime.now(UTC)))
                asked = len(log.asked)
                while len(log.asked) == asked and not (await stored(client, "d1")).cause:  # noqa: ASYNC110 - the backend is asked from another thread
                    await asyncio.sleep(0.02)

            number = 0
            async with asyncio.timeout(60):
                while not (entry := await stored(client, "d1")).cause:
                    number += 1
                    # In two pieces: a reading may come between them.
                    await write(mark(number)[:20])
                    await write(mark(number)[20:])
            assert entry.cause is not None
            assert entry.cause.policy == "output_silence"
            assert entry.heard["abc"] >= number - 2, "all but what was being read when the stop was recorded"
            assert entry.unheard.seconds < entry.silent.seconds
            waiting.cancel()

    run(work(), 120)


def test_a_log_that_cannot_be_read_is_no_silence(
    log: Log,
    paper_settings: Callable[..., Settings],
    home: Path,
    run: Run,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "agora.engine.attend")

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client, asyncio.TaskGroup() as tasks:
            log.chunks.append(LogChunk(stream="stdout", data=b"hello\n", at=datetime.now(UTC)))
            handle = await client.dispatch(command=("true",), id="d1", silence_timeout=2)
            waiting = tasks.create_task(handle.wait(timeout=90))
            await log.read_again(2)
            log.readable = False
            await log.read_again(1)
            before = (await stored(client, "d1")).silent
            await log.read_again(4)
            entry = await stored(client, "d1")
            assert (entry.state, entry.silent) == (State.RUNNING, before)
            assert "cannot be read" in caplog.text
            log.readable = True
            await asked_to_stop(client, "d1")
            waiting.cancel()

    run(work(), 120)


@pytest.mark.parametrize("clock", [True, False])
def test_what_was_spent_is_heard_wherever_it_stands_in_the_output(
    log: Log, paper_settings: Callable[..., Settings], home: Path, run: Run, clock: bool
) -> None:
    def spent(number: int, total: int) -> None:
        event = {"id": f"abc.{number}", "type": "dispatch.progress", "subject": "d1", "sequence": number}
        line = pack("d1", json.dumps({**event, "data": {"spent": {"x": total}}}).encode())
        for data in (line[:30], line[30:], b"words\n" * 2 * DRAIN_LINES):
            log.chunks.append(LogChunk(stream="stdout", data=data, at=datetime.now(UTC) if clock else None))

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client, asyncio.TaskGroup() as tasks:
            spent(1, 6)
            handle = await client.dispatch(command=("true",), id="d1", budget={"x": 10})
            waiting = tasks.create_task(handle.wait(timeout=90))
            await log.read_again(2)
            entry = await stored(client, "d1")
            assert (entry.spent, entry.state, entry.output_at is not None) == ({"x": 6}, State.RUNNING, clock)
            version = entry.version
            await log.read_again(1)
            assert (await stored(client, "d1")).version == version, "nothing is written where nothing is new"
            spent(2, 11)
            entry = await asked_to_stop(client, "d1")
            assert entry.cause is not None
            assert entry.cause.reason == "budget of 10 x exceeded: 11"
            waiting.cancel()
        assert {tail for _, tail in log.asked} == {None}

    run(work(), 120)


def test_nobody_reads_the_output_of_a_workload_whose_events_go_elsewhere(
    log: Log, paper_settings: Callable[..., Settings], home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client, asyncio.TaskGroup() as tasks:
            env = {"AGORA_WORKER_URL": "http://127.0.0.1:1/"}
            away = await client.dispatch(command=("true",), id="d0", budget={"x": 10}, env=env)
            here = await client.dispatch(command=("true",), id="d1", budget={"x": 10})
            waiting = [tasks.create_task(handle.wait(timeout=90)) for handle in (away, here)]
            await log.read_again(3)
            for one in waiting:
                one.cancel()
        assert set(log.read_of) == {"d1"}

    run(work(), 120)
