"""One stream of events for all containers of an installation."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from agora.errors import ProviderError, Unreachable
from agora.hookspecs import WatchSink
from agora.model.observation import Handle

from agora_docker import marks, times
from agora_docker.engine import Engine
from agora_docker.looking import Looker
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
_HEARD = ["start", "kill", "oom", "die", "stop", "destroy"]


class Watch:
    """Tells of ends as they happen, ends what a restarted engine has forgotten to end, and removes what is old.

    Parameters:
        engine, looker, stopper, sweeper: of the target.
        installation: whose containers are watched.
        closed: whether the provider was closed.
    """

    def __init__(
        self,
        engine: Engine,
        looker: Looker,
        stopper: Stopper,
        sweeper: Sweeper,
        installation: str,
        closed: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._looker = looker
        self._stopper = stopper
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
        # From a little before, so that nothing falls between the list and the stream; what is heard twice is known.
        params = {"since": times.query(facts.earliest() - 1), "filters": json.dumps(filters)}
        with Reader(self._engine.stream("GET", "/events", params=params), json_lines) as reader:
            if not reader.begun(_CONNECT):
                raise Unreachable("the engine did not begin to tell its events")
            sink.connected()
            # An engine that was restarted since has no timers any more; one that restarts later breaks the stream.
            pending = self._stopper.pending(sink.handles().values())
            while not (reader.over or sink.closed or self._closed()):
                event = reader.next(_TICK)
                if event is not None:
                    self._heard(sink, event)
                elif pending and pending[0][0] <= self._engine.facts().earliest():
                    self._end(sink, pending)
                else:
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

    def _heard(self, sink: WatchSink, event: Mapping[str, Any]) -> None:
        container = event["Actor"]["ID"]
        self._looker.stories.add(container, Happened.parse(event))
        if event["Action"] not in _ENDS:
            return
        id = event["Actor"]["Attributes"].get(marks.DISPATCH, "")
        handle = sink.handles().get(id)
        if handle is None or handle.data.get("container") != container:
            return
        try:
            # Asked for by itself: a list may still show it as running while the event is told (moby writes the
            # copy that lists are made of after it).
            (seen,) = self._looker.observe([handle])
        except ProviderError as error:
            logger.info("%s has ended and could not be looked at: %s", id, error)
            sink.stale(id)
        else:
            sink.push(id, seen)
