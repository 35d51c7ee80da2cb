"""The supervisor: watches targets, keeps deadlines, carries out recorded requests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import anyio
import anyio.abc

from agora.engine.attend import Attendance
from agora.engine.carry import Carrier
from agora.engine.core import Core
from agora.engine.plan import Action, next_step
from agora.engine.targets import key_of, stored
from agora.engine.watching import TargetWatch
from agora.errors import AgoraError
from agora.model.record import Entry
from agora.store.pulse import Ear

logger = logging.getLogger(__name__)

#: The store is looked at so often even if nothing seems to happen, in seconds.
TICK = 1.0


class Supervisor:
    """Looks after live dispatches until it is cancelled.

    Parameters:
        core: the common ground.
        carrier: carries steps out.
        mine: which ids to look after; all live ones where null.
        defer: seconds to wait before writing an end down, so that a client that waits for it goes first.
    """

    def __init__(
        self, core: Core, carrier: Carrier, mine: Callable[[str], bool] | None = None, defer: float = 0.0
    ) -> None:
        self._core = core
        self._carrier = carrier
        self._mine = mine
        self._defer = defer
        self._attendance = Attendance(core, carrier.looker.listener)
        self._entries: dict[str, Entry] = {}
        self._watches: dict[str, TargetWatch] = {}
        self._busy: set[tuple[str, Action]] = set()
        self._not_before: dict[str, datetime] = {}
        self._tries: dict[str, int] = {}

    async def run(self, until_idle: bool = False) -> None:
        """Supervise.

        Parameters:
            until_idle: return when nothing is live any more.
        """
        async with self._core.store.pulse.listen() as ear, anyio.create_task_group() as tasks:
            while True:
                await self._refresh()
                if until_idle and not self._entries:
                    break
                self._watch(tasks)
                self._attendance.start_due(self._entries, tasks)
                due = self._start_steps(tasks)
                await self._rest(ear, due)
            tasks.cancel_scope.cancel()

    async def _refresh(self) -> None:
        store = self._core.store
        versions = await store.open_versions()
        wanted = {id: version for id, version in versions.items() if self._mine is None or self._mine(id)}
        for id in self._entries.keys() - wanted.keys():
            del self._entries[id]
            self._not_before.pop(id, None)
            self._tries.pop(id, None)
        changed = [
            id for id, version in wanted.items() if id not in self._entries or self._entries[id].version != version
        ]
        for entry in await store.read_many(changed):
            self._entries[entry.id] = entry

    def _watch(self, tasks: anyio.abc.TaskGroup) -> None:
        groups: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            if entry.handle is not None and entry.live:
                groups.setdefault(key_of(stored(entry)), []).append(entry)
        for key in self._watches.keys() - groups.keys():
            self._watches.pop(key).stop()
        for key, entries in groups.items():
            if key not in self._watches:
                self._watches[key] = TargetWatch(self._core, self._carrier.looker, stored(entries[0]), self._defer)
                tasks.start_soon(self._watches[key].run)
            self._watches[key].update({entry.id: entry for entry in entries})

    def _start_steps(self, tasks: anyio.abc.TaskGroup) -> datetime:
        now = self._core.store.now()
        earliest = now + timedelta(seconds=TICK)
        for entry in self._entries.values():
            step = next_step(entry, now, self._core.bounds)
            wait_until = self._not_before.get(entry.id)
            if step.action is not None and (wait_until is None or wait_until <= now):
                # A start may take as long as a pull does; meanwhile its deadline is kept all the same.
                if (entry.id, step.action) not in self._busy:
                    self._busy.add((entry.id, step.action))
                    tasks.start_soon(self._step, entry, step.action)
            else:
                times = [when for when in (step.due, wait_until) if when is not None and when > now]
                earliest = min([earliest, *times])
        return earliest

    async def _step(self, entry: Entry, action: Action) -> None:
        try:
            if await self._carrier.carry_out(entry):
                self._tries.pop(entry.id, None)
                self._not_before.pop(entry.id, None)
            else:
                tries = self._tries[entry.id] = self._tries.get(entry.id, 0) + 1
                pause = min(30.0, 0.25 * 2 ** min(tries, 10))
                self._not_before[entry.id] = self._core.store.now() + timedelta(seconds=pause)
        except AgoraError:
            logger.exception("dispatch %s: a step failed and will be tried again", entry.id)
            self._not_before[entry.id] = self._core.store.now() + timedelta(seconds=5)
        finally:
            self._busy.discard((entry.id, action))

    async def _rest(self, ear: Ear, due: datetime) -> None:
        seconds = (due - self._core.store.now()).total_seconds()
        await ear.wait(min(TICK, max(0.01, seconds)))
        if self._defer:
            # Clients come first: many changes become one pass.
            await anyio.sleep(self._defer)
