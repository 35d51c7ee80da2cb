"""One watch per target: the live tasks are described in batches, as often as the shared budget of calls allows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agora.errors import Unreachable
from agora.hookspecs import WatchSink
from agora.model.observation import Handle, Observation, Phase

from agora_fargate.api import OutOfBudget
from agora_fargate.tasks import BATCH

logger = logging.getLogger(__name__)

#: Seconds between two looks at tasks that are about to change, and at those that just run, where there are few.
SOON, LATER = 1.0, 3.0
#: A task is about to change for so long after it began to run; seconds.
_YOUNG = 30.0
#: Seconds between two looks at those that just run where events tell of changes.
BACKSTOP = 30.0
_TICK = 0.1

Observe = Callable[[Sequence[Handle]], Sequence[Observation]]
#: Returns the ARNs of tasks that changed, and waits for them at most for so many seconds.
Listen = Callable[[float], Sequence[str]]


@dataclass
class Plan:
    """When to look at what; the intervals grow with the number of tasks, so that the calls a second do not.

    Parameters:
        per_second: calls that may be made.
        later: seconds between two looks at tasks that just run, where there are few.
    """

    per_second: float
    later: float = LATER
    _told: dict[str, tuple[Observation, float]] = field(default_factory=dict)
    _due: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})

    def interval(self, count: int, *, soon: bool) -> float:
        """Return the seconds between two looks at `count` tasks: each of both kinds may use half of the calls."""
        calls = math.ceil(count / BATCH)
        return max(SOON if soon else self.later, 2 * calls / self.per_second)

    def due(self, handles: Mapping[str, Handle], now: float) -> list[Handle]:
        """Return what to look at now; what is new is due within `SOON`."""
        if now < min(self._due.values()):
            return []
        for gone in self._told.keys() - handles.keys():
            del self._told[gone]
        kinds: dict[bool, list[Handle]] = {True: [], False: []}
        for id, handle in handles.items():
            kinds[self._is_soon(id, now)].append(handle)
        wanted: list[Handle] = []
        for soon, some in kinds.items():
            if now >= self._due[soon]:
                self._due[soon] = now + self.interval(len(some), soon=soon)
                wanted += some
        return wanted

    def is_news(self, id: str, seen: Observation, now: float) -> bool:
        """Take note of what was seen; whether it is anything new."""
        before = self._told.get(id)
        if before is not None and before[0] == seen:
            return False
        self._told[id] = (seen, now)
        return True

    def _is_soon(self, id: str, now: float) -> bool:
        told = self._told.get(id)
        if told is None:
            return True
        seen, since = told
        changing = seen.phase is not Phase.RUNNING or seen.effective_grace is not None
        return changing or now - since < _YOUNG


def run(sink: WatchSink, observe: Observe, plan: Plan, closed: Callable[[], bool], listen: Listen | None) -> None:
    """Watch until the sink is closed.

    Parameters:
        observe: looks at tasks, in the background of whatever else is asked.
        listen: hears of changes, where there is a queue of events.

    Raises:
        AgoraError: a look fails; whoever watches sets it up again.
    """
    stands = False

    def over() -> bool:
        return sink.closed or closed()

    while not over():
        now = time.monotonic()
        handles = sink.handles()
        wanted = plan.due(handles, now)
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            try:
                looked = observe(batch)
            except OutOfBudget:
                break  # others were quicker; it is due again soon enough
            for handle, seen in zip(batch, looked, strict=True):
                if seen.phase is Phase.ABSENT:
                    sink.stale(handle.id)
                elif plan.is_news(handle.id, seen, now):
                    sink.push(handle.id, seen)
            if over():
                return
        if not stands:
            stands = True
            sink.connected()
        if listen is None:
            time.sleep(_TICK)
        else:
            _hear(sink, listen)


def _hear(sink: WatchSink, listen: Listen) -> None:
    """Ask for a look at every live task of which an event tells; what is missed is seen by the next look."""
    try:
        changed = set(listen(SOON))
    except Unreachable as error:
        logger.info("the queue of events is not read: %s", error)
        time.sleep(SOON)
        return
    for id, handle in sink.handles().items():
        if handle.data.get("task") in changed:
            sink.stale(id)
