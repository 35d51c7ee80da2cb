"""What the worker says arrives on the record: with real processes, and with a backend on paper."""

import asyncio
import json
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agora import hookimpl
from agora.client import AgoraClient
from agora.config import Settings
from agora.engine import listen
from agora.errors import ProviderError
from agora.model.events import EventType
from agora.model.observation import LogChunk, Observation, Phase, ReceiptKind, StopReceipt
from agora.model.record import State
from agora.worker.marks import pack

Run = Callable[..., Any]
LOCAL = Settings(supervisor=False)

WORKER = """
import sys, time
from agora.worker import BlockingWorker
with BlockingWorker(progress_every=0.01) as worker:
    worker.progress(1, 2)
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("saved", flush=True)
"""


def python(source: str) -> list[str]:
    """Return the command that runs a program."""
    return [sys.executable, "-c", textwrap.dedent(source)]


async def has_said(client: AgoraClient, id: str, word: str) -> None:
    """Wait for a line of the workload's output."""
    text = b""
    async with asyncio.timeout(20):
        async for chunk in client.logs(id, follow=True):
            text += chunk.data
            if word.encode() in text:
                return
    raise AssertionError(f"it never said {word!r}: {text!r}")


async def output(client: AgoraClient, id: str, **how: Any) -> bytes:
    """Return a workload's output as everybody sees it."""
    return b"".join([chunk.data async for chunk in client.logs(id, **how)])


async def events(client: AgoraClient, id: str) -> list[EventType]:
    """Return the types of the events on the record."""
    return [event.type async for event in client.events(id)]


