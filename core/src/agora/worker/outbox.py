"""The way out of events: in order, rate-limited, in a thread of its own, so that no peer holds up the program."""

from __future__ import annotations

import os
import threading
import time
from _queue import Empty, SimpleQueue

from agora.worker.stages import take_no_more_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from agora.worker.sinks import Sink

    #: A type of events; data of its own, or null where it is nudged; and whether it is sent at once.
    _Item = tuple[str, dict[str, Any] | None, bool]

#: One attempt to deliver an event may take so long, in seconds.
SEND_SECONDS = 2.0
#: Undelivered events of the past are tried again so often, in seconds.
RETRY_SECONDS = 5.0
#: So many events are kept while they cannot be delivered; the oldest progress goes first, a cancel never.
KEPT = 200
#: The data of one event has at most so many bytes as JSON: with all around it, it fits into one marked line.
DATA_BYTES = 3000
#: Of the time to close, so much is for the way that was chosen; the rest is for the next best one.
_FIRST_PART = 0.6
#: What wakes the thread and says nothing.
_NOTHING: _Item = ("", None, False)


class Outbox:
    """Sends events.

    Parameters:
        subject: the dispatch.
        sinks: ways out, the best first; the second is used for what the first did not take by the end, and so on.
        every: seconds between two events of a type, by type; what comes earlier replaces what waits.
        carries: what every event of a type says besides, by type, asked for when it is made. Where that is anything,
            such an event is among the last, so that it stands at the end of the output.
    """

    def __init__(
        self,
        subject: str,
        sinks: Sequence[Sink],
        every: dict[str, float],
        carries: Mapping[str, Callable[[], dict[str, object]]] | None = None,
    ) -> None:
        self._subject = subject
        self._sinks = sinks
        self._every = every
        self._carries = dict(carries or {})
        self._source = os.urandom(5).hex()
        self._lock = threading.Lock()
        self._number = 0
        self._waiting: dict[str, dict[str, Any]] = {}
        self._latest: dict[str, dict[str, Any]] = {}
        self._last: dict[str, float] = {}
        self._kept: dict[int, bytes] = {}
        self._inbox: SimpleQueue[_Item | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, type: str, data: dict[str, Any]) -> None:
        """Take an event; it is sent soon, by somebody else.

        Raises:
            TypeError, ValueError: the data is no JSON, or more than 3,000 bytes of it.
        """
        if (size := len(_json(data))) > DATA_BYTES:
            raise ValueError(f"the data of an event has {size} bytes; the limit is {DATA_BYTES}")
        self._put((type, dict(data), False))

    def nudge(self, type: str, *, at_once: bool) -> None:
        """Have an event of a type sent for what it carries, with the latest data of its own.

        Parameters:
            type: one that carries something.
            at_once: though the last one was just sent.
        """
        self._put((type, None, at_once))

    def _put(self, item: _Item) -> None:
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="agora-outbox", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    pass  # none is to be had now: the next event tries again, and the end sends what waits
                else:
                    self._thread = thread
        self._inbox.put(item)

    @property
    def undelivered(self) -> tuple[bytes, ...]:
        """The events that nobody has taken yet, as JSON."""
        with self._lock:
            return tuple(self._kept.values())

    def close(self, seconds: float) -> None:
        """Send what is left: by the best way as long as it answers, else by the next, the last one being the spool.

        Parameters:
            seconds: how long it may take.
        Raises:
            OSError: some events were taken by nobody.
        """
        until = time.monotonic() + seconds
        with self._lock:
            self._closed = True
            for type, carried in self._carries.items():
                if carried():
                    self._waiting.setdefault(type, self._latest.get(type, {}))
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join(seconds * _FIRST_PART)
        self._drain_inbox()
        for sink in self._sinks if self._thread is None else self._sinks[1:] or self._sinks:
            for number, event in self._left():
                try:
                    sink.send(event, max((until - time.monotonic()) / 2, 0.01))
                except OSError:
                    break  # nor will it take the next one, and the time is for the way after it
                except ValueError:
                    continue
                self._taken(number)
        # One that a thread is still at stays open: its number would soon stand for another file.
        for sink in self._sinks if self._thread is None or not self._thread.is_alive() else ():
            sink.close()
        if left := self._left():
            raise TimeoutError(f"{len(left)} events were taken by nobody")

    def forget(self) -> None:
        """Be closed, in a fork: the thread is not there, and nobody would let go of the lock if it had it."""
        self._lock = threading.Lock()
        self._closed = True

    def _left(self) -> list[tuple[int, bytes]]:
        with self._lock:
            return list(self._kept.items())

    def _taken(self, number: int) -> None:
        with self._lock:
            self._kept.pop(number, None)

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = None
        while True:
            try:
                item = self._inbox.get(timeout=pause) if pause is not None else self._inbox.get()
            except Empty:
                item = _NOTHING
            last = self._drain_inbox(item)
            self._send()
            if last:
                take_no_more_signals()
                return
            pause = self._next()

    def _drain_inbox(self, item: _Item | None = _NOTHING) -> bool:
        """Make events of what is due, at the end of everything; return whether this is the end."""
        last = False
        with self._lock:
            while True:
                last = last or item is None
                if item is not None and item[0]:
                    self._sort_in(*item)
                try:
                    item = self._inbox.get_nowait()
                except Empty:
                    break
            now = time.monotonic()
            for type in list(self._waiting):
                if self._closed or now - self._last.get(type, -self._every[type]) >= self._every[type]:
                    self._make(type)
        return last

    def _sort_in(self, type: str, data: dict[str, Any] | None, at_once: bool) -> None:
        if type not in self._every:
            # What waits for its turn was said before.
            for waiting in list(self._waiting):
                self._make(waiting)
        if data is None:
            data = self._waiting.get(type, self._latest.get(type, {}))
        elif type in self._carries:
            self._latest[type] = data
        self._waiting[type] = data
        if at_once or type not in self._every:
            self._make(type)

    def _make(self, type: str) -> None:
        data = self._waiting.pop(type)
        if type in self._carries:
            data = {**data, **self._carries[type]()}
        self._last[type] = time.monotonic()
        self._number += 1
        self._kept[self._number] = _json({
            "specversion": "1.0",
            "id": f"{self._source}.{self._number}",
            "source": "agora-worker",
            "type": type,
            "subject": self._subject,
            "time": _now(),
            "sequence": self._number,
            "data": data,
        })  # fmt: skip
        if len(self._kept) > KEPT:
            oldest = next((n for n, event in self._kept.items() if b'"dispatch.cancelled"' not in event), None)
            if oldest is not None:
                del self._kept[oldest]

    def _send(self) -> None:
        if not self._sinks:
            with self._lock:
                self._kept.clear()
            return
        for number, event in self._left():
            try:
                self._sinks[0].send(event, SEND_SECONDS)
            except OSError:
                return  # the order is kept: what comes later waits behind it
            except ValueError:
                continue  # it will never take this one, the next way may
            self._taken(number)

    def _next(self) -> float | None:
        """Return the seconds until something is due, or null where nothing waits."""
        now = time.monotonic()
        due = [self._last[type] + self._every[type] - now for type in self._waiting]
        if self._kept:
            due.append(RETRY_SECONDS)
        return max(min(due), 0.0) if due else None


def _json(value: object) -> bytes:
    # Imported here: a worker that has said nothing yet starts in two thirds of the time.
    import json

    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _now() -> str:
    seconds = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"
