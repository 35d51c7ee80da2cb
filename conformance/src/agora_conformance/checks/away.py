"""AWAY: what does not answer is not gone."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
from agora.errors import Unreachable
from agora.model.cancel import Outcome
from agora.model.observation import Phase
from agora.model.record import State

from agora_conformance.arena import Arena, eventually
from agora_conformance.registry import check
from agora_conformance.target import CutsOff, Forgets
from agora_conformance.verdict import Inapplicable, Inconclusive, Untested, Violation, require
from agora_conformance.witness import HookProbe, Probe, Witness

#: Seconds for which a cut lasts at least.
CUT = 3.0


class Cut:
    """A cut of one probe's agent or API, healed in any case."""

    def __init__(self, arena: Arena, probe: Probe) -> None:
        self._eyes = _hands(arena)
        self._where = (probe.installation, probe.id)

    async def __aenter__(self) -> None:
        try:
            # Shielded: a cut that was made is healed, whatever comes in between.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._eyes.cut, *self._where)
        except LookupError as error:
            raise Inconclusive(f"there was nothing to cut off any more: {error}") from error

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._eyes.heal, *self._where)


def _hands(arena: Arena) -> CutsOff:
    if isinstance(arena.target.eyes, CutsOff):
        return arena.target.eyes
    raise Untested("the target has no way to cut the agent or the API off")


async def _running(arena: Arena, *arguments: str | int, **fields: Any) -> Probe:
    """Start a probe and have the record say that it runs, before nothing can be asked any more."""
    probe = await arena.start(*arguments, **fields)
    record = await probe.record()
    require(record.state is State.RUNNING, f"a probe that runs is {record.state.value} on its record")
    return probe


async def _is_away(probe: Probe) -> bool:
    return (await probe.record()).reachable is False


@check("AWAY-01")
async def nothing_ends(arena: Arena) -> None:
    """Cut it off and look at the record for a while."""
    _hands(arena)
    probe = await _running(arena, "default")
    async with Cut(arena, probe):
        await eventually(lambda: _is_away(probe), 15, "the record never said `reachable: false`")
        until = anyio.current_time() + CUT
        while anyio.current_time() < until:
            await probe.client.reconcile()
            record = await probe.record()
            require(record.state is State.RUNNING, f"it became {record.state.value} while cut off")
            await anyio.sleep(0.3)
    record = await probe.record()
    require(record.state is State.RUNNING, f"it was {record.state.value} after the cut")


@check("AWAY-02")
async def request_survives(arena: Arena) -> None:
    """Cancel it while it is cut off."""
    _hands(arena)
    probe = await arena.start("graceful", 0, 10)
    async with Cut(arena, probe):
        result = await probe.cancel(reason="while away")
        require(result.outcome is Outcome.STOPPING, f"the answer is {result.outcome.value}")
        require(result.delivered is False, "the answer says that the stop was delivered")
        require(result.error, "the answer does not say why it is not delivered")
        record = await probe.record()
        require(record.state is State.STOPPING, f"it became {record.state.value} while cut off")
        require(record.cause and record.cause.reason == "while away", "the record does not carry the request")
    record = await probe.end(40)
    require(record.state is State.CANCELLED, f"after the cut it ended as {record.state.value}")
    require(await probe.processes() in (None, []), "after the cut and the stop it still runs")


@check("AWAY-03")
async def heals(arena: Arena) -> None:
    """Let it end while it is cut off."""
    _hands(arena)
    life = 12.0  # the cut comes well before, also on a busy machine
    probe = await _running(arena, "exit", 42, round(100 * life))
    began = anyio.current_time()
    async with Cut(arena, probe):
        await eventually(lambda: _is_away(probe), 15, "the record never said `reachable: false`")
        await anyio.sleep_until(began + life + 1)
        record = await probe.record()
        require(record.state is State.RUNNING, f"it became {record.state.value} while cut off")
    record = await probe.end(20)
    require(record.state is State.FAILED, f"after the cut it ended as {record.state.value} ({record.reason})")
    lost = record.exit_code is None and not arena.info.capabilities.has("exit_code_after_end")
    require(record.exit_code == 42 or lost, f"exit code 42 arrived as {record.exit_code}")


