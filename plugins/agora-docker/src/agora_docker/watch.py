"""One stream of events for all containers of an installation."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from agora.errors import ProviderError, Unreachable
from agora.hookspecs import WatchSink

from agora_docker import marks, times
from agora_docker.engine import Engine
from agora_docker.looking import Looker
from agora_docker.story import Happened
from agora_docker.streams import Reader, json_lines

logger = logging.getLogger(__name__)

#: Seconds between two looks whether anybody still listens.
_TICK = 0.5
#: Seconds for the stream to begin.
_CONNECT = 10.0
#: What ends a container, or removes one.
_ENDS = frozenset({"die", "destroy"})
_HEARD = ["start", "kill", "oom", "die", "stop", "destroy"]


def watch(engine: Engine, looker: Looker, installation: str, sink: WatchSink, closed: Callable[[], bool]) -> None:
    """Tell of ends as they happen, until nobody listens or the stream breaks.

    Parameters:
        closed: whether the provider was closed.
    """
    facts = engine.facts(fresh=True)
    filters = {"type": ["container"], "label": [f"{marks.INSTALLATION}={installation}"], "event": _HEARD}
    # From a little before, so that nothing falls between the list and the stream; what is heard twice is known.
    params = {"since": times.query(facts.earliest() - 1), "filters": json.dumps(filters)}
    with Reader(engine.stream("GET", "/events", params=params), json_lines) as reader:
        if not reader.begun(_CONNECT):
            raise Unreachable("the engine did not begin to tell its events")
        sink.connected()
        while not (reader.over or sink.closed or closed()):
            event = reader.next(_TICK)
            if event is not None:
                _heard(looker, sink, event)


def _heard(looker: Looker, sink: WatchSink, event: Mapping[str, Any]) -> None:
    container = event["Actor"]["ID"]
    looker.stories.add(container, Happened.parse(event))
    if event["Action"] not in _ENDS:
        return
    id = event["Actor"]["Attributes"].get(marks.DISPATCH, "")
    handle = sink.handles().get(id)
    if handle is None or handle.data.get("container") != container:
        return
    try:
        # Asked for by itself: a list may still show it as running while the event is told (moby writes the
        # copy that lists are made of after it).
        (seen,) = looker.observe([handle])
    except ProviderError as error:
        logger.info("%s has ended and could not be looked at: %s", id, error)
        sink.stale(id)
    else:
        sink.push(id, seen)
