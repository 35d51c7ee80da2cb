"""What the engine's events tell about one container, and what they prove.

The engine keeps the last 256 events of everything that it does (moby `eventsLimit`); what a watch heard is kept here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agora.model.observation import EndedBy, Observation, Phase

from agora_docker import times

TERM = 15
KILL = 9
#: Containers whose events are kept.
_KEPT = 5000
#: An end within this many seconds after a grace that somebody gave still belongs to that stop.
_MARGIN = 3.0


@dataclass(frozen=True, order=True)
class Happened:
    """One event.

    Parameters:
        at: nanoseconds since 1970, by the engine's clock.
        action: `start`, `kill`, `die`, `stop`, `destroy`, ...
        signal: number, with `kill`.
        exit_code: with `die`.
    """

    at: int
    action: str
    signal: int | None = None
    exit_code: int | None = None

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> Happened:
        """Read one event of the engine."""
        said = event.get("Actor", {}).get("Attributes", {})
        return cls(
            at=int(event["timeNano"]),
            action=str(event["Action"]),
            signal=_number(said.get("signal")) if event["Action"] == "kill" else None,
            exit_code=_number(said.get("exitCode")) if event["Action"] == "die" else None,
        )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


class Story:
    """The events of one container in their order.

    Parameters:
        events: those that are known.
    """

    def __init__(self, events: Iterable[Happened] = ()) -> None:
        self.events = tuple(sorted(set(events)))

    def first(self, action: str) -> Happened | None:
        """Return the first event of a kind."""
        return next((event for event in self.events if event.action == action), None)

    @property
    def died(self) -> Happened | None:
        """Its end; the first one, where somebody started it again."""
        return self.first("die")

    def since(self, at: int) -> Story:
        """Return what happened from a time on, in nanoseconds."""
        return Story(event for event in self.events if event.at >= at)

    @property
    def last(self) -> Story:
        """Its last run: somebody may have started the container again."""
        return self.since(max((event.at for event in self.events if event.action == "start"), default=0))

    def signals(self, *numbers: int, since: int = 0) -> list[Happened]:
        """Return the signals of these numbers that it got from a time on and before its next end."""
        until = next((event.at for event in self.events if event.action == "die" and event.at >= since), None)
        return [
            event
            for event in self.events
            if event.signal in numbers and event.at >= since and (until is None or event.at <= until)
        ]

    @property
    def stop_reached(self) -> bool | None:
        """Whether a stop reached it before its end; false is proven by a whole story, None is not known."""
        if self.signals(TERM, KILL):
            return True
        return False if self.first("start") and self.died else None

    def forced(self, exit_code: int | None) -> tuple[bool | None, Literal["proven"] | None]:
        """Whether it had to be killed, and how that is known: a kill came before an end with the code of a kill."""
        if self.signals(KILL):
            return exit_code == 128 + KILL, "proven"
        return (False, "proven") if self.signals(TERM) else (None, None)

    def ended_by(self, exit_code: int | None, stop_timeout: float) -> EndedBy | None:
        """Say whether a stop ended it; whose stop that was, the core knows.

        Parameters:
            exit_code: of the container.
            stop_timeout: seconds of grace that a plain stop gives it.
        """
        died = self.died
        if died is None:
            return None
        if self.signals(KILL) and exit_code == 128 + KILL:
            return EndedBy.EXTERNAL
        terms = self.signals(TERM)
        if not terms:
            return None
        soon = died.at - terms[-1].at <= (stop_timeout + _MARGIN) * 1e9
        return EndedBy.EXTERNAL if soon or self.first("stop") or exit_code == 128 + TERM else None


class Stories:
    """What was heard, by container; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: OrderedDict[str, set[Happened]] = OrderedDict()

    def add(self, container: str, *events: Happened) -> None:
        """Keep events of one container."""
        with self._lock:
            self._events.setdefault(container, set()).update(events)
            self._events.move_to_end(container)
            while len(self._events) > _KEPT:
                self._events.popitem(last=False)

    def of(self, container: str) -> Story:
        """Return what is known of one container."""
        with self._lock:
            return Story(self._events.get(container, ()))

    def forget(self, container: str) -> None:
        """Drop a container that is no more."""
        with self._lock:
            self._events.pop(container, None)


def told(container: str, story: Story, died: Happened, stop_timeout: float = 0) -> Observation:
    """Return the end of a container as its events tell it.

    Parameters:
        container: which.
        story: its events.
        died: its end among them.
        stop_timeout: seconds of grace that a plain stop gives it.
    """
    forced, evidence = story.forced(died.exit_code)
    return Observation(
        phase=Phase.ENDED,
        exit_code=died.exit_code,
        ended_at=times.moment(died.at),
        stop_reached=story.stop_reached,
        forced=forced,
        evidence=evidence,
        ended_by=story.ended_by(died.exit_code, stop_timeout),
        native={"container": container},
    )


def removal(story: Story, died: Happened) -> EndedBy | None:
    """Attribute an end to whoever removed the container, unless it is proven that it came by itself before."""
    unproven = story.stop_reached is not False and story.first("destroy") is not None
    return EndedBy.EXTERNAL if died.exit_code == 0 and unproven else None
