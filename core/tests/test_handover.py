"""What is made for somebody who goes away meanwhile, or breaks, is closed all the same, and not by chance."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, AgoraError, BlockingClient, handover, hookimpl
from agora.config import Settings
from agora.engine import Engine
from agora.store import Store

Run = Callable[..., Any]
MakeSettings = Callable[..., Settings]
Eventually = Callable[[Callable[[], Any]], Any]


def stores() -> set[threading.Thread]:
    """The threads of open stores."""
    return {thread for thread in threading.enumerate() if thread.name == "agora-store"}


def test_a_target_that_is_made_too_late_for_its_caller_is_closed(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, eventually: Eventually, monkeypatch: Any
) -> None:
    made: list[object] = []
    closed: list[object] = []

    def close(self: object) -> None:
        closed.append(self)

    def create(self: Any, config: Any) -> None:
        self.config = config
        made.append(self)

    monkeypatch.setattr(paper.Paper, "close", hookimpl(close))
    monkeypatch.setattr(paper.Paper, "__init__", create)

    async def work() -> None:
        paper.SILENT.add("create")
        async with AgoraClient(home, settings=paper_settings()) as client:
            targets = client._opened.engine.core.targets  # the engine is made here: from two threads it would be two
            caller = asyncio.create_task(client.dispatch(command=("true",)))
            await asyncio.to_thread(eventually, lambda: targets._providers)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            paper.RELEASE.set()
            await asyncio.to_thread(eventually, lambda: made)
            await asyncio.to_thread(eventually, lambda: closed)

    run(work())
    assert closed == made


def test_a_client_that_is_cancelled_as_it_is_entered_leaves_no_store_open(
    home: Path, run: Run, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stores()
    begun, go_on, opened = threading.Event(), threading.Event(), threading.Event()

    def slow(self: AgoraClient) -> Store:
        begun.set()
        assert go_on.wait(30)
        try:
            return Store(self.home)
        finally:
            opened.set()

    monkeypatch.setattr(AgoraClient, "_store", slow)

    async def work() -> None:
        entering = asyncio.create_task(AgoraClient(home).__aenter__())
        assert await asyncio.to_thread(begun.wait, 30)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        go_on.set()
        assert await asyncio.to_thread(opened.wait, 30)

    run(work())
    eventually(lambda: stores() <= before)


def test_what_is_there_when_its_caller_is_cancelled_is_closed_and_a_failure_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    async def cancelled_afterwards(work: Callable[[], object], *rest: object, **how: object) -> None:
        if rest:
            work(*rest)
            return
        work()
        raise asyncio.CancelledError

    def let_go(one: str) -> None:
        closed.append(one)
        raise ValueError("it is stuck")

    monkeypatch.setattr("anyio.to_thread.run_sync", cancelled_afterwards)
    with pytest.raises(asyncio.CancelledError):
        run(handover.made(lambda: "one", let_go))
    assert closed == ["one"]
    assert "could not be closed" in caplog.text


def test_a_client_whose_supervision_breaks_closes_its_store_all_the_same(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stores()

    async def broken(self: Engine, **how: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Engine, "supervise", broken)

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            await (await client.dispatch(command=("true",))).wait()

    with pytest.raises(BaseExceptionGroup):
        run(work())
    assert stores() <= before


def test_a_listener_whose_event_loop_is_closed_keeps_no_write_from_being_told(
    store: Store, make_entry: Callable[..., Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with store.pulse.listen() as ear:
            with monkeypatch.context() as patch:
                # It is closed by its own thread just after the store's thread has looked.
                patch.setattr(ear, "loop", closed := asyncio.new_event_loop())
                closed.close()
                patch.setattr(closed, "is_closed", lambda: False)
                await store.create(make_entry("d1"))
            assert (await store.read("d1")).id == "d1"

    run(work())


def test_a_call_that_comes_as_another_thread_closes_the_client_is_told_so(
    paper: Any, paper_settings: MakeSettings, home: Path
) -> None:
    class Closed(BlockingClient):
        """Is closed by another thread once it was looked whether it is open."""

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name == "_portal" and found is not None and threading.current_thread() is caller:
                thread = threading.Thread(target=self.__exit__, args=(None, None, None))
                thread.start()
                thread.join()
            return found

    caught: list[BaseException] = []

    def call() -> None:
        try:
            client.list()
        except BaseException as error:  # noqa: BLE001 - looked at below
            caught.append(error)

    caller = threading.Thread(target=call)
    client = Closed(home, settings=paper_settings())
    with client:
        caller.start()
        caller.join(30)
    assert [type(error) for error in caught] == [AgoraError]
