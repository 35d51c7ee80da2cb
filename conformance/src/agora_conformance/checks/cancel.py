"""CANCEL: one answer and one end, whoever asks, how often, with what grace."""

from __future__ import annotations

import json

import anyio
from agora.errors import DispatchCancelled, StopRequested
from agora.model.cancel import CancelResult, Outcome
from agora.model.cause import Via
from agora.model.events import EventType
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase
from agora.model.record import State

from agora_conformance.arena import Arena
from agora_conformance.hooks import Hooks
from agora_conformance.probe import BEAT
from agora_conformance.registry import check
from agora_conformance.timing import Bracket
from agora_conformance.verdict import Violation, require
from agora_conformance.witness import BREATH


@check("CANCEL-01")
async def after_the_end(arena: Arena) -> None:
    """Cancel what has succeeded and what has failed."""
    client = await arena.client()
    for code, outcome in ((0, Outcome.ALREADY_SUCCEEDED), (1, Outcome.ALREADY_FAILED)):
        probe = await arena.start("exit", code, 10, ready=False)
        before = await probe.end(30)
        result = await client.cancel(probe.id, reason="too late")
        require(result.outcome is outcome, f"the answer after exit code {code} is {result.outcome.value}")
        after = await probe.record()
        changed = {key for key, value in after if value != getattr(before, key)} - {"reachable", "notes"}
        require(not changed, f"the late cancel changed {sorted(changed)}")


@check("CANCEL-02")
async def unknown_id(arena: Arena) -> None:
    """Cancel an id that nobody dispatched."""
    client = await arena.client()
    result = await client.cancel(new_dispatch_id())
    require(result.outcome is Outcome.NOT_FOUND, f"the answer is {result.outcome.value}")


@check("CANCEL-03")
async def twice(arena: Arena) -> None:
    """Cancel again while it stops."""
    probe = await arena.start("graceful", 0, 120)
    first = await probe.cancel(reason="first")
    second = await probe.cancel(reason="second")
    require(first.outcome is Outcome.STOPPING, f"the first answer is {first.outcome.value}")
    require(second.outcome is Outcome.ALREADY_STOPPING, f"the second answer is {second.outcome.value}")
    require(second.cause and second.cause.reason == "first", "the second answer does not carry the first cause")
    record = await probe.end(3)
    require(record.cause and record.cause.reason == "first", "the record does not carry the first cause")
    terms = (await probe.pulse()).terms
    require(len(terms) == 1, f"the workload saw SIGTERM {len(terms)} times")


@check("CANCEL-04")
async def twenty_at_once(arena: Arena) -> None:
    """Cancel twenty times at once."""
    probe = await arena.start("graceful", 0, 120)
    results: list[CancelResult] = []

    async def one(number: int) -> None:
        results.append(await probe.cancel(reason=f"number {number}"))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    outcomes = [result.outcome for result in results]
    arena.measured["outcomes"] = {outcome.value: outcomes.count(outcome) for outcome in set(outcomes)}
    require(outcomes.count(Outcome.STOPPING) == 1, f"{outcomes.count(Outcome.STOPPING)} requests were recorded")
    wrong = set(outcomes) - {Outcome.STOPPING, Outcome.ALREADY_STOPPING, Outcome.ALREADY_CANCELLED}
    require(not wrong, f"some answers are {sorted(wrong)}")
    causes = {result.cause.request_id for result in results if result.cause}
    require(len(causes) == 1, f"the answers carry {len(causes)} causes")
    await probe.end(3)
    terms = (await probe.pulse()).terms
    require(len(terms) == 1, f"the workload saw SIGTERM {len(terms)} times")
    requested = [event for event in await probe.events() if event.type is EventType.CANCEL_REQUESTED]
    require(len(requested) == 1, f"there are {len(requested)} events of a request")


@check("CANCEL-05")
async def longer_never_extends(arena: Arena) -> None:
    """Ask for a longer grace while the first one runs."""
    probe = await arena.start("stubborn", grace=3, beat=BEAT)
    bracket = await Bracket.begin(probe)
    await probe.cancel()
    await probe.cancel(grace=20)
    hooks = arena.hooks()
    raw = await arena.start_raw(hooks, "stubborn", grace=3, beat=BEAT)
    other = await Bracket.begin(raw)
    await hooks.stop(raw.handle, 3)
    await hooks.stop(raw.handle, 20)
    await bracket.must_die(3)
    await other.must_die(3)


@check("CANCEL-06")
async def shorter_shortens(arena: Arena) -> None:
    """Ask for a shorter grace while a long one runs."""
    probe = await arena.start("stubborn", grace=20, beat=BEAT)
    await probe.cancel()
    await probe.says("term")
    bracket = await Bracket.begin(probe)
    async with anyio.create_task_group() as group:
        group.start_soon(probe.client.wait, probe.id)
        result = await probe.cancel(grace=2)
        require(not result.degraded, f"the answer names {result.degraded} as not done")
        await bracket.must_die(2)
        group.cancel_scope.cancel()
    lived = ((await probe.pulse()).last or 0) - bracket.before
    require(lived >= 1, f"it died {lived:.1f} s after the second cancel; it had 1 s at least")


