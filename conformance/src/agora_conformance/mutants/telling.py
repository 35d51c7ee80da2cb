"""Mutants that tell something else than what is."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any
from uuid import uuid4

from agora.errors import Unreachable
from agora.hookspecs import WatchSink, hookimpl
from agora.model.events import EventType
from agora.model.observation import Handle, LogChunk, Observation, Phase
from agora.worker.marks import pack

from agora_conformance.mutants.base import Mutant, ToldSink

Body = dict[str, Any]


class TellsAnotherExitCode(Mutant):
    """Exit codes are one off."""

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Turn the last bit."""
        code = seen.exit_code
        return seen if code is None else seen.model_copy(update={"exit_code": code ^ 1})


class AlwaysSaysForced(Mutant):
    """Whatever was stopped had to be killed."""

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Say so."""
        ended = seen.phase is Phase.ENDED
        return seen.model_copy(update={"forced": True, "evidence": "inferred"}) if ended else seen


class ReadsAwayAsGone(Mutant):
    """What does not answer is not there."""

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Call it absent."""
        return seen if seen.reachable else Observation(phase=Phase.ABSENT)

    def _look(self, handle: Handle) -> Observation:
        try:
            return super()._look(handle)
        except Unreachable:
            return Observation(phase=Phase.ABSENT)


class CallsTheGoneDead(Mutant):
    """What has no record any more is dead."""

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Call it ended."""
        gone = seen.phase is Phase.ABSENT or seen.reason == "record_missing"
        return Observation(phase=Phase.ENDED, reason="gone") if gone else seen


class WatchesInSilence(Mutant):
    """Claims a watch that never says that it stands."""

    @hookimpl
    def watch(self, sink: WatchSink) -> object:
        """Push, but do not connect."""
        return self.inner.call("watch", sink=_Silent(self, sink))


class _Silent(ToldSink):
    def connected(self) -> None:
        """Say nothing."""


class LosesOutput(Mutant):
    """Output on stderr is not kept, nor what a killed workload wrote after SIGTERM."""

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Cut it off."""
        chunks = self.inner.call("logs", handle=handle, follow=follow, since=since, tail=tail)
        data = b"".join(chunk.data for chunk in chunks if chunk.stream == "stdout")
        if self._look(handle).forced is True:
            before, _, _ = data.partition(b'"term"')
            data = before.rpartition(b"\n")[0] + b"\n"
        return iter([LogChunk(stream="stdout", data=data)])


class _Printing(Mutant):
    """Gives the output as a subclass changes it."""

    def printed(self, handle: Handle, stream: str, data: bytes, tail: int | None) -> bytes:
        """Change the output of one stream."""
        return data

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Read all of it and change it."""
        chunks = list(self.inner.call("logs", handle=handle, follow=follow, since=since, tail=None))
        for stream in ("stdout", "stderr"):
            data = b"".join(chunk.data for chunk in chunks if chunk.stream == stream)
            yield LogChunk(stream=stream, data=self.printed(handle, stream, data, tail))


class StripsControlCharacters(_Printing):
    """Output is cleaned of what cannot be printed."""

    def printed(self, handle: Handle, stream: str, data: bytes, tail: int | None) -> bytes:
        """Leave out what begins a mark."""
        return data.replace(b"\x1e", b"")


class LosesLastWords(_Printing):
    """Whoever asks for the last lines gets none of the very last ones, as if they had not arrived yet."""

    def printed(self, handle: Handle, stream: str, data: bytes, tail: int | None) -> bytes:
        """Cut them off."""
        return data if tail is None else b"".join(data.splitlines(keepends=True)[:-3])


class SpeaksForTheWorkload(_Printing):
    """What was asked to stop is said to have agreed."""

    def printed(self, handle: Handle, stream: str, data: bytes, tail: int | None) -> bytes:
        """Say so for it."""
        if stream == "stderr" or self._look(handle).phase is not Phase.ENDED:
            return data
        word = {"id": "beef.1", "type": EventType.CANCELLED, "subject": handle.id, "sequence": 1, "data": {}}
        return data + pack(handle.id, json.dumps(word).encode())


class _Historian(Mutant):
    """Writes into the store behind the core's back, once an end stands there."""

    def __init__(self, inner: object, installation: Any) -> None:
        super().__init__(inner, installation)
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Begin to write when an end is told."""
        with self._lock:
            new = seen.phase is Phase.ENDED and dispatch_id not in self._seen
            self._seen.add(dispatch_id) if new else None
        if new:
            threading.Thread(target=self._wait_and_write, args=[dispatch_id], daemon=True).start()
        return seen

    def _wait_and_write(self, dispatch_id: str) -> None:
        path = self.installation.directory / "agora.db"
        for _ in range(100):
            time.sleep(0.02)
            if not path.exists():
                return
            with closing(sqlite3.connect(path, timeout=2)) as store, store:
                rows = store.execute(
                    "SELECT sequence, body FROM events WHERE dispatch_id = ? ORDER BY sequence", [dispatch_id]
                ).fetchall()
                bodies = {number: json.loads(body) for number, body in rows}
                ends = [number for number, body in bodies.items() if body["type"] == EventType.TERMINATED]
                if ends:
                    self.write(store, dispatch_id, bodies, ends[0])
                    return

    def write(self, store: sqlite3.Connection, dispatch_id: str, bodies: Mapping[int, Body], end: int) -> None:
        """Change the history."""

    @staticmethod
    def put(store: sqlite3.Connection, dispatch_id: str, body: Body) -> None:
        """Write one event."""
        store.execute(
            "INSERT OR REPLACE INTO events (dispatch_id, sequence, type, body) VALUES (?, ?, ?, ?)",
            [dispatch_id, body["sequence"], body["type"], json.dumps(body)],
        )


class EndsTwice(_Historian):
    """There are two ends."""

    def write(self, store: sqlite3.Connection, dispatch_id: str, bodies: Mapping[int, Body], end: int) -> None:
        """Append the end again."""
        self.put(store, dispatch_id, {**bodies[end], "id": uuid4().hex, "sequence": max(bodies) + 1})


class GoesOnAfterTheEnd(_Historian):
    """A heartbeat follows the end."""

    def write(self, store: sqlite3.Connection, dispatch_id: str, bodies: Mapping[int, Body], end: int) -> None:
        """Append a heartbeat."""
        kind = EventType.HEARTBEAT.value
        extra = {**bodies[end], "id": uuid4().hex, "sequence": max(bodies) + 1, "type": kind, "data": {}}
        self.put(store, dispatch_id, extra)


class RewritesHistory(_Historian):
    """The second event is missing; the end is older than the rest, has the id of the first event, and tells a lie."""

    def write(self, store: sqlite3.Connection, dispatch_id: str, bodies: Mapping[int, Body], end: int) -> None:
        """Change them."""
        store.execute("DELETE FROM events WHERE dispatch_id = ? AND sequence = 2", [dispatch_id])
        lie = {**bodies[end]["data"], "exit_code": 99}
        first = bodies[min(bodies)]["id"]
        self.put(store, dispatch_id, {**bodies[end], "time": "2001-01-01T00:00:00Z", "id": first, "data": lie})
