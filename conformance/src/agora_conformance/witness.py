"""Probes that run: what they say, and what the record or the backend says of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import anyio
from agora.client import AgoraClient
from agora.errors import AgoraError
from agora.model.cancel import CancelResult
from agora.model.events import Event
from agora.model.observation import Handle, Observation, Phase
from agora.model.record import Record, State

from agora_conformance.hooks import Hooks
from agora_conformance.probe import Line, Pulse, parse, pulse
from agora_conformance.verdict import Untested, Violation

if TYPE_CHECKING:
    from agora_conformance.arena import Arena

#: Seconds for a workload to start and to speak; an image may have to be pulled.
START_LIMIT = 30.0
#: Seconds in which a probe that lives must give a new sign of life, and a dead one must not.
BREATH = 1.0
#: A new one is waited for so long: a backend may tell of output seconds late, on a busy machine too, in seconds.
ALIVE_WITHIN = 8.0
#: Seconds between two looks.
PAUSE = 0.15


class Witness(ABC):
    """A probe, as its own output and the target's eyes show it.

    Parameters:
        arena: the check that started it.
        dispatch_id: its id.
    """

    def __init__(self, arena: Arena, dispatch_id: str) -> None:
        self.arena = arena
        self.id = dispatch_id

    @property
    @abstractmethod
    def installation(self) -> str:
        """The mark that it must carry."""

    @abstractmethod
    async def output(self, stream: str = "stdout") -> bytes:
        """Return what it has written so far to one stream."""

    @abstractmethod
    async def finish(self) -> None:
        """End it if it still runs, when the check is over."""

    def _must_log(self) -> None:
        if not self.arena.info.capabilities.has("logs"):
            raise Untested("the provider has no logs, so the probe cannot be heard")

    async def lines(self) -> list[Line]:
        """Return the probe's lines so far."""
        return parse(await self.output())

    async def pulse(self, who: str = "leader") -> Pulse:
        """Sum up what one process of the probe said so far."""
        return pulse(await self.lines(), who)

    async def says(self, event: str, who: str = "leader", within: float = START_LIMIT) -> None:
        """Wait until the probe says something.

        Raises:
            Violation: it did not, within `within` seconds.
        """
        with anyio.move_on_after(within):
            while True:
                lines = await self.lines()
                if any(line.event == event and line.who == who for line in lines):
                    return
                await anyio.sleep(PAUSE)
        raise Violation(f"the probe did not say {event} within {within:g} s")

    async def ready(self) -> None:
        """Wait for READY, and for the backend's word that it runs, which may come as late as that of an end."""
        await self.says("READY")
        with anyio.move_on_after(self.arena.limits.report_lag):
            while True:
                if await self._told():
                    return
                await anyio.sleep(PAUSE)

    @abstractmethod
    async def _told(self) -> bool:
        """Whether the backend has told that it runs, or anything that is no wait."""

    async def processes(self) -> list[int] | None:
        """Return the pids that the target's eyes see; None where it has no eye for them."""
        return await self.arena.processes(self.installation, self.id)

    async def alive(self, who: str = "leader") -> bool:
        """Whether it gives a new sign of life."""
        before = (await self.pulse(who)).last
        with anyio.move_on_after(ALIVE_WITHIN):
            while True:
                if (await self.pulse(who)).last != before:
                    return True
                await anyio.sleep(PAUSE)
        return False

    async def must_be_dead(self, when: str) -> None:
        """Look for any process of it, by the target's eyes and by heartbeats.

        Raises:
            Violation: something of it lives.
        """
        seen = await self.processes()
        if seen:
            raise Violation(f"{when}: {len(seen)} of its processes live")
        before = {who: (await self.pulse(who)).last for who in ("leader", "child", "escaped")}
        if seen is None:
            await anyio.sleep(BREATH)
            for who, last in before.items():
                if (await self.pulse(who)).last != last:
                    raise Violation(f"{when}: its {who} still gives signs of life")


class Probe(Witness):
    """A probe that was dispatched through the client.

    Parameters:
        client: the client that looks after it.
        home: name of its state directory in the arena.
    """

    def __init__(self, arena: Arena, client: AgoraClient, dispatch_id: str, home: str) -> None:
        super().__init__(arena, dispatch_id)
        self.client = client
        self._home = home

    @property
    def installation(self) -> str:
        """The id of its state directory."""
        return self.arena.installation(self._home)

    async def output(self, stream: str = "stdout") -> bytes:
        """Return what it has written so far to one stream."""
        self._must_log()
        return b"".join([chunk.data async for chunk in self.client.logs(self.id) if chunk.stream == stream])

    async def record(self, *, refresh: bool = True) -> Record:
        """Return the record as it stands."""
        return await self.client.get(self.id, refresh=refresh)

    async def _told(self) -> bool:
        return (await self.record()).state is not State.SUBMITTED

    async def events(self) -> list[Event]:
        """Return the events so far."""
        return [event async for event in self.client.events(self.id)]

    async def cancel(self, *, reason: str | None = None, grace: int | None = None, force: bool = False) -> CancelResult:
        """Cancel it."""
        return await self.client.cancel(self.id, reason=reason, grace=grace, force=force)

    async def end(self, within: float) -> Record:
        """Wait for its confirmed end.

        Raises:
            Violation: it did not come within `within` seconds, beside the lag that the provider declares.
        """
        limit = within + self.arena.limits.report_lag + self.arena.overhead
        try:
            return await self.client.wait(self.id, timeout=limit, confirmed=True)
        except TimeoutError:
            record = await self.record()
            if record.state.terminal and record.confirmed:
                return record
            raise Violation(
                f"no confirmed end within {limit:g} s: it is {record.state.value}, confirmed {record.confirmed}"
            ) from None

    async def finish(self) -> None:
        """End it if it still runs."""
        record = await self.record()
        if record.state.terminal and record.confirmed is not False:
            return
        await self.cancel(force=True, reason="the check is over")
        await self.client.wait(self.id, timeout=5, confirmed=True)


class HookProbe(Witness):
    """A probe that was dispatched through the provider's hooks.

    Parameters:
        hooks: the instance that started it.
        handle: what the dispatch returned.
    """

    def __init__(self, arena: Arena, hooks: Hooks, handle: Handle) -> None:
        super().__init__(arena, handle.id)
        self.hooks = hooks
        self.handle = handle

    @property
    def installation(self) -> str:
        """The installation of its hooks."""
        return self.hooks.installation

    async def output(self, stream: str = "stdout") -> bytes:
        """Return what it has written so far to one stream."""
        self._must_log()
        return await self.hooks.logs(self.handle, stream)

    async def _told(self) -> bool:
        try:
            return (await self.hooks.observe(self.handle)).phase is not Phase.PENDING
        except AgoraError:
            return True

    async def end(self, within: float) -> Observation:
        """Wait for proof of death, within `within` seconds and the lag that the provider declares."""
        limit = within + self.arena.limits.report_lag + self.arena.overhead
        return await self.hooks.end(self.handle, limit)

    async def finish(self) -> None:
        """End it if it still runs, and release it."""
        if (await self.hooks.observe(self.handle)).phase in (Phase.PENDING, Phase.RUNNING):
            if self.hooks.has("kill"):
                await self.hooks.call("kill", handle=self.handle)
                await self.hooks.end(self.handle, 5)
            else:
                await self.hooks.stop(self.handle, 2)
                await self.hooks.end(self.handle, 15)  # an earlier grace may have to pass first
        if self.hooks.has("release"):
            await self.hooks.call("release", handle=self.handle)
