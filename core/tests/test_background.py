"""Nobody is forgotten: a supervisor starts whatever its caller's surroundings are; a request is recorded at once."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient
from agora.client import supervision
from agora.config import Settings
from agora.engine import background
from agora.model.record import Entry, Lease, State
from agora.store import Store

Make = Callable[..., Entry]
MakeSettings = Callable[..., Settings]
Run = Callable[..., Any]


@pytest.fixture
def spawn(home: Path) -> Iterator[Callable[[], int]]:
    """Give a starter of the background supervisor, which is not left behind."""
    pids: list[int] = []

    def start() -> int:
        pid = background.start(home, Settings())
        assert pid is not None
        pids.append(pid)
        return pid

    yield start
    for pid in pids:
        with suppress(ChildProcessError):
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so the pid is its own
            os.waitpid(pid, 0)


def forsaken(id: str, make_entry: Make) -> Entry:
    """A pending dispatch whose creator is gone: any supervisor ends it, and needs no provider for that."""
    return make_entry(id, submitter=Lease(owner="gone", until=datetime.now(UTC) - timedelta(seconds=1)))


def test_the_background_supervisor_needs_nothing_of_its_callers_directory_and_configuration(
    home: Path, store: Store, make_entry: Make, run: Run, eventually: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, spawn: Callable[[], int],
) -> None:  # fmt: skip
    for name in ("argparse", "anyio", "sqlite3"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the working directory was imported')\n")
    (tmp_path / "agora.toml").write_text("wrong = 1\n")
    (home / "agora.toml").write_text("wrong = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGORA_CONFIG", "relative.toml")
    run(store.create(forsaken("d1", make_entry)))
    spawn()
    eventually(lambda: run(store.read("d1")).state is State.FAILED)
    assert (home / "supervisor.log").read_text() == ""


def test_a_database_that_another_one_replaced_is_looked_after(
    home: Path, make_entry: Make, run: Run, eventually: Any, spawn: Callable[[], int]
) -> None:
    with closing(Store(home)) as first:
        run(first.create(make_entry("d0", start_at=datetime.now(UTC) + timedelta(days=1))))
        run(first.create(forsaken("d1", make_entry)))
        pid = spawn()
        eventually(lambda: run(first.read("d1")).state is State.FAILED)
    for path in home.glob("agora.db*"):
        path.unlink()
    with closing(Store(home)) as second:
        run(second.create(forsaken("d2", make_entry)))
        assert background.running(home), "so whoever dispatches now starts none"
        eventually(lambda: run(second.read("d2")).state is State.FAILED)
        eventually(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))


def test_one_damaged_record_keeps_no_other_dispatch_from_being_looked_after(
    home: Path, store: Store, make_entry: Make, run: Run, eventually: Any, spawn: Callable[[], int]
) -> None:
    run(store.create(make_entry("d0")))
    run(store.create(forsaken("d1", make_entry)))
    store._writer.submit(lambda c: c.execute("UPDATE dispatches SET body = '{}' WHERE id = 'd0'")).result(10)
    pid = spawn()
    eventually(lambda: run(store.read("d1")).state is State.FAILED)
    told = (home / "supervisor.log").read_text()
    assert told.count("the record of dispatch d0 cannot be read") == 1, "once, not with each look"
    eventually(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))


def test_a_dispatch_whose_caller_was_cancelled_is_looked_after_all_the_same(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(supervision, "start", lambda home, settings: started.append("d1" in paper.STARTED))
    paper.SILENT.add("dispatch")
    settings = replace(paper_settings(), supervisor=True)

    async def work() -> None:
        async with AgoraClient(home, settings=settings) as client:
            caller = asyncio.create_task(client.dispatch(command=("true",), id="d1"))
            async with client._opened.store.pulse.listen() as ear:
                while [record.state for record in await client.list()] != [State.SUBMITTED]:
                    assert await ear.wait(30)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert started == []
            paper.RELEASE.set()
        assert started == [True], "before the client is gone, after the workload is there"

    run(work())


def test_a_group_that_is_left_while_a_member_is_being_started_takes_it_along(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        paper.SILENT.add("dispatch")
        async with AgoraClient(home, settings=paper_settings()) as client:
            joining = asyncio.create_task(client.join_all_settled([{"command": ["true"], "id": "d1"}]))
            async with client._opened.store.pulse.listen() as ear:
                while [record.state for record in await client.list()] != [State.SUBMITTED]:
                    assert await ear.wait(30)
                joining.cancel()
                while (record := await client.get("d1", refresh=False)).state is not State.STOPPING:
                    assert await ear.wait(30)
            assert record.cause is not None
            assert record.cause.policy == "owner_gone"
            paper.RELEASE.set()
            with pytest.raises(asyncio.CancelledError):
                await joining

    run(work())


def test_that_no_supervisor_can_be_started_is_on_the_record_and_loses_no_dispatch(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    (home / "supervisor.log").mkdir(parents=True)
    settings = replace(paper_settings(), supervisor=True)

    async def work() -> None:
        async with AgoraClient(home, settings=settings) as client:
            handle = await client.dispatch(command=("true",), id="d1")
            await client.cancel("d1")
            record = await handle.get(refresh=False)
            assert record.state is State.STOPPING
            [note] = [note for note in record.notes if note.type == "no_supervisor"]
            assert "Is a directory" in note.data["error"]

    run(work())


def test_a_request_is_recorded_before_the_target_that_never_comes_about(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def dispatch() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            await client.dispatch(command=("true",), id="d1")

    async def work() -> None:
        paper.SILENT.add("create")
        async with AgoraClient(home, settings=paper_settings()) as client:
            asking = asyncio.create_task(client.cancel("d1", reason="enough"))
            async with client._opened.store.pulse.listen() as ear:
                while (record := await client.get("d1", refresh=False)).state is not State.STOPPING:
                    assert await ear.wait(6), "below the time that making a target may take"
            assert record.cause is not None
            assert record.cause.reason == "enough"
            assert not asking.done()
            assert (await asking).delivered is False

    run(dispatch())
    run(work())
