"""One watch per target: list and watch, for pods and for Jobs, healed by a list after whatever breaks."""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agora.errors import AgoraError, Unreachable
from agora.hookspecs import WatchSink
from agora.model.observation import SECOND_COPY, Handle, Observation, Phase
from urllib3.response import BaseHTTPResponse

from agora_k8s import names, story
from agora_k8s.api import Api, Refusal, lines
from agora_k8s.cluster import Cluster, Item, Ref, installation_selector

logger = logging.getLogger(__name__)

#: The server ends a watch after this time, so that a dead connection is noticed soon; seconds.
_WATCH_SECONDS = 50
#: Silence beyond the server's own end of the watch that means a dead connection, in seconds.
_SPARE = 10.0
_TICK = 0.25
#: Starts that fail are looked at so often without any news, in seconds.
_AGAIN = 1.0
#: Pause before a stream is set up again that broke at once: the first, and the longest, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0

Heard = Callable[[Item | None, Item | None, Observation], None]


class Expired(Exception):
    """The server has forgotten the version that the watch stands at."""


class Stream(threading.Thread):
    """Lists one kind of object and watches it, until it is closed.

    Parameters:
        api: the namespace.
        kind: `pods` or `jobs`.
        selector: label selector.
        out: gets `("list", kind, items)`, `("ADDED" | "MODIFIED" | "DELETED", kind, item)`, and
            `("broken", kind, error)` as the last thing where even a list fails.
    """

    def __init__(self, api: Api, kind: str, selector: str, out: queue.SimpleQueue[tuple[str, str, Any]]) -> None:
        super().__init__(name=f"agora-k8s-{kind}", daemon=True)
        self._api = api
        self._kind = kind
        self._selector = selector
        self._out = out
        self._closed = threading.Event()
        self._answer: BaseHTTPResponse | None = None

    def close(self) -> None:
        """End it, also while it waits for the server."""
        self._closed.set()
        answer = self._answer
        if answer is not None:
            with suppress(Exception):  # it may be over already, or not have begun to be read
                answer.shutdown()

    def run(self) -> None:
        """List, watch, and begin again."""
        pause = _FIRST_PAUSE
        version = ""
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                if not version:
                    items, version = self._api.list(self._kind, self._selector)
                    self._out.put(("list", self._kind, items))
                version = self._watch(version)
            except Expired:
                version = ""
            except Unreachable as error:
                if not version:
                    self._out.put(("broken", self._kind, error))
                    return
                # What was missed while nobody listened is healed by a list.
                logger.info("the watch of %s broke: %s", self._kind, error)
                version = ""
            except AgoraError as error:
                self._out.put(("broken", self._kind, error))
                return
            pause = _FIRST_PAUSE if time.monotonic() - began > _LONGEST_PAUSE else min(_LONGEST_PAUSE, pause * 2)
            self._closed.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret

    def _watch(self, version: str) -> str:
        """Watch from a version on until the server ends it; returns the version that it stands at."""
        query = {
            "watch": "true",
            "labelSelector": self._selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        try:
            answer = self._api.stream(self._api.path(self._kind), query, _WATCH_SECONDS + _SPARE)
        except Refusal as error:
            if error.status == 410:
                raise Expired from error
            raise Unreachable(f"the server refuses the watch: {error}") from error
        self._answer = answer
        try:
            # Whoever closes it has found no answer, or finds this one.
            if self._closed.is_set():
                return version
            for line in lines(answer):
                if self._closed.is_set():
                    break
                version = self._event(line, version)
        finally:
            self._answer = None
            answer.close()
        return version

    def _event(self, line: bytes, version: str) -> str:
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise Unreachable("a line of the watch is cut off") from error
        if kind == "ERROR":
            if item.get("code") == 410:
                raise Expired
            raise Unreachable(f"the watch says {item.get('message')}")
        if kind != "BOOKMARK":
            self._out.put((kind, self._kind, item))
        stands: str = item["metadata"]["resourceVersion"]
        return stands


class Watch:
    """Turns what both streams say into observations.

    Parameters:
        api: the namespace.
        installation: whose workloads.
        sink: where they go.
        heard: told of every look at a workload, with its objects.
        backend: identity of the namespace that the sink's handles must have.
    """

    def __init__(self, api: Api, installation: str, sink: WatchSink, heard: Heard, backend: str) -> None:
        self._api = api
        self._installation = installation
        self._sink = sink
        self._heard = heard
        self._backend = backend
        self._jobs: dict[str, Item] = {}
        self._pods: dict[str, dict[str, Item]] = {}
        self._listed: set[str] = set()
        self._told: dict[str, Observation] = {}

    def run(self, closed: Callable[[], bool]) -> None:
        """Watch until the sink is closed.

        Raises:
            AgoraError: a list fails; whoever watches sets it up again.
        """
        events: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        selector = installation_selector(self._installation)
        streams = [Stream(self._api, kind, selector, events) for kind in ("pods", "jobs")]
        for stream in streams:
            stream.start()
        again = time.monotonic() + _AGAIN
        try:
            while not (self._sink.closed or closed()):
                if time.monotonic() > again:
                    again = time.monotonic() + _AGAIN
                    self._look_at_the_stuck()
                try:
                    what, kind, value = events.get(timeout=_TICK)
                except queue.Empty:
                    continue
                if what == "broken":
                    raise value
                self._take(what, kind, value)
        finally:
            for stream in streams:
                stream.close()

    def _look_at_the_stuck(self) -> None:
        """Look again at starts that fail: the cluster says nothing new of them, and patience has an end."""
        for id, seen in list(self._told.items()):
            if seen.phase is Phase.PENDING and seen.reason is not None:
                self._tell(id)

    def _take(self, what: str, kind: str, value: Any) -> None:
        if what == "list":
            self._take_list(kind, value)
            return
        id = names.label(value, names.DISPATCH)
        if id is None:
            return
        value = _lean(value)
        if kind == "jobs":
            if what == "DELETED":
                self._jobs.pop(id, None)
            else:
                self._jobs[id] = value
            self._tell(id)
            return
        uid = value["metadata"]["uid"]
        self._pods.setdefault(id, {})[uid] = value
        self._tell(id)
        if what == "DELETED":
            # Its last state, with the exit code, was told just now if it was an end.
            self._pods[id].pop(uid, None)
            if not self._pods[id]:
                del self._pods[id]
            if story.ended(self._jobs.get(id), value) is None:
                self._sink.stale(id)

    def _take_list(self, kind: str, items: list[Item]) -> None:
        by_id = [(names.label(item, names.DISPATCH) or "", _lean(item)) for item in items]
        if kind == "jobs":
            self._jobs = dict(by_id)
        else:
            self._pods = {}
            for id, item in by_id:
                self._pods.setdefault(id, {})[item["metadata"]["uid"]] = item
        complete = len(self._listed) == 2
        self._listed.add(kind)
        if len(self._listed) < 2:
            return
        if not complete:
            self._sink.connected()
        for id in {*self._sink.handles(), *self._pods}:
            self._tell(id)

    def _tell(self, id: str) -> None:
        """Say how a workload is, by what both streams have shown."""
        if len(self._listed) < 2:
            return
        handle = self._sink.handles().get(id)
        pods = list(self._pods.get(id, {}).values())
        job = self._jobs.get(id)
        if handle is not None and not self._fits(handle):
            return
        if handle is not None:
            ref = Ref.of(handle)
            job = job if ref.owns(job) else None
            pods = [pod for pod in pods if ref.owns(pod)]
        seen = story.look(job, pods)
        if seen.reason == SECOND_COPY:
            # The stream of the pods may be behind the one of the Jobs.
            try:
                now = Cluster(self._api).pods(self._installation, [id])
            except AgoraError as error:
                logger.info("whether %s runs twice is left for the next look: %s", id, error)
                self._sink.stale(id)
                return
            pods = now if handle is None else [pod for pod in now if Ref.of(handle).owns(pod)]
            seen = story.look(job, pods)
        if seen.phase is not Phase.ABSENT:
            self._heard(job, story.current(pods), seen)
        if seen.reason == SECOND_COPY or handle is None:
            self._told.pop(id, None)
            if seen.reason == SECOND_COPY:
                self._sink.push(id, seen)
        elif seen.phase is Phase.ABSENT:
            # The streams may not stand at the same version: a look of its own decides.
            self._sink.stale(id)
        elif self._told.get(id) != seen:
            self._told[id] = seen
            self._sink.push(id, seen)

    def _fits(self, handle: Handle) -> bool:
        return handle.backend == self._backend and handle.data["installation"] == self._installation


def _lean(item: Item) -> Item:
    """Keep what a look needs: commands and environments of a day's dispatches may be large."""
    kept = ("suspend", "activeDeadlineSeconds", "nodeName")
    spec = {name: item["spec"][name] for name in kept if name in item["spec"]}
    metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    return {"metadata": metadata, "spec": spec, "status": item.get("status") or {}}