@check("AWAY-04")
async def another_backend(arena: Arena) -> None:
    """Ask with a handle that names another backend."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "graceful", 0, 0)
    handle = probe.handle.model_copy(update={"backend": f"{probe.handle.backend}-another"})
    try:
        seen = await hooks.observe(handle)
    except Unreachable:
        pass
    else:
        require(not seen.reachable, f"observe says {seen.phase.value} of a workload on another backend")
    try:
        receipt = await hooks.stop(handle, 3)
    except Unreachable:
        pass
    else:
        require(False, f"a stop on another backend was answered with {receipt.kind.value}")
    require((await hooks.observe(probe.handle)).phase is Phase.RUNNING, "the workload itself did not go on")
    require(not (await probe.pulse()).terms, "the workload itself was sent a signal")


#: Seconds that a workload which ignores SIGTERM has, so that it outlives its record for long enough to look.
LONG_GRACE = 8


class Forgotten:
    """One probe whose record on the backend is gone, brought back afterwards where that can be done."""

    def __init__(self, arena: Arena, probe: Witness) -> None:
        self._eyes = _forgetful(arena)
        self._where = (probe.installation, probe.id)

    async def __aenter__(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._eyes.forget, *self._where)
        except LookupError as error:
            raise Violation(f"it did not live any more when its record was to go: {error}") from error

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._eyes.remember, *self._where)


def _forgetful(arena: Arena) -> Forgets:
    if arena.target.never_forgets:
        raise Inapplicable(arena.target.never_forgets)
    if isinstance(arena.target.eyes, Forgets):
        return arena.target.eyes
    raise Untested("the target has no way to take the record of a living workload away")


@check("AWAY-05")
async def gone_is_not_dead(arena: Arena) -> None:
    """Take the records of one that is stopping and of one that is not away, and look while their processes live."""
    _forgetful(arena)
    stopping = await _running(arena, "stubborn", grace=LONG_GRACE)
    running = await arena.start_raw(arena.hooks(), "stubborn", grace=LONG_GRACE)
    # Without eyes for processes: it ignores SIGTERM, and nothing may kill it before its grace is over.
    until = anyio.current_time() + LONG_GRACE - 2
    result = await stopping.cancel(reason="before the record goes")
    require(result.delivered, "the stop was not delivered")
    await stopping.says("term", within=LONG_GRACE - 4)
    looks = {stopping.id: 0, running.id: 0}
    async with Forgotten(arena, stopping), Forgotten(arena, running):
        while anyio.current_time() < until:
            if await _lives(stopping):
                record = await stopping.record()
                # What was said is wrong only if it was wrong when it was said.
                if await _lives(stopping):
                    looks[stopping.id] += 1
                    words = f"it is {record.state.value} ({record.reason}), confirmed, and its process lives"
                    require(record.confirmed is not True, words)
                await stopping.client.reconcile()
            if await running.processes():
                said = await _word(running)
                if await running.processes():
                    looks[running.id] += 1
                    require(said is not Phase.ENDED, "a workload is told as ended, and its process lives")
                    proof = said is Phase.ABSENT and arena.limits.absence_proves_death
                    require(
                        not proof, "a workload is absent, which is declared a proof of death, and its process lives"
                    )
            await anyio.sleep(0.5)
    arena.measured["looks"] = list(looks.values())
    if not looks[stopping.id]:
        raise Inconclusive("its process did not outlive its record for long enough to look")

    async def over() -> bool:
        """Whether nothing lives that nobody can end any more, where its record is gone for good."""
        left = await _word(running) is Phase.ABSENT and await running.processes()
        return not left and not await stopping.processes()

    with suppress(Violation):  # what is left is told as left behind
        await eventually(over, LONG_GRACE + 5, "something lives on")


async def _lives(probe: Witness) -> bool:
    return (await probe.processes()) != []


async def _word(probe: HookProbe) -> Phase | None:
    try:
        return (await probe.hooks.observe(probe.handle)).phase
    except Unreachable:
        return None
