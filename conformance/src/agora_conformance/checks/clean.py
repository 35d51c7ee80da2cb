"""CLEAN: nothing is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio.to_thread
from agora.model.observation import Phase

from agora_conformance.arena import Arena
from agora_conformance.registry import check
from agora_conformance.target import SeesLeftovers
from agora_conformance.verdict import require


@check("CLEAN-01")
async def no_process_left(arena: Arena) -> None:
    """End in every way: by itself, with a tree, stopped, killed."""
    hooks = arena.hooks()
    probes = [
        await arena.start_raw(hooks, "exit", 0, 20, ready=False),
        await arena.start_raw(hooks, "tree", 1, 60, ready=False),
        await arena.start_raw(hooks, "tree", 0, 0),
        await arena.start_raw(hooks, "stubborn", grace=2),
    ]
    for probe in probes[2:]:
        await hooks.stop(probe.handle, 2)
    for probe in probes:
        await probe.end(10)
        await probe.must_be_dead("after proof of death")
    left = await arena.processes(hooks.installation)
    require(not left, f"{len(left or ())} processes of the installation are left")
    live = [item.handle.id for item in await hooks.owned() if not item.ended]
    require(not live, f"{len(live)} ended workloads are listed as live")


@check("CLEAN-02")
async def released(arena: Arena) -> None:
    """Release what has ended and look for it."""
    hooks = arena.hooks()
    probes = [
        await arena.start_raw(hooks, "exit", 0, 20, ready=False),
        await arena.start_raw(hooks, "graceful", 0, 10),
    ]
    await hooks.stop(probes[1].handle, 2)
    for probe in probes:
        await probe.end(10)
        if hooks.has("release"):
            await hooks.call("release", handle=probe.handle)
            await hooks.call("release", handle=probe.handle)
    for probe in probes:
        require(await hooks.find(probe.id) is None, "find still finds a released workload")
        seen = await hooks.observe(probe.handle)
        require(seen.phase in (Phase.ABSENT, Phase.ENDED), f"a released workload is {seen.phase.value}")
    require(not await hooks.owned(), "released workloads are still listed")
    if isinstance(arena.target.eyes, SeesLeftovers):
        left = await anyio.to_thread.run_sync(arena.target.eyes.leftovers, hooks.installation)
        require(not left, f"the backend still keeps {', '.join(left)[:300]}")


@check("CLEAN-03")
async def owned_list(arena: Arena) -> None:
    """List two live workloads."""
    hooks = arena.hooks()
    probes = [await arena.start_raw(hooks, "default"), await arena.start_raw(hooks, "default")]
    owned = {item.handle.id: item for item in await hooks.owned()}
    require(set(owned) == {probe.id for probe in probes}, f"listed are {sorted(owned)}")
    for item in owned.values():
        require(item.installation == hooks.installation, f"the mark is {item.installation!r}")
        require(not item.ended, "a live workload is listed as ended")
        age = datetime.now(UTC) - item.created_at
        require(abs(age) < timedelta(minutes=10), f"a workload of this minute is {age} old")
        require((await hooks.observe(item.handle)).phase is Phase.RUNNING, "a listed handle does not work")
