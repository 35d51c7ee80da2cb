"""One stream of events for all containers of an installation."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from agora.errors import ProviderError, Unreachable
from agora.hookspecs import WatchSink
from agora.model.observation import SECOND_COPY, Handle

from agora_docker import marks, times
from agora_docker.copies import Copies
from agora_docker.engine import Engine
from agora_docker.looking import Looker, handle_of
from agora_docker.retention import Sweeper
from agora_docker.stopping import Stopper
from agora_docker.story import Happened
from agora_docker.streams import Reader, json_lines

logger = logging.getLogger(__name__)

#: Seconds between two looks whether anybody still listens.
_TICK = 0.5
#: Seconds until a kill that failed is tried again.
_AGAIN = 5.0
#: Seconds for the stream to begin.
_CONNECT = 10.0
#: What ends a container, or removes one.
_ENDS = frozenset({"die", "destroy"})
_HEARD = ["create", "start", "kill", "oom", "die", "stop", "destroy"]
#: Seconds for which an end that somebody else's stop brought is not told: a restart is such an end and a start.
_RESTART = 1.0


class Watch:
    """Tells of ends as they happen, ends what a restarted engine has forgotten to end and what somebody has started
    again, and removes what is old.

    Parameters:
        engine, looker, stopper, copies, sweeper: of the target.
        installation: whose containers are watched.
        closed: whether the provider was closed.
    """

    def __init__(
        self,
        engine: Engine,
        looker: Looker,
        stopper: Stopper,
        copies: Copies,
        sweeper: Sweeper,
        installation: str,
        closed: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._looker = looker
        self._stopper = stopper
        self._copies = copies
        self._sweeper = sweeper
        self._installation = installation
        self._closed = closed

    def run(self, sink: WatchSink) -> None:
        """Watch until nobody listens or the stream breaks.

        Raises:
            Unreachable: the engine does not answer.
        """
        facts = self._engine.facts(fresh=True)
        filters = {"type": ["container"], "label": [f"{marks.INSTALLATION}={self._installation}"], "event": _HEARD}
        # All that the engine remembers, so that nothing falls between the list and the stream, and that a container
        # shows which was started again while nobody watched. What is heard twice is known.
        params = {"since": times.query(0), "filters": json.dumps(filters)}
        with Reader(self._engine.stream("GET", "/events", params=params), json_lines) as reader:
            if not reader.begun(_CONNECT):
                raise Unreachable("the engine did not begin to tell its events")
            sink.connected()
            # An engine that was restarted since has no timers any more; one that restarts later breaks the stream.
            pending = self._stopper.pending(sink.handles().values())
            held: dict[str, float] = {}
            live = facts.latest() * 1e9
            while not (reader.over or sink.closed or self._closed()):
                event = reader.next(_TICK)
                if event is not None:
                    self._heard(sink, event, held, live)
                for id in [id for id, due in held.items() if due <= time.monotonic()]:
                    del held[id]
                    self._tell(sink, id, sink.handles().get(id), held)
                if pending and pending[0][0] <= self._engine.facts().earliest():
                    self._end(sink, pending)
                elif event is None:
                    self._sweeper.step()

    def _end(self, sink: WatchSink, pending: list[tuple[float, Handle]]) -> None:
        """Kill what has outlived its grace."""
        due, handle = pending.pop(0)
        if handle.id not in sink.handles():
            return
        try:
            self._stopper.kill(handle)
        except ProviderError as error:
            logger.warning("dispatch %s: has outlived its grace and cannot be killed: %s", handle.id, error)
            pending.append((due + _AGAIN, handle))
            pending.sort(key=lambda pair: pair[0])

    def _heard(self, sink: WatchSink, event: Mapping[str, Any], held: dict[str, float], live: float) -> None:
        """Take in one event.

        Parameters:
            held: what is to be looked at later, by dispatch, with the time by this process's clock.
            live: when the stream began, in nanoseconds by the engine's clock; what is older it only remembers.
        """
        container, said = event["Actor"]["ID"], event["Actor"]["Attributes"]
        happened = Happened.parse(event)
        self._looker.stories.add(container, happened)
        id = said.get(marks.DISPATCH, "")
        handle = sink.handles().get(id)
        if handle is not None and handle.data.get("container") != container:
            return
        if happened.action == "start":
            story = self._looker.stories.of(container)
            first = story.died is None and (happened.at < live or story.first("create") is not None)
            if first:
                return
            held.pop(id, None)
            self._tell(sink, id, handle or self._found(id, container), held)
        elif handle is not None and happened.action in _ENDS:
            if happened.action == "die" and happened.at >= live - _RESTART * 1e9 and self._copies.may_follow(handle):
                held[id] = time.monotonic() + _RESTART
            else:
                self._tell(sink, id, handle, held)

    def _found(self, id: str, container: str) -> Handle | None:
        """Return the handle of a container that nobody looks after, None where it is not ours."""
        try:
            if any(one["Id"] == container for one in self._looker.owned(self._installation, id)):
                return handle_of(id, self._engine.facts().id, container)
        except ProviderError as error:
            logger.info("%s could not be looked for: %s", id, error)
        return None

    def _tell(self, sink: WatchSink, id: str, handle: Handle | None, held: dict[str, float]) -> None:
        """Look at one container and say what it is; of one that nobody looks after only that it runs again."""
        if handle is None:
            return
        try:
            # Asked for by itself: a list may still show it as running while the event is told (moby writes the
            # copy that lists are made of after it).
            (seen,) = self._copies.observe([handle])
        except ProviderError as error:
            logger.info("%s could not be looked at: %s", id, error)
            sink.stale(id)
        else:
            if id in sink.handles() or seen.reason == SECOND_COPY:
                sink.push(id, seen)
            if seen.reason == SECOND_COPY:
                # No event tells of the end of one that is killed while the engine waits to start it once more.
                held[id] = time.monotonic() + _RESTART
