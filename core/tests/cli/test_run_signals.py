"""What `run` does with signals, with a client whose answers are given and real signals to this process."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, cast

import anyio
import pytest
from agora.cli.base import Session
from agora.cli.run import SIGNALS, Foreground
from agora.client import AgoraClient
from agora.model.cancel import CancelResult, Outcome
from agora.model.observation import LogChunk
from agora.model.record import Record, State

ID = "01jx0000000000000000000000"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Use what the command uses."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """Undo that `run` leaves signals ignored for the rest of its process, which here is that of all tests."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Started:
    """The handle of a dispatch."""

    def __init__(self, record: Record) -> None:
        self.id = record.id
        self.record = record


class GivenClient:
    """A client whose dispatch ends when the test says so."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.end = record
        self.recorded = False
        self.hold_dispatch = anyio.Event()
        self.hold_dispatch.set()
        self.ended = anyio.Event()
        self.cancels: list[tuple[str, bool]] = []
        self.accepted = 0
        self.told = anyio.Event()
        self.degraded: tuple[str, ...] = ()
        self.chunks: list[LogChunk] = []
        self.logs_end = True
        self.record_seconds = 0.0
        self.committed: list[tuple[str, bool]] = []

    def has_accepted(self, wanted: int) -> bool:
        return self.accepted >= wanted

    async def dispatch(self, **fields: Any) -> Started:
        await self.hold_dispatch.wait()
        self.recorded = True
        return Started(self.record)

    async def get(self, id: str, *, refresh: bool = True) -> Record:
        return self.record

    async def wait(self, id: str) -> Record:
        await self.ended.wait()
        return self.end

    async def logs(self, id: str, *, follow: bool) -> AsyncIterator[LogChunk]:
        for chunk in self.chunks:
            yield chunk
        if not self.logs_end:
            await anyio.sleep_forever()

    async def cancel(self, id: str, *, reason: str, force: bool) -> CancelResult:
        self.cancels.append((reason, force))
        self.told.set()
        if not self.recorded:
            return CancelResult(id=id, outcome=Outcome.NOT_FOUND)
        await anyio.sleep(self.record_seconds)
        self.committed.append((reason, force))
        self.accepted += 1
        return CancelResult(
            id=id, outcome=Outcome.STOPPING, state=State.STOPPING, delivered=True,
            degraded=self.degraded if force else (),
        )  # fmt: skip


@pytest.fixture
def client(make_record: Callable[..., Record]) -> GivenClient:
    """Give a client with one running dispatch that ends cancelled."""
    given = GivenClient(make_record(id=ID))
    given.end = make_record("cancelled", id=ID, confirmed=True, exit_code=0)
    return given


async def signalled(client: GivenClient, *numbers: signal.Signals) -> int:
    """Run in the foreground, send signals one after the other has been answered, let it end; return its code."""
    codes: list[int] = []
    before = signal.getsignal(signal.SIGHUP)

    async def run() -> None:
        codes.append(
            await Foreground(cast(AgoraClient, client), Session(), quiet=False).run(None, ID, {"command": ["x"]})
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(lambda: signal.getsignal(signal.SIGHUP) is not before)
        for count, number in enumerate(numbers, 1):
            os.kill(os.getpid(), number)
            await until(partial(client.has_accepted, min(count, 2)))
        if len(numbers) < 3:
            client.ended.set()
        await until(lambda: codes)
    return codes[0]


async def until(question: Callable[[], Any]) -> None:
    """Wait until the answer is true, for a bounded time."""
    for _ in range(3_000):
        if question():
            return
        await anyio.sleep(0.01)
    raise AssertionError("never came true")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_first_signal_cancels_gracefully_and_is_the_reason(
    client: GivenClient, number: signal.Signals
) -> None:
    assert await signalled(client, number) == 130
    assert client.cancels == [(number.name, False)]


async def test_the_second_forces(client: GivenClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert await signalled(client, signal.SIGINT, signal.SIGTERM) == 130
    assert client.cancels == [("SIGINT", False), ("SIGTERM", True)]
    assert "cannot force" not in capsys.readouterr().err


async def test_a_backend_that_cannot_force_is_named_and_waited_for(
    client: GivenClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.degraded = ("force",)
    assert await signalled(client, signal.SIGINT, signal.SIGINT) == 130
    assert "this backend cannot force" in capsys.readouterr().err


async def test_the_third_detaches(client: GivenClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert await signalled(client, signal.SIGINT, signal.SIGINT, signal.SIGINT) == 125
    assert f"detached from {ID}" in capsys.readouterr().err
    assert not client.ended.is_set()


async def test_three_at_once_are_recorded_before_it_detaches(client: GivenClient) -> None:
    client.record_seconds = 0.2
    codes: list[int] = []
    before = signal.getsignal(signal.SIGHUP)

    async def run() -> None:
        foreground = Foreground(cast(AgoraClient, client), Session(), quiet=False)
        codes.append(await foreground.run(None, ID, {"command": ["x"]}))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(lambda: signal.getsignal(signal.SIGHUP) is not before and client.recorded)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(os.getpid(), number)
        await until(lambda: codes)
    assert codes == [125]
    assert len(client.committed) >= 2
    assert {force for _, force in client.committed} == {False, True}


async def test_a_terminal_that_hangs_up_twice_at_once_does_not_force(client: GivenClient) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(signalled, client, signal.SIGHUP)
        await client.told.wait()
        os.kill(os.getpid(), signal.SIGHUP)
    assert client.cancels == [("SIGHUP", False)]


async def test_a_signal_before_the_record_is_there_is_not_lost(client: GivenClient) -> None:
    client.hold_dispatch = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(signalled, client, signal.SIGTERM)
        await client.told.wait()
        client.hold_dispatch.set()
    assert set(client.cancels) == {("SIGTERM", False)}
    assert len(client.cancels) >= 2


async def test_output_that_goes_on_after_the_end_does_not_delay_it(
    client: GivenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agora.cli.run.LOG_DRAIN", 0.1)
    client.logs_end = False
    client.ended.set()
    with anyio.fail_after(30):
        code = await Foreground(cast(AgoraClient, client), Session(), quiet=True).run(None, ID, {"command": ["x"]})
    assert code == 130


async def test_streams_stay_apart_byte_for_byte(
    client: GivenClient, make_record: Callable[..., Record], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    client.end = make_record("failed", exit_code=3)
    client.chunks = [
        LogChunk(stream="stdout", data=b"out\xff\n"), LogChunk(stream="stderr", data=b"err"),
        LogChunk(stream="stdout", data=b"more", dropped=7), LogChunk(stream="stdout", data=b""),
    ]  # fmt: skip
    client.ended.set()
    assert await Foreground(cast(AgoraClient, client), Session(), quiet=True).run(None, ID, {"command": ["x"]}) == 3
    printed = capfdbinary.readouterr()
    assert printed.out == b"out\xff\nmore"
    assert printed.err == b"erragora: 7 bytes of output were dropped here\n"
