"""CRASH: the control plane is killed with SIGKILL between two steps, and another one comes."""

from __future__ import annotations

import signal

import anyio
from agora.model.ids import new_dispatch_id
from agora.model.record import State

from agora_conformance.arena import Arena, eventually
from agora_conformance.probe import BEAT
from agora_conformance.registry import check
from agora_conformance.timing import Bracket
from agora_conformance.verdict import Inconclusive, require
from agora_conformance.witness import ALIVE_WITHIN, Probe

#: Seconds after which another process may take over: the lease of a dead sender is 15 s (contract 3).
TAKEOVER = 30.0


async def _killed(arena: Arena, **order: object) -> None:
    code = await arena.child(**order)
    arena.calm.set()
    require(code, f"the control plane came to its end, and never to the point {order['fault']}")
    if code != -signal.SIGKILL:
        said = arena.measured.get("stderr", "")
        raise Inconclusive(f"the control plane ended with {code} and was not killed: {said}")


async def _settled(probe: Probe) -> State | None:
    await probe.client.reconcile()
    state = (await probe.record()).state
    return state if state.terminal or state is State.RUNNING else None


async def _dispatched_and_killed(arena: Arena, fault: str) -> Probe:
    dispatch_id = new_dispatch_id()
    spec = arena.spec("graceful", 0, 10).model_dump(mode="json", exclude={"secrets"})
    await _killed(arena, id=dispatch_id, spec=spec, fault=fault)
    await arena.client()
    return arena.adopt(dispatch_id)


@check("CRASH-01")
async def before_the_submit(arena: Arena) -> None:
    """Kill it before the provider is asked to start."""
    probe = await _dispatched_and_killed(arena, "dispatch:before")
    wait = TAKEOVER + arena.limits.settle_time
    state = await eventually(lambda: _settled(probe), wait, "it neither ran nor ended")
    arena.measured["state"] = state.value
    record = await probe.record()
    require(record.exit_code is None, f"it never ran, and it is {state.value} with exit code {record.exit_code}")
    if state is State.RUNNING:
        await probe.ready()
        await probe.cancel()
        await probe.end(3)
    seen = await arena.processes(probe.installation)
    require(not seen, f"{len(seen or ())} processes run that no live record knows")


@check("CRASH-02")
async def before_the_handle_is_stored(arena: Arena) -> None:
    """Kill it when the workload runs and the store does not know yet."""
    probe = await _dispatched_and_killed(arena, "dispatch:after")
    wait = TAKEOVER + arena.limits.settle_time
    state = await eventually(lambda: _settled(probe), wait, "it was neither adopted nor ended")
    require(state is State.RUNNING, f"a running workload became {state.value}")
    await probe.ready()
    said = [line for line in await probe.lines() if line.event == "READY"]
    require(len(said) == 1, f"the probe said READY {len(said)} times")
    await probe.cancel()
    record = await probe.end(3)
    require(record.state is State.CANCELLED, f"it ended as {record.state.value}")
    seen = await arena.processes(probe.installation)
    require(not seen, f"{len(seen or ())} processes are left")


@check("CRASH-03")
async def before_the_stop_is_sent(arena: Arena) -> None:
    """Kill it when the request is recorded and nothing is sent."""
    probe = await arena.start("graceful", 0, 100)
    await _killed(arena, id=probe.id, fault="stop:before")
    require(not (await probe.pulse()).terms, "the fault came too late: SIGTERM was sent already")
    record = await probe.end(TAKEOVER + 3)
    require(record.state is State.CANCELLED, f"it ended as {record.state.value}")
    require(record.cause and record.cause.actor == "child", "the cause is not the one that was recorded")
    terms = (await probe.pulse()).terms
    require(len(terms) == 1, f"the workload saw SIGTERM {len(terms)} times")


@check("CRASH-04")
async def mid_grace(arena: Arena) -> None:
    """Kill it when the stop was accepted, and leave the workload alone with its backend."""
    grace = 4
    probe = await arena.start("stubborn", grace=grace, beat=BEAT)
    await _killed(arena, id=probe.id, fault="stop:after")
    await probe.says("term", within=ALIVE_WITHIN)
    began = anyio.current_time()
    seen = (await probe.pulse()).terms[0]
    await Bracket(probe, seen, began).must_die(grace)
    lived = ((await probe.pulse()).last or 0) - seen
    require(lived >= grace - 1, f"it died {lived:.1f} s after SIGTERM; its grace was {grace} s")
    arena.calm.set()
    record = await probe.end(TAKEOVER)
    require(record.state is State.CANCELLED, f"it ended as {record.state.value}")
    require(record.confirmed is True, f"`confirmed` is {record.confirmed}")
