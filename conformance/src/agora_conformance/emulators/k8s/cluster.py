"""What the parts of the emulated cluster share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agora_conformance.emulators.k8s.clock import Clock, Timing
from agora_conformance.emulators.k8s.deletion import DeleteOptions, Deleter
from agora_conformance.emulators.k8s.errors import ApiError, Object
from agora_conformance.emulators.k8s.resources import EVENTS, NAMESPACES, PODS, SERVICE_ACCOUNTS, Resource
from agora_conformance.emulators.k8s.store import Store
from agora_conformance.emulators.runner import Images, Runner

log = logging.getLogger("agora_conformance.emulators.k8s")


@dataclass
class Cluster:
    """State and services that the API server, the controllers and the kubelet work with.

    Parameters:
        timing: how long things take.
        images: what image names stand for.
        runner: runs containers.
        history: changes that a watch may go back.
    """

    timing: Timing
    images: Images
    runner: Runner
    history: int = 5000
    clock: Clock = field(default_factory=Clock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.clock, self.history)
        self.deleter = Deleter(self.store, self.clock, self.timing.second)

    def found(self, namespace: str) -> None:
        """Create a namespace and what every namespace holds."""
        labels = {"kubernetes.io/metadata.name": namespace}
        body = {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        self.store.create(NAMESPACES, "", {"metadata": {"name": namespace, "labels": labels}, **body})
        self.furnish(namespace)

    def furnish(self, namespace: str) -> None:
        """Create what every namespace holds."""
        self.store.create(SERVICE_ACCOUNTS, namespace, {"metadata": {"name": "default"}})

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside everything else; a failure is kept for whoever closes the emulator."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("a part of the emulated cluster failed: %r", problem)
            self.failures.append(problem)

    async def each(self, resource: Resource | None, react: Callable[[Object, Resource, bool], None]) -> None:
        """Call `react(object, resource, gone)` for everything there is, and for every change from now on."""
        watcher = self.store.watch(resource)
        try:
            for kind, item in list(self.store.everything()):
                if resource in (None, kind):
                    react(item, kind, False)
            while True:
                change = await watcher.queue.get()
                react(change.object, change.resource, change.type == "DELETED")
        finally:
            self.store.unwatch(watcher)

    def delete(self, resource: Resource, item: Object, **options: Any) -> None:
        """Delete this very object, if it is still there."""
        meta = item["metadata"]
        try:
            asked = DeleteOptions(uid=meta["uid"], **options)
            self.deleter.delete(resource, meta.get("namespace", ""), meta["name"], asked)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    def change(self, resource: Resource, item: Object, mutate: Callable[[Object], None]) -> Object | None:
        """Change this very object, if it is still there."""
        meta = item["metadata"]
        found = self.store.find(resource, meta.get("namespace", ""), meta["name"])
        if found is None or found["metadata"]["uid"] != meta["uid"]:
            return None
        return self.store.update(resource, meta.get("namespace", ""), meta["name"], mutate)

    def pod(self, uid: str, namespace: str, name: str) -> Object | None:
        """Return a pod if it is still the same."""
        found = self.store.find(PODS, namespace, name)
        return found if found is not None and found["metadata"]["uid"] == uid else None

    def event(self, about: Object, reason: str, message: str, source: str, kind: str = "Normal") -> None:
        """Record an Event; a repeated one is counted."""
        meta, now = about["metadata"], self.clock.server()
        namespace = meta.get("namespace", "default")
        involved = {
            "kind": about["kind"], "namespace": namespace, "name": meta["name"], "uid": meta["uid"],
            "apiVersion": about["apiVersion"], "resourceVersion": meta["resourceVersion"],
        }  # fmt: skip
        for known in self.store.items(EVENTS, namespace):
            same = known["involvedObject"]["uid"] == meta["uid"]
            if same and (known["reason"], known["message"]) == (reason, message):
                self.change(EVENTS, known, lambda item: item.update(count=item["count"] + 1, lastTimestamp=now))
                return
        name = f"{meta['name']}.{self.store.version:016x}"
        body = {
            "metadata": {"name": name}, "involvedObject": involved, "reason": reason, "message": message,
            "source": {"component": source}, "firstTimestamp": now, "lastTimestamp": now, "count": 1, "type": kind,
            "eventTime": None, "reportingComponent": source, "reportingInstance": "",
        }  # fmt: skip
        self.store.create(EVENTS, namespace, body)
