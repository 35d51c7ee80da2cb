"""STOP: one SIGTERM, the grace, then death of the whole tree."""

from __future__ import annotations

import anyio
from agora.model.ids import new_dispatch_id
from agora.model.observation import Observation, Phase, ReceiptKind
from agora.model.record import Record, State

from agora_conformance.arena import Arena
from agora_conformance.hooks import STOP_LIMIT
from agora_conformance.probe import BEAT
from agora_conformance.registry import check
from agora_conformance.timing import Bracket
from agora_conformance.verdict import require
from agora_conformance.witness import BREATH, START_LIMIT

KILLED = 137


def _cancelled(record: Record) -> None:
    require(record.state is State.CANCELLED, f"it ended as {record.state.value} ({record.reason})")
    require(record.confirmed is True, f"`confirmed` is {record.confirmed}")


def _code(arena: Arena, record: Record, wanted: int) -> None:
    lost = record.exit_code is None and arena.limits.exit_code_may_be_lost
    require(record.exit_code == wanted or lost, f"exit code {wanted} arrived as {record.exit_code}")


@check("STOP-01")
async def one_sigterm(arena: Arena) -> None:
    """Let the probe count while it lingers."""
    probe = await arena.start("graceful", 0, 120)
    await probe.cancel()
    await probe.end(3)
    terms = (await probe.pulse()).terms
    arena.measured["sigterms"] = len(terms)
    require(len(terms) == 1, f"the workload saw SIGTERM {len(terms)} times")


@check("STOP-02")
async def graceful_exit_kept(arena: Arena) -> None:
    """Exit with 7 on SIGTERM."""
    probe = await arena.start("graceful", 7, 30)
    await probe.cancel()
    record = await probe.end(3)
    _cancelled(record)
    _code(arena, record, 7)


@check("STOP-03")
async def alive_within_grace(arena: Arena) -> None:
    """Look for signs of life until one second before the grace is over."""
    grace = 4
    probe = await arena.start("stubborn", grace=grace, beat=BEAT)
    bracket = await Bracket.begin(probe)
    await probe.cancel()
    await bracket.must_live(grace - 1)


@check("STOP-04")
async def dead_after_grace(arena: Arena) -> None:
    """Look for signs of life after the grace and the overhead."""
    grace = 3
    probe = await arena.start("stubborn", grace=grace, beat=BEAT)
    bracket = await Bracket.begin(probe)
    await probe.cancel()
    await bracket.must_die(grace)
    _cancelled(await probe.end(2))


@check("STOP-05")
async def forced_flag(arena: Arena) -> None:
    """Compare a killed workload with one that chooses the exit code of a killed one."""
    killed = await arena.start("stubborn", grace=2)
    willing = await arena.start("graceful", KILLED, 10)
    for probe in (killed, willing):
        await probe.cancel()
    record = await willing.end(3)
    _cancelled(record)
    require(record.forced is not True, "`forced` is true for a workload that exited within its grace")
    _code(arena, record, KILLED)
    record = await killed.end(2)
    _cancelled(record)
    require(record.forced is True, f"`forced` is {record.forced} for a workload that had to be killed")
    require(record.evidence, "`forced` comes without evidence")
    arena.measured["evidence"] = record.evidence


@check("STOP-06")
async def default_disposition(arena: Arena) -> None:
    """Stop a program without a handler that has a long grace."""
    probe = await arena.start("default", grace=15, beat=BEAT)
    bracket = await Bracket.begin(probe)
    await probe.cancel()
    await bracket.must_die(1)
    record = await probe.end(2)
    _cancelled(record)
    require(record.forced is not True, "`forced` is true for a workload that died of SIGTERM")


@check("STOP-07")
async def tree_gone_after_stop(arena: Arena) -> None:
    """Stop a tree whose leader exits and whose children do not."""
    probe = await arena.start("tree", 0, 0)
    await probe.says("beat", "child")
    await probe.says("beat", "escaped")
    await probe.cancel()
    _cancelled(await probe.end(3))
    await probe.must_be_dead("after a confirmed stop")


@check("STOP-08")
async def tree_gone_after_own_end(arena: Arena) -> None:
    """Let the leader exit while its children go on."""
    probe = await arena.start("tree", 3, 150)
    await probe.says("beat", "child")
    await probe.says("beat", "escaped")
    record = await probe.end(10)
    require(record.state is State.FAILED, f"it ended as {record.state.value}")
    require(record.exit_code == 3, f"exit code 3 of the leader arrived as {record.exit_code}")
    await probe.must_be_dead("after the leader's own end")


