"""Looking: observations become facts, silence becomes no end."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from agora.engine.core import Core, failure_of
from agora.engine.listen import Listener
from agora.engine.targets import LOOK_SECONDS, Target, key_of, stored
from agora.errors import AgoraError, DispatchNotFound, ProviderError, StoreError, Unreachable
from agora.model.observation import Handle, Observation, Phase
from agora.model.record import Entry
from agora.state import Absent, Fact, LookFailed, Seen, apply

logger = logging.getLogger(__name__)

#: Handles asked about in one call.
BATCH = 100


@dataclass(frozen=True)
class ReconcileReport:
    """What one pass over everything live found.

    Parameters:
        checked: dispatches looked at.
        changed: ids whose state changed.
        unreachable: names of targets that did not answer.
    """

    checked: int
    changed: tuple[str, ...]
    unreachable: tuple[str, ...]


class Looker:
    """Asks targets about workloads.

    Parameters:
        core: the common ground.
        listener: hears the last words of a workload that was stopped.
    """

    def __init__(self, core: Core, listener: Listener) -> None:
        self._core = core
        self.listener = listener
        self._asked: dict[str, float] = {}

    async def look(self, entries: Sequence[Entry], seconds: float = LOOK_SECONDS) -> list[str]:
        """Observe workloads and write down what changed.

        Parameters:
            entries: any, of any targets; those without a handle are left alone.
            seconds: bound for one call.
        Returns:
            names of targets that did not answer.
        """
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.handle is not None and entry.live:
                groups[key_of(stored(entry))].append(entry)
        away: list[str] = []
        async with anyio.create_task_group() as tasks:
            for same in groups.values():
                for start in range(0, len(same), BATCH):
                    tasks.start_soon(self._look_batch, same[start : start + BATCH], seconds, away)
        return sorted(set(away))

    async def _look_batch(self, entries: Sequence[Entry], seconds: float, away: list[str]) -> None:
        handles = [entry.handle for entry in entries]
        try:
            target, seen = await self._observed(entries[0], handles, seconds)
            if len(seen) != len(handles):
                raise ProviderError(f"target {target.name!r} was asked about {len(handles)}, it told of {len(seen)}")
        except AgoraError as error:
            away.append(entries[0].target)
            await self.failed(entries, error)
            return
        async with anyio.create_task_group() as tasks:
            for entry, observation in zip(entries, seen, strict=True):
                tasks.start_soon(self.hear, entry, observation, target)

    async def _observed(
        self, entry: Entry, handles: Sequence[Handle | None], seconds: float
    ) -> tuple[Target, Sequence[Observation]]:
        with anyio.move_on_after(seconds):
            target = await self._core.targets.of(entry)
            return target, await target.call("observe", seconds=seconds, handles=handles)
        raise Unreachable(f"target {entry.target!r} gave no answer to observe within {seconds:g} s")

    async def failed(self, entries: Sequence[Entry], error: AgoraError) -> None:
        """Write down that nobody answered, and for how long already."""
        failure = failure_of(error)
        for entry in entries:
            await self._note(entry, LookFailed(failure, self._in_vain(entry.id)))

    def _in_vain(self, id: str) -> float:
        """Return the seconds since this process asked in vain before; 0 the first time."""
        now = asyncio.get_running_loop().time()
        before = self._asked.get(id, now)
        self._asked[id] = now
        return now - before

    async def hear(self, entry: Entry, observation: Observation, target: Target) -> None:
        """Write down what was heard about a workload, if it says anything new.

        Parameters:
            entry: as last read.
            observation: what the backend said.
            target: who said it.
        """
        if not observation.reachable:
            # Its node is away while the API answers: as much a reason to give up some day as an API that is away.
            await self._note(entry, Seen(observation, self._in_vain(entry.id)))
            return
        self._asked.pop(entry.id, None)
        if observation.phase is Phase.ABSENT:
            since = entry.submitted_at or entry.requested_at
            if (self._core.store.now() - since).total_seconds() < target.limits.settle_time:
                return
            await self._note(entry, Absent(target.limits.absence_proves_death))
        else:
            if observation.phase is Phase.ENDED and entry.handle is not None:
                await self._last_words(entry.id, target)
            await self._note(entry, Seen(observation))

    async def _last_words(self, id: str, target: Target) -> None:
        """Hear the worker before its end is written; by the stored row, since a request may be newer than ours."""
        try:
            await self.listener.drain(await self._core.store.read(id), target)
        except (DispatchNotFound, StoreError) as error:
            logger.info("dispatch %s: its worker was not heard: %s", id, error)

    async def _note(self, entry: Entry, fact: Fact) -> None:
        change = apply(entry, fact, self._core.store.now())
        if change.entry is entry:
            return
        try:
            await self._core.apply(entry, fact, durable=change.entry.state.terminal)
        except DispatchNotFound:
            return
        except StoreError as error:
            # A disk that is full now must not end the supervision of everything else; it is looked at again.
            logger.warning("dispatch %s: what was seen could not be written down: %s", entry.id, error)
