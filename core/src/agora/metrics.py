"""Counts of what one process sees, as an extension, in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from agora.hookspecs import hookimpl
from agora.model.cancel import CancelResult
from agora.model.events import Event, EventType

#: Upper bounds of the time from a request to the end, in seconds: from a program without a handler to long graces.
BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
#: Requests whose end this process has not seen; of more, the oldest are forgotten.
_REMEMBERED = 10_000


class Metrics:
    """Counts dispatches that ended, answers to cancels, and the time that stops take.

    What another process writes down (a background supervisor, say) is counted there: give each one its own, and add.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._completed: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._policies: Counter[str] = Counter()
        self._forced = 0
        self._unconfirmed = 0
        self._asked: dict[str, datetime] = {}
        self._within = dict.fromkeys(BUCKETS, 0)
        self._seconds = 0.0
        self._stops = 0

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            if event.type is EventType.CANCEL_REQUESTED:
                self._policies[event.data["cause"].get("policy") or "none"] += 1
                self._asked[event.subject] = event.time
                if len(self._asked) > _REMEMBERED:
                    del self._asked[next(iter(self._asked))]
            elif event.type is EventType.TERMINATED:
                self._ended(event)

    def _ended(self, event: Event) -> None:
        self._completed[event.data["state"]] += 1
        self._forced += event.data["forced"] is True
        self._unconfirmed += event.data["confirmed"] is False
        if (asked := self._asked.pop(event.subject, None)) is not None:
            seconds = (event.time - asked).total_seconds()
            self._seconds += seconds
            self._stops += 1
            for bound in BUCKETS:
                self._within[bound] += seconds <= bound

    @hookimpl
    def on_cancel(self, result: CancelResult) -> None:
        """Count an answer, and those of the dispatches below it."""
        with self._lock:
            self._requests[result.outcome.value.lower()] += 1
        for child in result.children:
            self.on_cancel(child)

    def text(self) -> str:
        """Return all counts, as a page that Prometheus scrapes."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _counter("agora_dispatch_completed_total", "Dispatches that ended.", "outcome", self._completed)
        yield from _counter("agora_cancel_requests_total", "Answers to cancels.", "outcome", self._requests)
        yield from _counter("agora_stops_requested_total", "Stops recorded.", "policy", self._policies)
        yield from _counter("agora_forced_kills_total", "Dispatches killed after their grace.", "", {"": self._forced})
        yield from _counter("agora_unconfirmed_ends_total", "Ends without proof of death.", "", {"": self._unconfirmed})
        name = "agora_stop_seconds"
        yield f"# HELP {name} From the request to the end."
        yield f"# TYPE {name} histogram"
        for bound in BUCKETS:
            yield f'{name}_bucket{{le="{bound:g}"}} {self._within[bound]}'
        yield f'{name}_bucket{{le="+Inf"}} {self._stops}'
        yield f"{name}_sum {self._seconds:g}"
        yield f"{name}_count {self._stops}"


def _counter(name: str, about: str, label: str, counts: dict[str, int]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} counter"
    for value, count in sorted(counts.items()):
        yield f'{name}{{{label}="{value}"}} {count}' if label else f"{name} {count}"