@pytest.mark.parametrize(
    "command", [python(WORKER), [sys.executable, "-m", "agora.worker", "exec", "--", "sleep", "60"]]
)
def test_a_clean_cancel_is_acknowledged_on_the_record(
    home: Path, run: Run, eventually: Callable[[Callable[[], Any]], Any], command: list[str]
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client:
            handle = await client.dispatch(command=command, grace=10)
            if "-c" in command:
                await has_said(client, handle.id, "ready")
            else:
                pid = handle.record.native["pid"]
                await asyncio.to_thread(eventually, lambda: has_child(pid, b"sleep"))
            await handle.cancel(reason="the wrong input")
            record = await handle.wait(timeout=50)
            assert (record.state, record.acknowledged, record.forced) == (State.CANCELLED, True, False)
            told = [event async for event in handle.events()]
            (cancelled,) = [event for event in told if event.type is EventType.CANCELLED]
            assert cancelled.data["clean"] is True
            assert cancelled.data["cause"]["reason"] == "the wrong input"
            (terminated,) = [event for event in told if event.type is EventType.TERMINATED]
            assert terminated.data["acknowledged"] is True
            assert terminated.sequence > cancelled.sequence
            assert b"agora:1:" not in await output(client, handle.id)

    run(work())


def has_child(pid: int, name: bytes) -> bool:
    """Whether a process has a child that is that program."""
    with suppress(OSError):  # one of them has ended since
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return bool(children) and name in Path(f"/proc/{children[0]}/cmdline").read_bytes()
    return False


def test_without_a_word_nothing_is_acknowledged(home: Path, run: Run) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client:
            handle = await client.dispatch(command=["sleep", "60"], grace=5)
            await handle.cancel()
            record = await handle.wait(timeout=50)
            assert (record.state, record.acknowledged) == (State.CANCELLED, None)

    run(work())


def test_a_program_that_did_not_get_done_is_not_acknowledged(home: Path, run: Run) -> None:
    source = WORKER.replace('print("saved", flush=True)', "time.sleep(60)")

    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client:
            handle = await client.dispatch(command=python(source), grace=6)
            await has_said(client, handle.id, "ready")
            await handle.cancel()
            record = await handle.wait(timeout=50)
            assert (record.state, record.acknowledged, record.forced) == (State.CANCELLED, False, False)

    run(work())


def test_progress_is_on_the_record_once_however_many_read_it(home: Path, run: Run) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client, AgoraClient(home, settings=LOCAL) as second:
            handle = await client.dispatch(command=python(WORKER), grace=10)
            await asyncio.gather(*(has_said(reader, handle.id, "ready") for reader in (client, client, second)))
            async with asyncio.timeout(30):  # it is told by a thread, and may come after what was printed later
                while EventType.PROGRESS not in await events(client, handle.id):
                    await output(second, handle.id)
            await asyncio.gather(*(output(reader, handle.id) for reader in (client, client, second)))
            assert (await events(client, handle.id)).count(EventType.PROGRESS) == 1
            await handle.cancel()
            await handle.wait(timeout=50)
            assert await output(client, handle.id) == b"ready\nsaved\n"
            assert (await events(client, handle.id)).count(EventType.PROGRESS) == 1
            assert (await events(client, handle.id)).count(EventType.CANCELLED) == 1

    run(work())


def test_marks_do_not_count_as_lines(home: Path, run: Run) -> None:
    source = """
    import time
    from agora.worker import BlockingWorker
    with BlockingWorker(progress_every=0.0) as worker:
        for number in range(20):
            print(number, flush=True)
            for step in range(3):
                worker.progress(number, step=step)
                time.sleep(0.005)
    """

    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client:
            handle = await client.dispatch(command=python(source))
            await handle.wait(timeout=50)
            for count in (1, 5, 19):
                expected = b"".join(b"%d\n" % number for number in range(20 - count, 20))
                assert await output(client, handle.id, tail=count) == expected
            assert await output(client, handle.id, tail=3, follow=True) == b"17\n18\n19\n"
            assert len((await output(client, handle.id)).splitlines()) == 20

    run(work())


def test_a_worker_knows_its_grace_and_its_secrets_end_with_it(home: Path, run: Run) -> None:
    source = """
    import os, time
    from agora.worker import BlockingWorker
    with BlockingWorker() as worker:
        print(len(worker.secrets["KEY"]), len(worker.secrets["OTHER"]), list(worker.secrets),
              os.environ["AGORA_WORKER_GRACE"], os.environ["AGORA_WORKER_TIMEOUT"])
    assert "KEY" not in os.environ
    print("gone", b"s3" + b"cret" not in open("/proc/self/environ", "rb").read(), flush=True)
    """

    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client:
            secrets = {"KEY": "s3cret-1", "OTHER": "s3cret-22"}
            handle = await client.dispatch(command=python(source), secrets=secrets, grace=7, timeout=99)
            record = await handle.wait(timeout=50)
            said = await output(client, handle.id)
            assert record.state is State.SUCCEEDED, said
            assert said.decode().splitlines() == ["8 9 ['KEY', 'OTHER'] 7 99", "gone True"]
            again = await client.dispatch(command=python(source), secrets=secrets, grace=7, timeout=99, id=handle.id)
            assert again.id == handle.id, "what a worker is told is no part of what was asked for"

    run(work())
    left = [path for path in home.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert left == []


def test_the_example_goes_on_where_it_was_cancelled(home: Path, run: Run, tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "examples" / "worker.py"
    checkpoint = tmp_path / "checkpoint.json"

    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client:
            command = [sys.executable, str(example), str(checkpoint)]
            first = await client.dispatch(command=[*command, "100000000"], grace=10)
            async with asyncio.timeout(20):
                while EventType.PROGRESS not in await events(client, first.id):
                    assert await output(client, first.id) == b""
            await client.cancel(first.id)
            record = await client.wait(first.id, timeout=50)
            assert (record.state, record.acknowledged) == (State.CANCELLED, True)
            saved = json.loads(checkpoint.read_text())["candidate"]
            assert saved >= 1000
            second = await client.dispatch(command=[*command, str(saved + 5)])
            assert (await second.wait(timeout=50)).state is State.SUCCEEDED
            assert json.loads(checkpoint.read_text())["candidate"] == saved + 5

    run(work())


# --- any backend, by its output --------------------------------------------------------------------------------


def said(id: str, number: int, kind: str = "dispatch.cancelled", /, **data: Any) -> bytes:
    """Return a mark."""
    event = {"id": f"abc.{number}", "type": kind, "subject": id, "sequence": number, "data": data, "specversion": "1.0"}
    return pack(id, json.dumps(event).encode())


def give(monkeypatch: pytest.MonkeyPatch, paper: Any, asked: list[Any], *pieces: bytes) -> None:
    """Have the backend on paper give this output."""

    def logs(self: object, handle: Any, follow: bool, since: Any, tail: Any) -> Any:
        asked.append((follow, tail))
        for piece in pieces:
            yield LogChunk(stream="stdout", data=piece)
        paper._at("logs")

    monkeypatch.setattr(paper.Paper, "logs", hookimpl(logs))


async def cancelled(client: AgoraClient, paper: Any, id: str) -> Any:
    """Dispatch, cancel, and let the backend say that it has ended."""
    handle = await client.dispatch(command=("true",), id=id)
    await handle.cancel()
    paper.ENDS[id] = Observation(phase=Phase.ENDED, exit_code=0)
    return await handle.wait(timeout=50)


def test_any_backend_with_logs_carries_it_and_is_asked_once(
    paper: Any, paper_settings: Callable[..., Settings], home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    mark = said("d1", 1, clean=True)
    give(monkeypatch, paper, asked, b"some output\n" + mark[:30], mark[30:] + b"more\n")

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            record = await cancelled(client, paper, "d1")
            assert (record.state, record.acknowledged) == (State.CANCELLED, True)
            assert asked == [(False, listen.DRAIN_LINES)]
            second = await client.dispatch(command=("true",), id="d2")
            paper.ENDS["d2"] = Observation(phase=Phase.ENDED, exit_code=0)
            assert (await second.wait(timeout=50)).state is State.SUCCEEDED
            assert len(asked) == 1, "an end that nobody asked for costs no call"
            assert await output(client, "d1") == b"some output\nmore\n"

    run(work())


@pytest.mark.parametrize("where", ["log", "answer", "log of one with a budget"])
def test_an_end_that_comes_with_the_answer_to_the_stop_carries_it_too(
    paper: Any,
    paper_settings: Callable[..., Settings],
    home: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    asked: list[Any] = []
    mark = said("d1", 1, clean=True)
    give(monkeypatch, paper, asked, mark)
    # What came just before the stop is in it twice.
    pieces = (mark, b"output\n", mark[:30], mark[30:]) if where == "answer" else (b"output\n",)
    output = None if where == "log" else tuple(LogChunk(stream="stdout", data=piece) for piece in pieces)
    budget = {"tokens": 5} if where.endswith("budget") else {}

    def stop(self: object, handle: Any, grace: int, cause: Any) -> StopReceipt:
        return StopReceipt(
            kind=ReceiptKind.SIGNALLED,
            effective_grace=grace,
            observation=Observation(phase=Phase.ENDED, exit_code=0),
            output=output,
        )

    monkeypatch.setattr(paper.Paper, "stop", hookimpl(stop))

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            await client.dispatch(command=("true",), id="d1", budget=budget)
            await client.cancel("d1")
            record = await client.get("d1", refresh=False)
            assert (record.state, record.acknowledged) == (State.CANCELLED, True)
            assert bool(asked) == (where != "answer")
            (terminated,) = [event async for event in client.events("d1") if event.type is EventType.TERMINATED]
            assert terminated.data["acknowledged"] is True

    run(work())


def test_forged_damaged_and_foreign_marks_change_nothing(
    paper: Any, paper_settings: Callable[..., Settings], home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    foreign = said("d2", 1, clean=True)
    lies = said("d1", 1).replace(b'"subject": "d1"', b'"subject": "d2"')
    forged = said("d1", 2, "dispatch.terminated", state="succeeded")
    clash = said("d1", 3, "dispatch.progress", kind="x", self="y", event="z", type="t")
    give(monkeypatch, paper, asked, foreign + pack("d1", b"{no json") + pack("d1", b"[]") + lies + forged + clash)

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            record = await cancelled(client, paper, "d1")
            assert (record.state, record.acknowledged) == (State.CANCELLED, None)
            assert [note.data for note in record.notes if note.type == "refused_worker_event"] == [
                {"event": "dispatch.terminated"}
            ]
            assert await output(client, "d1") == foreign, "the mark of another dispatch is output"
            kinds = await events(client, "d1")
            assert (kinds.count(EventType.PROGRESS), kinds.count(EventType.TERMINATED)) == (1, 1)

    run(work())


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_logs_that_cannot_be_read_keep_no_end_from_being_written(
    paper: Any, paper_settings: Callable[..., Settings], home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(listen, "DRAIN_SECONDS", 0.5)
    asked: list[Any] = []
    give(monkeypatch, paper, asked, said("d1", 1, clean=True))
    if how == "hangs":
        paper.SILENT.add("logs")
    else:
        paper.FAILS["logs"] = ProviderError("no logs today")

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            record = await cancelled(client, paper, "d1")
            assert (record.state, record.acknowledged) == (State.CANCELLED, None)
            paper.SILENT.clear()
            paper.FAILS.clear()
            paper.RELEASE.set()
            # Whoever reads the output later brings the word that came too late.
            assert await output(client, "d1") == b""
            record = await client.get("d1")
            assert (record.state, record.acknowledged) == (State.CANCELLED, True)
            assert [note.data["event"] for note in record.notes if note.type == "late_worker_event"] == [
                "dispatch.cancelled"
            ]

    try:
        run(work())
    finally:
        paper.FAILS.clear()
