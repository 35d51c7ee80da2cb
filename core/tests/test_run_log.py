"""The events of a run: all of them, in the order in which they were committed."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import anyio
import pytest
from agora.client import BlockingClient, following
from agora.config import Settings
from agora.errors import DispatchNotFound, InvalidRequest
from agora.model.events import Event
from agora.testing import FakeClient

pytestmark = pytest.mark.anyio
PATIENCE = 20


@pytest.fixture
def anyio_backend() -> str:
    """Use what the client runs on."""
    return "asyncio"


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    """Everything, or a failure."""
    with anyio.fail_after(PATIENCE):
        return [event async for event in events]


def kinds(events: list[Event]) -> list[tuple[str, str]]:
    """What happened to whom, in order."""
    return [(event.subject, event.type.value.removeprefix("dispatch.")) for event in events]


async def test_the_events_of_all_members_come_in_the_order_of_what_was_done() -> None:
    async with FakeClient(actor="ann") as client:
        a = await client.dispatch(command=["x"], run="r", name="a", id="a")
        await client.dispatch(command=["x"], run="other", id="stranger")
        b = await client.dispatch(command=["x"], run="r", name="b", id="b")
        await a.cancel(reason="enough")
        await a.wait(timeout=PATIENCE)
        await client.finish(b.id)
        log = await all_of(client.run_events("r"))
        wanted = {"requested", "cancel_requested", "terminated"}
        assert [one for one in kinds(log) if one[1] in wanted] == [
            ("a", "requested"), ("b", "requested"), ("a", "cancel_requested"), ("a", "terminated"), ("b", "terminated"),
        ]  # fmt: skip
        causes = [event.data["cause"] for event in log if event.subject == "a" and "cause" in event.data]
        assert [cause["reason"] for cause in causes] == ["enough", "enough"]
        for number, event in enumerate(log):
            assert await all_of(client.run_events("r", after=event.id)) == log[number + 1 :]


async def test_what_there_is_not_is_an_error_and_not_an_empty_log() -> None:
    async with FakeClient() as client:
        await client.dispatch(command=["x"], run="r", id="a")
        for follow in (False, True):
            with pytest.raises(DispatchNotFound, match="no dispatch of run 'nobody'"):
                await all_of(client.run_events("nobody", follow=follow))
            with pytest.raises(DispatchNotFound):
                await all_of(client.run_events("nobody", follow=follow, after="a/1"))
            for wrong in ("a/99", "a", "a/x", "/", "", "a/" + "9" * 30):
                with pytest.raises(InvalidRequest, match="there is no event"):
                    await all_of(client.run_events("r", follow=follow, after=wrong))


async def test_following_takes_in_who_comes_later_and_ends_when_nothing_is_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "PAGE", 3)
    async with FakeClient() as client:
        seen: list[Event] = []
        later = anyio.Event()

        async def follow() -> None:
            async for event in client.run_events("r", follow=True):
                seen.append(event)
                if event.subject == "b":
                    later.set()
            ended.append(True)

        ended: list[bool] = []
        await client.dispatch(command=["x"], run="r", id="a")
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await client.dispatch(command=["x"], run="r", id="b")
                await later.wait()
                await client.finish("a")
                assert not ended
                await client.finish("b")
        assert ended
        assert kinds(seen)[-1] == ("b", "terminated")
        assert seen == await all_of(client.run_events("r"))


async def test_a_follower_misses_nothing_where_numbers_of_rows_are_used_again() -> None:
    async with FakeClient() as client:
        seen: list[Event] = []

        async def until(id: str, kind: str) -> None:
            for _ in range(PATIENCE * 100):
                if (id, kind) in kinds(seen):
                    return
                await anyio.sleep(0.01)
            raise AssertionError(f"{kind} of {id} never came")

        async def follow() -> None:
            async for event in client.run_events("r", follow=True):
                seen.append(event)  # noqa: PERF401 - others look at it meanwhile

        async with anyio.create_task_group() as tasks:
            await client.dispatch(command=["x"], run="r", id="first")
            tasks.start_soon(follow)
            for id in ("gone1", "gone2"):
                await client.dispatch(command=["x"], run="r", id=id)
                await client.finish(id)
            await until("gone2", "terminated")
            for id in ("gone1", "gone2"):
                await client._opened.store.delete(id)
            await client.dispatch(command=["x"], run="r", id="new")
            await until("new", "started")
            await client.finish("new")
            await client.finish("first")
        assert len({event.id for event in seen}) == len(seen), "each event once"
        assert [one for one in kinds(seen) if one[0] in ("first", "new")] == kinds(await all_of(client.run_events("r")))


async def test_the_order_outlives_a_vacuum() -> None:
    async with FakeClient() as client:
        for id in ("c", "a", "b"):
            await client.dispatch(command=["x"], run="r", id=id)
        await client.dispatch(command=["x"], run="other", id="pruned")
        await client.finish("a")
        before = await all_of(client.run_events("r"))
        await client._opened.store.delete("pruned")
        with closing(sqlite3.connect(client._opened.store.path, isolation_level=None)) as connection:
            connection.execute("VACUUM")
        assert await all_of(client.run_events("r")) == before


def test_the_blocking_twin_reads_it_too(paper: Any, paper_settings: Callable[..., Settings], home: Any) -> None:
    with BlockingClient(home, settings=paper_settings(), supervisor=False) as client:
        handle = client.dispatch(command=["x"], run="r")
        first = next(iter(client.run_events("r", follow=True)))
        assert (first.subject, first.sequence) == (handle.id, 1)
        assert next(event.sequence for event in client.run_events("r", after=first.id)) == 2
        with pytest.raises(DispatchNotFound):
            list(client.run_events("nobody"))