@check("CANCEL-07")
async def before_start(arena: Arena) -> None:
    """Request the stop at the first, the second, ... look of the provider, until it looks no more."""
    for allowed in range(6):
        hooks = arena.hooks()
        dispatch_id = new_dispatch_id()
        looks = 0

        def look(allowed: int = allowed) -> None:
            nonlocal looks
            looks += 1
            if looks > allowed:
                raise StopRequested("the suite asks for a stop")

        try:
            handle = await hooks.dispatch(dispatch_id, arena.spec("default"), look)
        except StopRequested:
            await _never_runs(arena, hooks, dispatch_id)
            continue
        probe = arena.hook_probe(hooks, handle)
        if looks > allowed:
            seen = await probe.end(1)
            require(seen.never_started, "a workload ran although the stop was requested before")
            continue
        require(allowed, "the provider never looked whether a stop was requested")
        arena.measured["looks"] = looks
        return


async def _never_runs(arena: Arena, hooks: Hooks, dispatch_id: str) -> None:
    await anyio.sleep(BREATH + arena.limits.settle_time)
    seen = await arena.processes(hooks.installation)
    require(not seen, f"{len(seen or ())} processes run although the stop was requested before the start")
    found = await hooks.find(dispatch_id)
    if found is not None:
        state = await hooks.observe(found)
        gone = state.phase is Phase.ABSENT or (state.phase is Phase.ENDED and state.never_started)
        require(gone, f"a workload is {state.phase.value} although the stop was requested before the start")


@check("CANCEL-10")
async def from_another_process(arena: Arena) -> None:
    """Let the `agora` command cancel, which knows the state directory and the id."""
    probe = await arena.start("graceful", 0, 10)
    code, output = await arena.command("cancel", probe.id, "--reason", "from far away", "--json")
    require(code == 0, f"`agora cancel` ended with {code}")
    answer = json.loads(output)
    answer = answer[0] if isinstance(answer, list) else answer
    require(answer["outcome"] == Outcome.STOPPING, f"the answer is {answer['outcome']}")
    record = await probe.end(3)
    require(record.state is State.CANCELLED, f"it ended as {record.state.value}")
    require((await probe.pulse()).terms, "the workload saw no SIGTERM")
    _carries(record.cause, "the record")
    try:
        await probe.client.result(probe.id)
    except DispatchCancelled as error:
        _carries(error.cause, "DispatchCancelled")
    else:
        raise Violation("result() did not raise for a cancelled dispatch")
    event = next(item for item in await probe.events() if item.type is EventType.CANCEL_REQUESTED)
    require("from far away" in json.dumps(event.data), "the event of the request does not carry the reason")


def _carries(cause: object, where: str) -> None:
    reason, via = getattr(cause, "reason", None), getattr(cause, "via", None)
    require(reason == "from far away", f"{where} gives the reason {reason!r}")
    require(via is Via.CLI, f"{where} names the door {via}")


@check("CANCEL-11")
async def force(arena: Arena) -> None:
    """Force the end of what has a long grace and ignores SIGTERM."""
    probe = await arena.start("stubborn", grace=20, beat=BEAT)
    bracket = await Bracket.begin(probe)
    async with anyio.create_task_group() as group:
        group.start_soon(probe.client.wait, probe.id)
        result = await probe.cancel(force=True)
        require(not result.degraded, f"the answer names {result.degraded} as not done")
        await bracket.must_die(1)
        group.cancel_scope.cancel()
    record = await probe.end(2)
    require(record.state is State.CANCELLED, f"it ended as {record.state.value}")


@check("CANCEL-12")
async def never_refused(arena: Arena) -> None:
    """Ask for another grace, and for force, whatever the backend can do."""
    capabilities = arena.info.capabilities
    other = await arena.start("graceful", 0, 10, grace=3)
    result = await other.cancel(grace=5)
    require(result.outcome is Outcome.STOPPING, f"a stop with another grace was answered with {result.outcome.value}")
    named = "grace" in result.degraded
    require(named != capabilities.has("grace_per_stop"), f"another grace: `degraded` is {result.degraded}")
    forced = await arena.start("graceful", 0, 10, grace=3)
    result = await forced.cancel(force=True)
    require(result.outcome is Outcome.STOPPING, f"a forced stop was answered with {result.outcome.value}")
    named = "force" in result.degraded
    require(named != capabilities.has("force_kill"), f"force: `degraded` is {result.degraded}")
    for probe in (other, forced):
        record = await probe.end(5)
        require(record.state is State.CANCELLED, f"it ended as {record.state.value}")


@check("CANCEL-13")
async def deadline(arena: Arena) -> None:
    """Let a dispatch run into its timeout."""
    probe = await arena.start("graceful", 0, 10, timeout=3)
    record = await probe.end(3 + 3)
    require(record.state is State.TIMED_OUT, f"it ended as {record.state.value}")
    require((await probe.pulse()).terms, "the workload saw no SIGTERM")
    at = next(event.time for event in await probe.events() if event.type is EventType.CANCEL_REQUESTED)
    require(record.submitted_at is not None, "the record has no `submitted_at`")
    if record.submitted_at is not None:
        lasted = (at - record.submitted_at).total_seconds()
        arena.measured["stopped_after"] = round(lasted, 2)
        require(lasted >= 3, f"its stop was requested {lasted:.2f} s after it was submitted; the timeout is 3 s")
