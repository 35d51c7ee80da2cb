"""Listening to running workloads that are cancelled for what they say or for silence, and to those with a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import anyio.abc

from agora.engine.core import Core
from agora.engine.event_file import file_of
from agora.engine.listen import Caught, Listener, counts_silence, facts_of, reads_output
from agora.errors import AgoraError
from agora.model.record import Entry, State
from agora.state import Listened

logger = logging.getLogger(__name__)

#: Seconds between two readings of one workload: a fifth of what it may be quiet for, within these bounds.
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: The longest one of a workload that has a budget.
BUDGET_PAUSE = 2.0
#: Workloads that are read at the same time.
AT_ONCE = 8


@dataclass
class _Attended:
    """One workload.

    Parameters:
        due: when to read it again, by the process's clock, as `heard_at` is.
        busy: it is being read.
        heard_at: when everything up to then had been read; null after a failure.
        caught: what was read last.
    """

    due: float = 0.0
    busy: bool = False
    heard_at: float | None = None
    caught: Caught | None = None


@dataclass
class Attendance:
    """Listens on behalf of one supervisor.

    Parameters:
        core: the common ground.
        listener: reads.
    """

    core: Core
    listener: Listener
    _known: dict[str, _Attended] = field(default_factory=dict)
    _deaf: set[str] = field(default_factory=set)
    _places: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(AT_ONCE))

    def start_due(self, entries: Mapping[str, Entry], tasks: anyio.abc.TaskGroup) -> None:
        """Begin to read what is due.

        Parameters:
            entries: everything that the supervisor looks after.
            tasks: where readings run.
        """
        wanted = {id: entry for id, entry in entries.items() if id not in self._deaf and _speaks(entry)}
        for id in self._known.keys() - wanted.keys():
            del self._known[id]
        self._deaf &= entries.keys()
        for id, entry in wanted.items():
            one = self._known.setdefault(id, _Attended())
            if not one.busy and one.due <= time.monotonic():
                one.busy = True
                tasks.start_soon(self._attend, entry, one)

    async def _attend(self, entry: Entry, one: _Attended) -> None:
        pause = _pause(entry)
        try:
            async with self._places:
                await self._read(entry, one, pause)
        except AgoraError as error:
            # Nobody listened: what comes after counts from the next time that everything was read.
            one.heard_at = None
            logger.info("dispatch %s: what it says cannot be read: %s", entry.id, error)
        finally:
            one.due = time.monotonic() + pause
            one.busy = False

    async def _read(self, entry: Entry, one: _Attended, pause: float) -> None:
        target = await self.core.targets.of(entry)
        if not reads_output(entry) and file_of(entry, target) is None:
            self._deaf.add(entry.id)
            return
        began = time.monotonic()
        caught = await self.listener.catch_up(entry, target, one.caught)
        # A pause that took much longer than it should is counted as far as it should have gone.
        seconds = min(began - one.heard_at, 2 * pause) if one.heard_at is not None and caught.whole else 0.0
        one.heard_at = began if caught.whole else None
        one.caught = caught
        facts = facts_of(entry, caught.marks)
        if facts or counts_silence(entry):
            listened = Listened(seconds, caught.output, caught.output_at, caught.output_size)
            await self.core.apply(entry, *facts, listened)


def _speaks(entry: Entry) -> bool:
    if entry.state is not State.RUNNING or entry.handle is None:
        return False
    return reads_output(entry) or "AGORA_WORKER_EVENTS" in entry.spec.get("env", {})


def _pause(entry: Entry) -> float:
    pauses = [seconds / 5 for seconds in (entry.heartbeat_timeout, entry.silence_timeout) if seconds is not None]
    pauses += [BUDGET_PAUSE] if entry.budget else []
    return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, min(pauses))) if pauses else SHORTEST_PAUSE
