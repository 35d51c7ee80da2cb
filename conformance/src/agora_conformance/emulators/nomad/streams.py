"""Answers that go on: the event stream and the log of a task."""

from __future__ import annotations

import asyncio
import base64
import json

from aiohttp import web

from agora_conformance.emulators.nomad.api import Ask
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.errors import ApiError, Object, denied
from agora_conformance.emulators.nomad.output import STREAMS
from agora_conformance.emulators.nomad.store import Entry

#: Bytes of a log that are sent in one frame.
FRAME = 64 * 1024
#: Seconds between two heartbeats of a log that is followed.
LOG_HEARTBEAT = 1.0
#: Topics whose events belong to a job.
OF_JOBS = ("Job", "Allocation", "Evaluation", "Deployment")


class EventStream:
    """One `/v1/event/stream`.

    Parameters:
        cluster: whose events.
        ask: the request.
        topics: the `topic` parameters.
    """

    def __init__(self, cluster: Cluster, ask: Ask, topics: list[str]) -> None:
        self._cluster, self._ask = cluster, ask
        pairs = [one.split(":", 1) if ":" in one else [one, "*"] for one in topics or ["*"]]
        self._topics = [(topic, key) for topic, key in pairs]
        self._over = asyncio.Event()

    def _allowed(self) -> bool:
        rights = self._ask.rights
        if rights is None:
            return False
        namespace = self._ask.namespace
        for topic, _ in self._topics:
            if topic in OF_JOBS:
                if not (rights.any_namespace("read-job") if namespace == "*" else rights.may("read-job", namespace)):
                    return False
            elif topic == "Node":
                if not rights.other("node", "read"):
                    return False
            elif topic == "*" and not rights.management:
                return False
        return True

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Send events until the client goes, or somebody cuts the connection."""
        after = self._ask.after()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        await response.prepare(request)
        if not self._allowed():
            await asyncio.sleep(self._cluster.timing.stream_denied)
            return response
        faults = self._cluster.faults
        faults.streams.add(self._over.set)
        try:
            await self._send(response, after)
        finally:
            faults.streams.discard(self._over.set)
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _send(self, response: web.StreamResponse, after: int) -> None:
        store, timing = self._cluster.store, self._cluster.timing
        # An index that is still to come means: from now on.
        sent = min(after - 1, store.index) if after > 1 else 0
        while not self._over.is_set():
            news = store.news
            for entry in [one for one in store.entries if one.index > sent]:
                sent = entry.index
                if shown := self._shown(entry):
                    await response.write(json.dumps({"Index": entry.index, "Events": shown}).encode() + b"\n")
            if not await self._something(news, timing.stream_heartbeat) and not self._cluster.faults.silent:
                await response.write(b"{}\n")

    async def _something(self, news: asyncio.Event, seconds: float) -> bool:
        """Wait for news, or the end; return whether there is any."""
        waits = [asyncio.ensure_future(one.wait()) for one in (news, self._over)]
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        return bool(done)

    def _shown(self, entry: Entry) -> list[Object]:
        """Return the events of an entry that this stream is about."""
        faults = self._cluster.faults
        if faults.silent:
            return []
        return [one for one in entry.events if self._fits(one) and not faults.loses(one)]

    def _fits(self, event: Object) -> bool:
        namespace = self._ask.namespace
        if event["Namespace"] and namespace not in ("*", event["Namespace"]):
            return False
        keys = ("*", event["Key"], *(event["FilterKeys"] or ()))
        if not any(topic in ("*", event["Topic"]) and key in keys for topic, key in self._topics):
            return False
        job = event["Key"] if event["Topic"] == "Job" else (event["FilterKeys"] or [""])[0]
        return not (job and self._cluster.faults.hides(job))


class LogStream:
    """One `/v1/client/fs/logs/ALLOCATION`.

    Parameters:
        cluster: whose task.
        ask: the request.
    """

    def __init__(self, cluster: Cluster, ask: Ask) -> None:
        self._cluster, self._ask = cluster, ask

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Send what is there, and with `follow` what comes, without an end."""
        ask, name = self._ask, self._ask.path.removeprefix("/v1/client/fs/logs/")
        if ask.rights is None:
            raise ApiError(500, "rpc error: Permission denied")
        alloc = self._cluster.store.allocs.get(name)
        if not ask.rights.may("read-logs", ask.namespace if alloc is None else alloc["Namespace"]):
            raise denied()
        task, stream = ask.query.get("task", ""), ask.query.get("type", "")
        if not task:
            raise ApiError(400, "must provide task name")
        if stream not in STREAMS:
            raise ApiError(400, "must provide log type (stdout/stderr)")
        client = self._cluster.client(name)
        hold = client.holds.get(name)
        tasks = {} if hold is None else hold.tasks
        if hold is not None and task not in tasks:
            raise ApiError(400, f'unknown task name "{task}"')
        if hold is None or tasks[task].container is None:
            raise ApiError(404, f'task "{task}" not started yet. No logs available')
        output = tasks[task].output
        data = output.data[stream]
        at = self._start(len(data))
        plain, follow = ask.flag("plain"), ask.flag("follow")
        kind = "text/plain" if plain else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        path = f"alloc/logs/{task}.{stream}.0"
        while True:
            news = output.news
            while at < len(data):
                piece = bytes(data[at : at + FRAME])
                at += len(piece)
                frame = {"Data": base64.b64encode(piece).decode(), "File": path, "Offset": at}
                await response.write(piece if plain else json.dumps(frame).encode())
            if not follow or not client.up:
                return response
            try:
                async with asyncio.timeout(LOG_HEARTBEAT):
                    await news.wait()
            except TimeoutError:
                await response.write(b"" if plain else b"{}")

    def _start(self, size: int) -> int:
        """Return where to begin."""
        origin = self._ask.query.get("origin") or "start"
        try:
            offset = int(self._ask.query.get("offset") or 0)
        except ValueError:
            raise ApiError(400, f"error parsing offset: {self._ask.query['offset']}") from None
        if origin not in ("start", "end"):
            raise ApiError(400, "origin must be start or end")
        return min(offset, size) if origin == "start" else max(size - offset, 0)
