"""What a group answers, and what it leaves behind, on a backend in memory."""

from typing import Any

import anyio
import pytest
from agora import (
    AgoraError,
    CancelResult,
    DispatchCancelled,
    DispatchConflict,
    DispatchFailed,
    InvalidRequest,
    Outcome,
    State,
)
from agora.client import members
from agora.errors import DispatchNotFound, StoreError, UnknownTarget
from agora.model.cause import Cause, Via
from agora.model.record import Record
from agora.testing import FakeClient

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
ONE: dict[str, Any] = {"command": ["never-run"]}


@pytest.fixture
def anyio_backend() -> str:
    """Use what the client runs on."""
    return "asyncio"


async def live(client: FakeClient, count: int) -> None:
    """Wait until so many run."""
    with anyio.fail_after(30):
        while len(await client.list(states=[State.RUNNING])) < count:  # noqa: ASYNC110 - of another task
            await anyio.sleep(0.01)


async def test_ends_come_in_their_order_also_where_all_are_over_at_the_first_look() -> None:
    async with FakeClient() as client:
        handles = [await client.dispatch(**ONE) for _ in range(4)]
        order = [handles[number].id for number in (2, 0, 3, 1)]
        for id in order:
            await client.finish(id)
        assert [record.id async for record in client.as_completed(handles)] == order
        assert (await client.race(handles)).winner.id == order[0]


async def test_a_join_of_one_key_raises_for_the_same_member_again() -> None:
    async with FakeClient() as client:
        raised: list[str] = []

        async def join() -> None:
            with pytest.raises(DispatchFailed) as failed:
                await client.join_all([ONE, ONE], key="join")
            raised.append(failed.value.record.id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(join)
            await live(client, 2)
            await client.finish("join-1", exit_code=3)
        assert (await client.wait("join-0", timeout=30)).state is State.CANCELLED, "its group was left"
        await join()
        assert raised == ["join-1", "join-1"]


@pytest.mark.parametrize("key", [None, "step"])
async def test_what_somebody_cancels_after_a_policy_ended_it_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    async with FakeClient() as client:
        ended: list[str] = []
        decide = client._tried_again

        async def meanwhile(record: Record, *arguments: Any) -> bool:
            again = await decide(record, *arguments)
            answer = await client.cancel(record.id, reason="leave it")
            assert answer.outcome is Outcome.ALREADY_CANCELLED
            assert answer.cause is not None
            assert answer.cause.policy == "missed_heartbeats", "the first cause stands"
            ended.append(record.id)
            return again

        monkeypatch.setattr(client, "_tried_again", meanwhile)

        async def hang() -> None:
            await live(client, 1)
            [one] = await client.list()
            await client.cancel(one.id, cause=Cause(actor="agora", via=Via.POLICY, policy="missed_heartbeats"))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang)
                for _ in range(2 if key else 1):
                    with pytest.raises(DispatchCancelled) as raised:
                        await client.retry(ONE, attempts=3, key=key, unhealthy=True)
                    assert raised.value.dispatch_id == ended[0]
        [record] = await client.list()
        assert [note.data["cause"]["reason"] for note in record.notes if note.type == "also_cancelled"] == ["leave it"]


async def test_what_somebody_else_cancelled_has_not_completed_and_stays_so() -> None:
    async with FakeClient() as client:
        good, unwanted, late = [await client.dispatch(**ONE) for _ in range(3)]
        await client.finish(good.id)
        await unwanted.cancel()
        for _ in range(2):
            joined = await client.join_all_with_timeout([unwanted, good, late], 1, key="join")
            assert [record.id for record in joined.completed] == [good.id]
            assert [record.id for record in joined.cancelled] == [unwanted.id, late.id]


async def test_a_key_of_another_call_is_refused_and_cancels_nobody() -> None:
    async with FakeClient() as client:
        raced = [await client.dispatch(**ONE) for _ in range(2)]
        await client.finish(raced[0].id)
        await client.race(raced, key="once")
        others = [await client.dispatch(**ONE) for _ in range(2)]
        for verb in (client.race, client.join_all):
            with pytest.raises(DispatchConflict, match="another call"):
                await verb(others, key="once")
        with pytest.raises(DispatchConflict, match="another call"):
            await client.join_all_with_timeout(others, 5, key="once")
        assert [(await other.get()).state for other in others] == [State.RUNNING] * 2


async def test_what_can_be_checked_is_checked_before_anything_starts() -> None:
    async with FakeClient() as client:
        known = await client.dispatch(**ONE)

        class Unknown:
            id = "nobody"

        with pytest.raises(UnknownTarget):
            await client.join_all([ONE, {**ONE, "target": "elsewhere"}])
        with pytest.raises(DispatchNotFound):
            await client.race([ONE, Unknown()])
        assert [record.id for record in await client.list()] == [known.id]
        for attempts in (2.5, "3", None):
            with pytest.raises(InvalidRequest, match="attempts"):
                await client.retry(ONE, attempts=attempts)  # type: ignore[arg-type]
        for timeout in (float("inf"), float("nan"), 1e15, 0, -1):
            with pytest.raises(InvalidRequest, match="timeout"):
                await client.join_all_with_timeout([known], timeout)


async def test_a_loser_that_cannot_be_cancelled_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeClient() as client:
        winner, stuck, other = [await client.dispatch(**ONE) for _ in range(3)]
        await client.finish(winner.id)
        cancel = client.cancel

        async def refuse(id: str, **how: Any) -> CancelResult:
            if id == stuck.id:
                raise StoreError("no space left")
            await anyio.sleep(0.1)
            return await cancel(id, **how)

        monkeypatch.setattr(client, "cancel", refuse)
        with pytest.raises(StoreError, match="no space left"):
            await client.race([winner, stuck, other])
        assert [(await one.get()).state for one in (stuck, other)] == [State.RUNNING, State.CANCELLED]


async def test_a_member_whose_target_does_not_answer_holds_up_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "STOP_SECONDS", -1.5)
    async with FakeClient() as client:
        winner, loser, late = [await client.dispatch(**ONE, grace=2) for _ in range(3)]
        await client.finish(winner.id)
        client.backend.away = True
        with anyio.fail_after(30):
            raced = await client.race([winner, loser])
            joined = await client.join_all_with_timeout([winner, late], 0.1)
        assert (raced.winner.id, [record.state for record in raced.losers]) == (winner.id, [State.STOPPING])
        assert [record.id for record in joined.completed] == [winner.id]
        assert [(record.id, record.state) for record in joined.cancelled] == [(late.id, State.STOPPING)]
        client.backend.away = False
        for one in (loser, late):
            assert (await client.wait(one.id, timeout=30)).state is State.CANCELLED, "the stop was carried out then"


@pytest.mark.parametrize("verb", ["race", "join_all_settled", "wait"])
async def test_who_waits_hears_that_the_client_was_closed(verb: str) -> None:
    raised: list[str] = []
    async with anyio.create_task_group() as tasks, FakeClient() as client:
        handle = await client.dispatch(**ONE)

        async def wait() -> None:
            with pytest.raises(AgoraError) as closed:
                await getattr(client, verb)(handle.id if verb == "wait" else [handle])
            raised.append(str(closed.value))

        tasks.start_soon(wait)
        with anyio.fail_after(30):
            while not client._opened.engine.core.interest:  # noqa: ASYNC110 - of another task
                await anyio.sleep(0.01)
    assert len(raised) == 1
    assert "closed" in raised[0]
