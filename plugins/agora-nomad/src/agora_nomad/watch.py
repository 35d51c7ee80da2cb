"""One event stream per target: what it says is pushed, and a list before and after every break heals what it missed."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agora.errors import AgoraError, Unreachable
from agora.hookspecs import WatchSink
from agora.model.observation import SECOND_COPY, Handle, Observation, Phase

from agora_nomad import names, story
from agora_nomad.api import Api
from agora_nomad.cluster import Cluster, Copies, Ref, Seen

if TYPE_CHECKING:
    import requests

Item = dict[str, Any]

TOPICS = ("Allocation", "Job", "Evaluation")
#: A stream sends a heartbeat every 10 s at the latest (30 s in some versions); silence beyond is a dead connection.
SILENCE = 45.0
#: Without the right to hear, a stream stands and is silent: the lists that need the same right are asked so often.
CHECK_SECONDS = 20.0
#: An index that is not reached yet: the stream starts with what happens now.
_FROM_NOW = str(2**62)
_TICK = 0.25
#: A job that has no allocation is looked at so often without any news, in seconds.
_AGAIN = 2.0

Event = tuple[str, Item]
#: In place of an event: the stream stands, and a list shows what came before.
OPENED: Event = ("opened", {})
#: So long is waited for the stream to stand before everything is looked at, in seconds.
_OPEN_SECONDS = 1.0


def parse(line: bytes) -> list[Event]:
    """Read a line of the stream: the topics and objects of its events, none for a heartbeat.

    Raises:
        Unreachable: the line is cut off.
    """
    try:
        batch = json.loads(line)
        events = batch.get("Events") or []
        return [(event["Topic"], event["Payload"][event["Topic"]]) for event in events if event["Topic"] in TOPICS]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable("a line of the event stream is cut off") from error


class Stream(threading.Thread):
    """Opens the event stream and reads it until it ends or is closed; python-nomad's own reader dies without a word.

    A server answers only once it has something to say, be it a heartbeat, so this thread alone waits for that.

    Parameters:
        api: the namespace.
        out: gets `OPENED`, every event, and an error as the last thing.
    """

    def __init__(self, api: Api, out: queue.SimpleQueue[Event | AgoraError]) -> None:
        super().__init__(name="agora-nomad-events", daemon=True)
        self._api = api
        self._out = out
        self._lock = threading.Lock()
        self._answer: requests.Response | None = None
        self._closed = False

    def close(self) -> None:
        """End it, also while it waits for the server."""
        with self._lock:
            self._closed = True
            answer = self._answer
        if answer is not None:
            with suppress(Exception):  # it may be over already, or not have begun to be read
                answer.raw.shutdown()

    def run(self) -> None:
        """Open it and read."""
        query = {"topic": [f"{topic}:*" for topic in TOPICS], "index": _FROM_NOW}
        try:
            answer = self._api.stream("event/stream", query=query, silence=SILENCE)
            with self._lock:
                self._answer = answer
                closed = self._closed
            with answer:
                if closed:
                    return
                self._out.put(OPENED)
                for line in _lines(answer):
                    for event in parse(line):
                        self._out.put(event)
        except AgoraError as error:
            self._out.put(error)
        else:
            self._out.put(Unreachable("the event stream ended"))


def _lines(answer: requests.Response) -> Iterator[bytes]:
    import requests

    try:
        for line in answer.iter_lines(chunk_size=None):
            if line:
                yield line
    except (requests.RequestException, OSError, ValueError, AttributeError) as error:
        # requests itself stumbles over a connection that is shut down from another thread.
        raise Unreachable(f"the event stream broke: {type(error).__name__}: {error}") from error


class Watch:
    """Turns events into observations.

    Parameters:
        cluster: the namespace.
        installation: whose workloads.
        sink: where they go.
        copies: told of every look.
        is_here: whether a handle of the sink belongs to this cluster.
    """

    def __init__(
        self, cluster: Cluster, installation: str, sink: WatchSink, copies: Copies, is_here: Callable[[Handle], bool]
    ) -> None:
        self._cluster = cluster
        self._installation = installation
        self._sink = sink
        self._copies = copies
        self._is_here = is_here
        self._jobs: dict[str, Item] = {}
        self._allocations: dict[str, dict[str, Item]] = {}
        self._told: dict[str, Observation] = {}

    def run(self, closed: Callable[[], bool]) -> None:
        """Watch until the sink is closed or the stream breaks.

        Raises:
            AgoraError: the cluster does not answer, or does not let us look.
        """
        api = self._cluster.api
        self._may_look(api)
        events: queue.SimpleQueue[Event | AgoraError] = queue.SimpleQueue()
        stream = Stream(api, events)
        stream.start()
        try:
            # Where nothing happens on the cluster, the stream opens with its first heartbeat.
            first = _next(events, _OPEN_SECONDS)
            self._look_at_all()
            self._sink.connected()
            if first is not None and first != OPENED:
                self._take(*first)
            self._follow(events, closed, api)
        finally:
            stream.close()

    def _follow(self, events: queue.SimpleQueue[Event | AgoraError], closed: Callable[[], bool], api: Api) -> None:
        check, again = time.monotonic() + CHECK_SECONDS, time.monotonic() + _AGAIN
        while not (self._sink.closed or closed()):
            now = time.monotonic()
            if now > check:
                check = now + CHECK_SECONDS
                self._may_look(api)
                self._forget()
            if now > again:
                again = now + _AGAIN
                self._ask_about_the_unplaced()
            event = _next(events, _TICK)
            if event == OPENED:
                self._look_at_all()
            elif event is not None:
                self._take(*event)

    def _may_look(self, api: Api) -> None:
        """Make sure that silence means something: a stream without the right stands, and says nothing."""
        api.call("get", "allocations", query={"per_page": "1", "task_states": "false"})

    def _look_at_all(self) -> None:
        refs = [Ref.of(handle) for handle in self._sink.handles().values() if self._fits(handle)]
        for ref, seen in zip(refs, self._cluster.look_at_all(refs) if refs else [], strict=True):
            self._keep(ref, seen)
            self._push(ref.id, seen)

    def _keep(self, ref: Ref, seen: Seen) -> None:
        if seen.job is not None:
            self._jobs[ref.job] = _lean(seen.job)
        self._allocations[ref.job] = {one["ID"]: one for one in seen.allocations}

    def _ask_about_the_unplaced(self) -> None:
        """Have jobs without an allocation looked at: the evaluation that ends them says nothing of its own end."""
        for id, handle in self._sink.handles().items():
            if self._fits(handle) and not self._allocations.get(names.job_id(id)):
                self._sink.stale(id)

    def _take(self, topic: str, item: Item) -> None:
        id = str(item.get("ID") if topic == "Job" else item.get("JobID"))
        if topic == "Job":
            # Also before its handle is known: what follows is judged by it.
            if names.meta(item, names.INSTALLATION) == self._installation and _newer(item, self._jobs.get(id)):
                self._jobs[id] = _lean(item)
            return
        job, handle = self._jobs.get(id), self._sink.handles().get(id.removeprefix(names.job_id("")))
        if topic == "Evaluation":
            if handle is not None and not self._allocations.get(id):
                self._sink.stale(handle.id)
            return
        if job is None:
            if handle is not None:
                self._sink.stale(handle.id)
            return
        known = self._allocations.setdefault(id, {})
        before = known.get(item["ID"])
        if _newer(item, before):
            known[item["ID"]] = {**(before or {}), **item}
            if handle is not None and self._fits(handle):
                self._judge(Ref.of(handle), job, list(known.values()))

    def _judge(self, ref: Ref, job: Item, allocations: list[Item]) -> None:
        placed = [one for one in allocations if ref.placed(one)]
        if not ref.owns(job) or ref.id not in self._told:
            # Its first word, or not its own: a look shows whether there is more than the stream has told.
            self._sink.stale(ref.id)
        if ref.owns(job) and placed:
            self._push(ref.id, Seen(job, placed, story.look(job, placed)))

    def _forget(self) -> None:
        """Let go of what nobody asks about any more."""
        live = {names.job_id(id) for id in self._sink.handles()}
        self._jobs = {id: job for id, job in self._jobs.items() if id in live}
        self._allocations = {id: known for id, known in self._allocations.items() if id in live}
        self._told = {id: seen for id, seen in self._told.items() if names.job_id(id) in live}

    def _push(self, id: str, seen: Seen) -> None:
        self._copies.heard(seen.allocations)
        looked = seen.observation
        if looked.phase is Phase.ABSENT:
            # Only a look that proves the cluster may say so.
            self._sink.stale(id)
        elif looked.reason == SECOND_COPY:
            self._told.pop(id, None)
            self._sink.push(id, looked)
        elif self._told.get(id) != looked:
            self._told[id] = looked
            self._sink.push(id, looked)

    def _fits(self, handle: Handle) -> bool:
        return bool(handle.data.get("installation") == self._installation and self._is_here(handle))


def _next(events: queue.SimpleQueue[Event | AgoraError], seconds: float) -> Event | None:
    """Return the next event, null where none comes in time, and raise what ended the stream."""
    try:
        event = events.get(timeout=seconds)
    except queue.Empty:
        return None
    if isinstance(event, AgoraError):
        raise event
    return event


def _newer(item: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    """Whether an event is no older than what a list has shown already."""
    return known is None or item["ModifyIndex"] >= known["ModifyIndex"]


def _lean(job: Mapping[str, Any]) -> Item:
    """Keep what a look needs: commands and environments of a day's dispatches may be large."""
    kept = ("ID", "Meta", "Stop", "Status", "Version", "CreateIndex", "ModifyIndex")
    return {key: job[key] for key in kept if key in job}
