"""FOREIGN: what is not ours is not touched."""

from __future__ import annotations

import anyio.to_thread
from agora.errors import AgoraError
from agora.model.observation import Phase

from agora_conformance.arena import Arena
from agora_conformance.registry import check
from agora_conformance.target import MakesStrangers
from agora_conformance.verdict import Untested, require
from agora_conformance.witness import HookProbe


async def _untouched(probe: HookProbe) -> None:
    seen = await probe.hooks.observe(probe.handle)
    require(seen.phase is Phase.RUNNING, f"the other installation's workload is {seen.phase.value}")
    require(await probe.alive(), "the other installation's workload did not go on")
    require(not (await probe.pulse()).terms, "the other installation's workload was sent a signal")


@check("FOREIGN-01")
async def another_installation(arena: Arena) -> None:
    """Work beside another installation, and reap."""
    ours, theirs = arena.hooks(), arena.hooks()
    other = await arena.start_raw(theirs, "graceful", 0, 0)
    mine = await arena.start_raw(ours, "stubborn", grace=2)
    require(await ours.find(other.id) is None, "find finds another installation's workload")
    listed = [item.handle.id for item in await ours.owned()]
    require(listed == [mine.id], f"the list of what is ours is {listed}")
    await ours.stop(mine.handle, 2)
    client = await arena.client()
    reaped = await client.reap()
    require(not reaped, f"reap reports {len(reaped)} workloads of an empty store")
    await mine.end(2)
    await _untouched(other)


@check("FOREIGN-02")
async def unmarked(arena: Arena) -> None:
    """Stop, kill, reap and release beside a stranger."""
    eyes = arena.target.eyes
    if not isinstance(eyes, MakesStrangers):
        raise Untested("the target has no way to start an unmarked workload")
    stranger = await anyio.to_thread.run_sync(eyes.stranger)
    try:
        hooks = arena.hooks()
        probes = [await arena.start_raw(hooks, "tree", 0, 0), await arena.start_raw(hooks, "stubborn", grace=2)]
        for probe in probes:
            await hooks.stop(probe.handle, 2)
        if hooks.has("kill"):
            await hooks.call("kill", handle=probes[1].handle)
        for probe in probes:
            await probe.end(2)
            if hooks.has("release"):
                await hooks.call("release", handle=probe.handle)
        client = await arena.client()
        await client.reap()
        require(await anyio.to_thread.run_sync(stranger.alive), "an unmarked workload was ended")
    finally:
        await anyio.to_thread.run_sync(stranger.remove)


@check("FOREIGN-03")
async def same_id_elsewhere(arena: Arena) -> None:
    """Dispatch and stop an id that another installation uses."""
    ours, theirs = arena.hooks(), arena.hooks()
    other = await arena.start_raw(theirs, "graceful", 0, 0)
    try:
        handle = await ours.dispatch(other.id, arena.spec("graceful", 0, 0))
    except AgoraError as error:
        arena.measured["answer"] = type(error).__name__
    else:
        mine = arena.hook_probe(ours, handle)
        await mine.ready()
        await ours.stop(handle, 2)
        await mine.end(2)
        arena.measured["answer"] = "a workload of its own"
    await _untouched(other)
