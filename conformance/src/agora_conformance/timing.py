"""Bracket a death between signs of life: lower bounds are never scaled, upper bounds get the declared overhead."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from agora_conformance.probe import DISTURBED, Pulse
from agora_conformance.verdict import Inconclusive, require
from agora_conformance.witness import Witness

#: Seconds between two looks at a probe that may die; its own clock, not these looks, says when it died.
LOOK = 0.3


@dataclass(frozen=True)
class Bracket:
    """A stop that is about to be sent to a probe.

    Parameters:
        probe: the probe.
        before: its last sign of life before the stop, by its own clock.
        at: the moment before the stop, by the suite's clock.
    """

    probe: Witness
    before: float
    at: float

    @classmethod
    async def begin(cls, probe: Witness) -> Bracket:
        """Note the last sign of life; call it just before the stop."""
        last = (await probe.pulse()).last
        if last is None:
            raise Inconclusive("the probe gave no sign of life before the stop")
        return cls(probe, last, anyio.current_time())

    def _since(self, pulse: Pulse) -> float:
        """Return when the stop reached the probe by its clock, or the last moment before that."""
        return next((at for at in pulse.terms if at >= self.before), self.before)

    def _note(self, key: str, value: float) -> None:
        self.probe.arena.measured[key] = round(value, 2)

    async def must_live(self, seconds: float) -> None:
        """Check that the probe lives until `seconds` after the stop.

        Raises:
            Violation: its last sign of life is older, and it gives no new one.
        """
        lived, pulse = 0.0, await self.probe.pulse()
        with anyio.move_on_after(seconds + 3 * self.probe.arena.overhead + 3):
            dead = False
            while lived < seconds and not dead:
                await anyio.sleep(LOOK)
                dead = self._dead(await self.probe.processes())
                pulse = await self.probe.pulse()
                lived = (pulse.last or self.before) - self._since(pulse)
        self._note("lived", lived)
        if lived < seconds and pulse.gap > DISTURBED:
            raise Inconclusive(f"heartbeats paused for {pulse.gap:.1f} s: the machine is too busy to tell")
        require(lived >= seconds, f"it died {lived:.1f} s after the stop; it had {seconds:g} s at least")

    @staticmethod
    def _dead(processes: list[int] | None) -> bool:
        return processes is not None and not processes

    async def must_die(self, seconds: float, *, since: float | None = None) -> None:
        """Check that nothing of the probe lives `seconds` and the declared overhead after the stop.

        Parameters:
            since: the suite's time of the stop that counts; the beginning of this bracket by default.

        Raises:
            Violation: something lives.
        """
        bound = seconds + self.probe.arena.overhead
        end = (self.at if since is None else since) + bound
        while anyio.current_time() < end:
            if self._dead(await self.probe.processes()):
                self._note("dead_after", anyio.current_time() - (self.at if since is None else since))
                break
            await anyio.sleep(LOOK)
        await self.probe.must_be_dead(f"{bound:g} s after the stop")
        pulse = await self.probe.pulse()
        self._note("last_sign", (pulse.last or self.before) - self._since(pulse))
