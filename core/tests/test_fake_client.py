"""The fake client keeps state as the real one does."""

import anyio
import pytest
from agora import DispatchCancelled, DispatchConflict, Outcome, State
from agora.testing import FakeClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Use what the client runs on."""
    return "asyncio"


async def test_cancelling_what_has_completed_says_so_and_leaves_the_result() -> None:
    async with FakeClient() as client:
        handle = await client.dispatch(command=["never-run"])
        assert handle.record.state is State.RUNNING
        assert (await client.finish(handle.id)).state is State.SUCCEEDED
        result = await handle.cancel(reason="too late")
        assert result.outcome is Outcome.ALREADY_SUCCEEDED
        assert (await handle.get()).cause is None


async def test_a_cancel_ends_it_with_its_cause_and_wakes_who_waits() -> None:
    async with FakeClient(actor="ann") as client:
        handle = await client.dispatch(command=["never-run"])
        woken = []

        async def wait() -> None:
            with pytest.raises(DispatchCancelled) as raised:
                await handle.result()
            woken.append(raised.value.cause)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await handle.cancel(reason="enough")
        [cause] = woken
        assert cause is not None
        assert (cause.actor, cause.reason) == ("ann", "enough")
        assert (await handle.cancel()).outcome is Outcome.ALREADY_CANCELLED


async def test_it_races_retries_ids_and_knows_its_targets() -> None:
    async with FakeClient(targets=("one", "two")) as client:
        handle = await client.dispatch(command=["x"], id="same")
        assert (await client.dispatch(command=["x"], id="same")).id == handle.id
        with pytest.raises(DispatchConflict):
            await client.dispatch(command=["y"], id="same")
        other = await client.dispatch(command=["x"], target="two")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.finish, other.id)
            raced = await client.race([handle, other])
        assert (raced.winner.id, raced.winner.target, raced.cancelled) == (other.id, "two", ("same",))


async def test_a_stubborn_workload_goes_on_and_an_away_backend_is_told() -> None:
    async with FakeClient(stubborn=True) as client:
        handle = await client.dispatch(command=["x"])
        client.backend.away = True
        assert (await handle.cancel()).delivered is False
        client.backend.away = False
        assert (await handle.cancel()).delivered is True
        assert (await handle.get()).state is State.STOPPING
        assert (await client.finish(handle.id, exit_code=1)).state is State.CANCELLED
