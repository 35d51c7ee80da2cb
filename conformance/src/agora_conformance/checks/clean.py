"""CLEAN: nothing is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio.to_thread
from agora.client import AgoraClient
from agora.errors import AgoraError
from agora.model.observation import Phase
from agora.model.record import State

from agora_conformance.arena import Arena, eventually
from agora_conformance.hooks import Hooks
from agora_conformance.registry import check
from agora_conformance.target import SeesLeftovers
from agora_conformance.verdict import Violation, require
from agora_conformance.witness import HookProbe


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


@check("CLEAN-04")
async def live_not_removed(arena: Arena) -> None:
    """Release one that runs and one that is in its grace, and prune a store with one that runs."""
    hooks = arena.hooks()
    grace = 8  # whatever follows of the one that is in its grace comes within it, on a busy machine too
    running = await arena.start_raw(hooks, "default")
    stopping = await arena.start_raw(hooks, "stubborn", grace=grace)
    await hooks.stop(stopping.handle, grace)
    for probe in (stopping, running):
        if hooks.has("release"):
            await _must_not_be_released(hooks, probe)
        seen = await hooks.observe(probe.handle)
        require(seen.phase is Phase.RUNNING, f"a live workload is {seen.phase.value} after its release was refused")
        listed = [item.ended for item in await hooks.owned() if item.handle.id == probe.id]
        require(listed == [False], "a live workload is not listed as such after its release was refused")
        require(await probe.alive(), "a live workload did not outlive the refusal of its release")
    dispatched = await arena.start("default")
    pruned = await dispatched.client.prune(timedelta(0))
    require(not pruned, "prune removed the record of a live workload")
    state = (await dispatched.record()).state
    require(state is State.RUNNING, f"after prune a live workload is {state.value}")
    require(await dispatched.alive(), "prune ended a live workload")


async def _must_not_be_released(hooks: Hooks, probe: HookProbe) -> None:
    try:
        await hooks.call("release", handle=probe.handle)
    except AgoraError:
        return
    raise Violation("a live workload was released")


@check("CLEAN-05")
async def orphans_found(arena: Arena) -> None:
    """Start a workload beside the store of its installation, and reap."""
    client = await arena.client()
    hooks = arena.hooks(arena.installation(), name="home")
    orphan = await arena.start_raw(hooks, "graceful", 0, 10)
    actions = await _reaped(client, orphan.id)
    require(actions == ["kept"], f"reap says {actions} of a live workload of this minute that no record knows")
    require(await orphan.alive(), "reap ended a workload that may just have been dispatched")
    other = arena.hooks(hooks.installation, name="home")
    found = next((item.handle for item in await other.owned() if item.handle.id == orphan.id), None)
    if found is None:
        raise Violation("the workload is not listed")
    await other.stop(found, 3)
    await orphan.end(3)

    async def would_be_removed() -> bool:
        return await _reaped(client, orphan.id, dry_run=True) == ["would remove"]

    late = 10 + arena.limits.report_lag + arena.overhead
    await eventually(would_be_removed, late, "reap would not remove an ended workload that no record knows")
    actions = await _reaped(client, orphan.id)
    require(actions == ["removed"], f"reap says {actions} of an ended workload that no record knows")
    require(not await _reaped(client, orphan.id), "reap lists what it has removed")
    require(await other.find(orphan.id) is None, "find finds what reap has removed")


async def _reaped(client: AgoraClient, dispatch_id: str, *, dry_run: bool = False) -> list[str]:
    return [row.action for row in await client.reap(dry_run=dry_run) if row.id == dispatch_id]
