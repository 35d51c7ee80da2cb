"""Who waits for the store can be cancelled at any moment."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from agora.store import Store
from agora.store.pulse import Ear


@pytest.mark.parametrize("steps", range(6))
def test_a_cancellation_that_comes_with_a_change_is_not_lost(store: Store, run: Callable[..., Any], steps: int) -> None:
    async def listen(ear: Ear) -> None:
        while True:
            await ear.wait(60)

    async def work() -> None:
        async with store.pulse.listen() as ear:
            waiting = asyncio.create_task(listen(ear))
            # Long enough for it to be waiting; what matters comes next, step by step of the event loop.
            await asyncio.sleep(0.1)
            ear.event.set()
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            done, _ = await asyncio.wait([waiting], timeout=20)
            assert done, "it was told to end and waits on"
            assert waiting.cancelled()

    run(work(), 60)
