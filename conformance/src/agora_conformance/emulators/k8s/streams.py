"""Watches and logs: answers that go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from agora_conformance.emulators.k8s import selectors
from agora_conformance.emulators.k8s.clock import parse
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.errors import ApiError, Object, bad_request, expired, not_found
from agora_conformance.emulators.k8s.faults import Cut, Faults
from agora_conformance.emulators.k8s.kubelet import Kubelet
from agora_conformance.emulators.k8s.resources import PODS
from agora_conformance.emulators.k8s.routes import Route
from agora_conformance.emulators.k8s.store import Change
from agora_conformance.emulators.runner import Line, Log

#: Seconds between two bookmarks; the API server sends about one a minute.
BOOKMARKS = 60.0
#: Seconds between two looks whether the client is still there.
CLIENT_CHECK = 1.0
INITIAL_END = "k8s.io/initial-events-end"
Render = Callable[[Object], Object]


class Watch:
    """One watch.

    Parameters:
        cluster: what is watched.
        faults: what is lost or cut.
        route, query: the request.
        render: turns an object into what the client asked for.
        hidden: tells whether an object is to be left out for now.
        bookmarks: seconds between two bookmarks.
    """

    def __init__(
        self, cluster: Cluster, faults: Faults, route: Route, query: Mapping[str, str], render: Render,
        bookmarks: float = BOOKMARKS,
    ) -> None:  # fmt: skip
        self._cluster, self._faults, self._route, self._query = cluster, faults, route, query
        self._render = render
        self._bookmarks = bookmarks
        self._wants_bookmarks = query.get("allowWatchBookmarks", "").lower() in ("1", "true")
        name = f",metadata.name={route.name}" if route.name else ""
        self._test = selectors.both(query.get("labelSelector", ""), query.get("fieldSelector", "") + name)
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._response = web.StreamResponse(headers={"Content-Type": "application/json"})

    def end(self, how: str) -> None:
        """End it: `410`, `cut` or `close`."""
        if not self._end.done():
            self._end.set_result(how)

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Send events until the client, the time limit or a fault ends it."""
        watcher = self._cluster.store.watch(self._route.resource)
        self._faults.watches.add(self.end)
        try:
            await self._response.prepare(request)
            try:
                version = await self._first()
            except ApiError as error:
                await self._send("ERROR", error.status())
                return self._response
            await self._go_on(request, watcher.queue, version)
        except ConnectionError:
            pass  # the client has gone
        finally:
            self._faults.watches.discard(self.end)
            self._cluster.store.unwatch(watcher)
        return self._response

    async def _first(self) -> int:
        """Send what was there or has happened already; return the version that it leads up to."""
        store = self._cluster.store
        asked = self._query.get("resourceVersion", "")
        initial = self._query.get("sendInitialEvents", "").lower() in ("1", "true")
        if asked in ("", "0") or initial:
            now = store.version
            for item in store.items(self._route.resource, self._route.namespace):
                if self._test(item):
                    await self._send("ADDED", item)
            if initial and self._wants_bookmarks:
                await self._bookmark({INITIAL_END: "true"})
            return now
        for change in store.since(int(asked)):
            if change.resource is self._route.resource:
                await self._tell(change)
        return max(int(asked), store.version)

    async def _go_on(self, request: web.Request, queue: asyncio.Queue[Change], version: int) -> None:
        loop = asyncio.get_running_loop()
        limit = float(self._query.get("timeoutSeconds") or random.uniform(1800, 3600))  # noqa: S311 - spreads load
        over, bookmark = loop.time() + limit, loop.time() + self._bookmarks
        getting: asyncio.Task[Change] | None = None
        try:
            while loop.time() < over and request.transport is not None and not request.transport.is_closing():
                getting = getting or asyncio.ensure_future(queue.get())
                left = min(over, bookmark, loop.time() + CLIENT_CHECK) - loop.time()
                waiting: list[asyncio.Future[Any]] = [getting, self._end]
                await asyncio.wait(waiting, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
                if self._end.done():
                    return await self._ended(self._end.result())
                if getting.done():
                    change, getting = getting.result(), None
                    if change.version > version and not self._faults.loses(change):
                        await self._tell(change)
                elif loop.time() >= bookmark:
                    bookmark = loop.time() + self._bookmarks
                    await self._bookmark({})
        finally:
            if getting is not None:
                getting.cancel()

    async def _ended(self, how: str) -> None:
        if how == "410":
            version = self._cluster.store.version
            await self._send("ERROR", expired(version - 1, version).status())
        elif how == "cut":
            raise Cut

    async def _tell(self, change: Change) -> None:
        """Send a change as this watch sees it: an object that begins or ceases to fit is added or deleted."""
        namespace = change.object["metadata"].get("namespace", "")
        if self._route.namespace and namespace != self._route.namespace:
            return
        now = change.type != "DELETED" and self._test(change.object)
        before = change.before is not None and self._test(change.before)
        if now:
            await self._send("MODIFIED" if before else "ADDED", change.object)
        elif before:
            await self._send("DELETED", change.object)

    async def _bookmark(self, annotations: dict[str, str]) -> None:
        if self._wants_bookmarks:
            meta: Object = {"resourceVersion": str(self._cluster.store.version), "creationTimestamp": None}
            if annotations:
                meta["annotations"] = annotations
            resource = self._route.resource
            await self._send("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta})

    async def _send(self, kind: str, item: Object) -> None:
        shown = item if kind in ("ERROR", "BOOKMARK") else self._render(item)
        await self._response.write(json.dumps({"type": kind, "object": shown}, separators=(",", ":")).encode() + b"\n")


class PodLog:
    """The log of one container.

    Parameters:
        cluster: where it runs.
        kubelet: the agent that has it.
        route, query: the request.
    """

    def __init__(self, cluster: Cluster, kubelet: Kubelet, route: Route, query: Mapping[str, str]) -> None:
        self._cluster, self._kubelet, self._route, self._query = cluster, kubelet, route, query
        self._timestamps = query.get("timestamps", "").lower() in ("1", "true")

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Send the log.

        Raises:
            ApiError: 400, 404 or 500.
        """
        pod = self._cluster.store.get(PODS, self._route.namespace, self._route.name)
        name = self._container(pod)
        if not self._kubelet.up:
            raise ApiError(500, "InternalError", self._unreachable(name))
        sandbox = self._kubelet.sandboxes.get(pod["metadata"]["uid"])
        container = sandbox.containers.get(name) if sandbox else None
        if container is None or self._query.get("previous", "").lower() in ("1", "true"):
            raise self._not_there(pod, name)
        lines = container.log.lines()
        follow = self._query.get("follow", "").lower() in ("1", "true")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        left = [int(self._query["limitBytes"])] if self._query.get("limitBytes") else []
        with contextlib.suppress(ConnectionError):  # the client may go at any time
            await self._send(response, container.log, lines, left, follow=follow)
        return response

    async def _send(
        self, response: web.StreamResponse, log: Log, lines: list[Line], left: list[int], *, follow: bool
    ) -> None:
        for line in self._chosen(lines):
            if not await self._write(response, line, left):
                return
        if follow:
            async for line in log.follow(lines):
                if not await self._write(response, line, left):
                    return

    def _container(self, pod: Object) -> str:
        names = [one["name"] for one in pod["spec"]["containers"]]
        asked = self._query.get("container") or ""
        meta = pod["metadata"]
        if asked and asked not in names:
            raise bad_request(f"container {asked} is not valid for pod {meta['name']}")
        if not asked and len(names) > 1:
            raise bad_request(
                f"a container name must be specified for pod {meta['name']}, choose one of: [{' '.join(names)}]"
            )
        return asked or str(names[0])

    def _unreachable(self, name: str) -> str:
        where = f"https://{self._kubelet.address}:10250/containerLogs/{self._route.namespace}/{self._route.name}/{name}"
        return f'Get "{where}": dial tcp {self._kubelet.address}:10250: connect: connection refused'

    def _not_there(self, pod: Object, name: str) -> ApiError:
        meta = pod["metadata"]
        statuses = pod["status"].get("containerStatuses") or []
        state: Any = next((one["state"] for one in statuses if one["name"] == name), {})
        if self._query.get("previous", "").lower() in ("1", "true"):
            return bad_request(f'previous terminated container "{name}" in pod "{meta["name"]}" not found')
        if "waiting" in state:
            return bad_request(
                f'container "{name}" in pod "{meta["name"]}" is waiting to start: {state["waiting"]["reason"]}'
            )
        if "terminated" in state:
            return bad_request(f'container "{name}" in pod "{meta["name"]}" is terminated')
        if not pod["spec"].get("nodeName"):
            return bad_request(f"pod {meta['name']} does not have a host assigned")
        return not_found(PODS, meta["name"])

    def _chosen(self, lines: list[Line]) -> list[Line]:
        now = self._cluster.clock
        since = None
        if seconds := self._query.get("sinceSeconds"):
            since = parse(now.node()) - int(seconds)
        elif text := self._query.get("sinceTime"):
            since = parse(text)
        if since is not None:
            lines = [line for line in lines if line.at + now.node_skew >= since]
        tail = self._query.get("tailLines")
        if tail is not None:
            lines = lines[-int(tail) :] if int(tail) else []
        return lines

    async def _write(self, response: web.StreamResponse, line: Line, left: list[int]) -> bool:
        data = line.data
        if self._timestamps:
            at = line.at + self._cluster.clock.node_skew
            data = f"{self._cluster.clock.node(line.at)[:-1]}.{int(at % 1 * 1e9):09d}Z ".encode() + data
        if left:
            data = data[: left[0]]
            left[0] -= len(data)
        await response.write(data)
        return not left or left[0] > 0
