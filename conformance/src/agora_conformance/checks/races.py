"""CANCEL: at any moment of the start, and at any moment around the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
from agora.model.cancel import Outcome
from agora.model.ids import new_dispatch_id
from agora.model.record import Record, State

from agora_conformance.arena import Arena
from agora_conformance.registry import check
from agora_conformance.verdict import require
from agora_conformance.witness import Probe

#: Moments at which a race is run.
OFFSETS = 20
#: Seconds of a start over which cancels are spread at most.
LONGEST_START = 0.5
#: Seconds after the dispatch at which a workload is cancelled, and for which the shortest one lives.
CANCEL_AFTER, SHORTEST_LIFE = 0.4, 0.2
#: Seconds for the end to be told of one that may not have been reached by its stop; how soon is not the question.
END_LIMIT = 15
#: Races at the same time.
LANES = 4


async def _nothing_left(probe: Probe, record: Record) -> None:
    again = (await probe.record()).state
    require(again is record.state, f"it ended as {record.state.value} and then as {again.value}")
    seen = await probe.processes()
    require(not seen, f"{len(seen or ())} processes are left")


@check("CANCEL-08")
async def racing_the_start(arena: Arena) -> None:
    """Spread cancels over the time that a start takes, and a bit more."""
    client = await arena.client()
    first = await arena.start("default")
    began = anyio.current_time()
    second = await arena.start("default", ready=False)
    usual = min(anyio.current_time() - began, LONGEST_START)
    for probe in (first, second):
        await probe.cancel()
        await probe.end(3)
    arena.measured["dispatch"] = round(usual, 4)
    outcomes: Counter[str] = Counter()

    async def race(offset: float) -> None:
        dispatch_id = new_dispatch_id()
        started = anyio.Event()

        async def dispatch() -> None:
            await client.dispatch(arena.spec("default"), id=dispatch_id)
            started.set()

        async with anyio.create_task_group() as group:
            group.start_soon(dispatch)
            await anyio.sleep(offset)
            result = await client.cancel(dispatch_id, reason="racing the start")
            if result.outcome is Outcome.NOT_FOUND:
                await started.wait()
                outcomes["before the record"] += 1
                result = await client.cancel(dispatch_id, reason="racing the start")
        outcomes[result.outcome.value] += 1
        probe = arena.adopt(dispatch_id)
        record = await probe.end(3)
        state = record.state
        require(state is State.CANCELLED, f"cancelled {offset * 1000:.1f} ms into the start: {state.value}")
        await _nothing_left(probe, record)

    await _lanes([usual * 2 * number / OFFSETS for number in range(OFFSETS)], race)
    left = await arena.processes(first.installation)
    require(not left, f"{len(left or ())} processes of the installation are left")
    arena.measured["outcomes"] = dict(outcomes)


@check("CANCEL-09")
async def racing_the_end(arena: Arena) -> None:
    """Cancel at one moment workloads that end at or after it; a busy machine is late, so that others have ended."""
    client = await arena.client()
    began = anyio.current_time()
    await arena.start("exit", 0, 0, ready=False)
    usual = anyio.current_time() - began
    outcomes: Counter[str] = Counter()

    async def race(life: float) -> None:
        probe = await arena.start("exit", 0, round(100 * life), ready=False)
        await anyio.sleep(CANCEL_AFTER)
        result = await client.cancel(probe.id, reason="racing the end")
        record = await probe.end(END_LIMIT)
        outcomes[f"{result.outcome.value} {record.state.value}"] += 1
        allowed = {
            Outcome.STOPPING: (State.CANCELLED, State.SUCCEEDED),
            Outcome.ALREADY_SUCCEEDED: (State.SUCCEEDED,),
        }.get(result.outcome, ())
        require(record.state in allowed, f"{result.outcome.value} was answered and it ended as {record.state.value}")
        code = record.exit_code
        require(record.state is not State.SUCCEEDED or code == 0, f"it succeeded with exit code {code}")
        await _nothing_left(probe, record)

    close = [SHORTEST_LIFE + 0.04 * number for number in range(OFFSETS // 2)]
    # Where a dispatch takes long, its workload has lived for as long when the answer comes.
    step = 0.2 + usual / 2
    await _lanes([*close, *(max(close) + step * number for number in range(1, OFFSETS // 2 + 1))], race)
    arena.measured["outcomes"] = dict(outcomes)


async def _lanes(offsets: list[float], race: Callable[[float], Awaitable[None]]) -> None:
    async def lane(mine: list[float]) -> None:
        for offset in mine:
            await race(offset)

    async with anyio.create_task_group() as group:
        for number in range(LANES):
            group.start_soon(lane, offsets[number::LANES])