@check("STOP-09")
async def whole_grace_usable(arena: Arena) -> None:
    """Clean up for most of the grace."""
    grace = 4
    probe = await arena.start("graceful", 5, 100 * (grace - 1), grace=grace)
    await probe.cancel()
    record = await probe.end(grace)
    _cancelled(record)
    require((await probe.pulse()).exited, "the workload was killed while it cleaned up")
    _code(arena, record, 5)
    require(record.forced is not True, "`forced` is true for a workload that exited within its grace")


@check("STOP-10")
async def stop_answers(arena: Arena) -> None:
    """Time the stop hook."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "stubborn", grace=12)
    began = anyio.current_time()
    receipt = await hooks.stop(probe.handle, 12)
    took = anyio.current_time() - began
    arena.measured["seconds"] = round(took, 3)
    require(receipt.kind is ReceiptKind.SIGNALLED, f"the first stop was answered with {receipt.kind.value}")
    require(took < STOP_LIMIT, f"the stop took {took:.1f} s")
    await anyio.sleep(3 * BEAT)
    require(await probe.alive(), "the stop waited for the end of the workload, or hastened it")


@check("STOP-11")
async def stop_idempotent(arena: Arena) -> None:
    """Stop again and again."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "graceful", 0, 250)
    kinds: list[ReceiptKind] = []

    async def stop() -> None:
        kinds.append((await hooks.stop(probe.handle, 4)).kind)

    await stop()
    await stop()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(stop)
    wrong = {kind.value for kind in kinds} - {ReceiptKind.SIGNALLED, ReceiptKind.ALREADY_STOPPING}
    require(not wrong, f"stops of a stopping workload were answered with {sorted(wrong)}")
    await probe.end(4)
    last = await hooks.stop(probe.handle, 4)
    require(last.kind is ReceiptKind.ALREADY_EXITED, f"a stop after the end was answered with {last.kind.value}")
    require(last.observation and last.observation.phase is Phase.ENDED, "ALREADY_EXITED comes without the end")


@check("STOP-12")
async def stop_of_the_absent(arena: Arena) -> None:
    """Look for an id that nobody dispatched, beside one that somebody did, and stop one that was released."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "default")
    released = await arena.start_raw(hooks, "exit", 0, 0, ready=False)
    await released.end(START_LIMIT)
    if hooks.has("release"):
        await hooks.call("release", handle=released.handle)
    receipt = await hooks.stop(released.handle, 3)
    said = receipt.kind in (ReceiptKind.NOT_FOUND, ReceiptKind.ALREADY_EXITED)
    require(said, f"a stop of a released workload was answered with {receipt.kind.value}")
    unknown = new_dispatch_id()
    found = await hooks.find(unknown)
    require(found is None, f"find answered with {found and found.id!r}")
    prefix = await hooks.find(probe.id[:-1])
    require(prefix is None, "find matched a prefix of an id")


@check("STOP-13")
async def end_stays_readable(arena: Arena) -> None:
    """Stop what has ended by itself and what was stopped, and read both ends again, in another instance too."""
    hooks = arena.hooks()
    probes = [await arena.start_raw(hooks, "exit", 5, 20), await arena.start_raw(hooks, "graceful", 6, 10)]
    await hooks.stop(probes[1].handle, 3)
    for probe in probes:
        before = await probe.end(START_LIMIT)
        receipt = await hooks.stop(probe.handle, 2)
        kind = receipt.kind
        require(kind is ReceiptKind.ALREADY_EXITED, f"a stop after the end was answered with {kind.value}")
        require(receipt.observation, "ALREADY_EXITED comes without the end")
        if receipt.observation:
            _same_end(before, receipt.observation, "the answer to the stop")
        await anyio.sleep(BREATH)
        for again in (hooks, arena.hooks(hooks.installation)):
            _same_end(before, await again.observe(probe.handle), "the backend afterwards")
            require(await again.find(probe.id) is not None, "find does not find it any more")
        if arena.info.capabilities.has("logs_after_end"):
            await probe.says("READY", within=3)


def _same_end(before: Observation, after: Observation, who: str) -> None:
    require(after.phase is Phase.ENDED, f"{who} says {after.phase.value}")
    for name in ("exit_code", "signal", "never_started", "ended_by", "oom"):
        then, now = getattr(before, name), getattr(after, name)
        require(then is None or now == then, f"{who} gives {name} as {now}; it was {then}")
