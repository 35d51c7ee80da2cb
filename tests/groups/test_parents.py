"""Parents and children: a cancel reaches all that is below, and tells of each."""

import os
import signal
import sys
from collections.abc import Callable

import pytest
from agora import AgoraClient, InvalidRequest, Outcome, State

from tests.groups.conftest import alive, has, sleeper, spec, until

pytestmark = [pytest.mark.backend("local"), pytest.mark.anyio]
Open = Callable[[], AgoraClient]


async def test_cancelling_a_parent_cancels_all_below_it_and_tells_of_each(client: Open) -> None:
    async with client() as agora:
        parent = await agora.dispatch(**spec(sleeper()))
        child = await agora.dispatch(**spec(sleeper()), parent=parent.id)
        ended = await agora.dispatch(command=["true"], parent=parent.id)
        grandchild = await agora.dispatch(**spec(sleeper()), parent=child.id)
        stranger = await agora.dispatch(**spec(sleeper()))
        await ended.wait(timeout=20)
        result = await parent.cancel(reason="budget")
        assert {(one.id, one.outcome) for one in result.children} == {
            (child.id, Outcome.STOPPING), (grandchild.id, Outcome.STOPPING), (ended.id, Outcome.ALREADY_SUCCEEDED),
        }  # fmt: skip
        for handle in (parent, child, grandchild):
            record = await handle.wait(confirmed=True, timeout=20)
            assert record.state is State.CANCELLED
            assert not alive(record)
        cause = (await child.get()).cause
        assert cause is not None
        assert (cause.actor, cause.policy, cause.reason) == (
            "ann", "parent_cancelled", f"{parent.id} was stopped: budget",
        )  # fmt: skip
        assert (await ended.get()).state is State.SUCCEEDED
        assert alive(stranger.record)
        for late in (parent.id, "nobody"):
            with pytest.raises(InvalidRequest, match=late):
                await agora.dispatch(command=["true"], parent=late)
        await stranger.cancel(force=True)
        await stranger.wait(confirmed=True, timeout=20)


async def test_a_child_whose_backend_does_not_answer_is_told_apart_and_follows(client: Open) -> None:
    async with client() as agora:
        parent = await agora.dispatch(**spec(sleeper()))
        child = await agora.dispatch(**spec(sleeper()), parent=parent.id)
        shim = int(child.record.native["shim"])
        os.kill(shim, signal.SIGSTOP)
        try:
            result = await parent.cancel()
        finally:
            os.kill(shim, signal.SIGCONT)
        assert result.delivered is True
        [told] = result.children
        assert (told.id, told.state) == (child.id, State.STOPPING)
        assert (await child.wait(confirmed=True, timeout=30)).state is State.CANCELLED


PARENT = """
import anyio
from agora import AgoraClient
async def main():
    async with AgoraClient() as agora:
        await (await agora.dispatch(command=["sleep", "600"], grace=2)).wait()
anyio.run(main)
"""


async def test_what_a_workload_dispatches_goes_with_it(client: Open) -> None:
    async with client() as agora:
        parent = await agora.dispatch(command=[sys.executable, "-c", PARENT], grace=2)
        await until(lambda: has(agora, 2))
        result = await parent.cancel()
        [told] = result.children
        child = await agora.wait(told.id, confirmed=True, timeout=30)
        assert child.state is State.CANCELLED
        assert not alive(child)
        await parent.wait(confirmed=True, timeout=30)
