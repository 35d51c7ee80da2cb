"""The objects of the emulated cluster, their versions, and what happened to them of late."""

from __future__ import annotations

import asyncio
import copy
import random
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agora_conformance.emulators.k8s.clock import Clock
from agora_conformance.emulators.k8s.errors import Object, already_exists, expired, not_found
from agora_conformance.emulators.k8s.resources import JOBS, PODS, Resource

#: The alphabet of generated names.
LETTERS = "bcdfghjklmnpqrstvwxz2456789"
#: resourceVersion of an empty cluster.
FIRST_VERSION = 1000


@dataclass(frozen=True)
class Change:
    """One change of one object.

    Parameters:
        version: resourceVersion of the change.
        type: `ADDED`, `MODIFIED` or `DELETED`.
        resource: kind of the object.
        object: what it is now, or was last.
        before: what it was before; None for a new one.
    """

    version: int
    type: str
    resource: Resource
    object: Object
    before: Object | None


class Watcher:
    """Somebody who is told about changes of one resource."""

    def __init__(self, resource: Resource | None) -> None:
        self.resource = resource
        self.queue: asyncio.Queue[Change] = asyncio.Queue()


class Store:
    """All objects; every method runs on the emulator's event loop.

    Parameters:
        clock: tells creation times.
        history: changes that a watch may go back; older ones are answered with 410.
    """

    def __init__(self, clock: Clock, history: int = 5000) -> None:
        self._clock = clock
        self._objects: dict[Resource, dict[tuple[str, str], Object]] = {}
        self._history: deque[Change] = deque(maxlen=history)
        self._watchers: set[Watcher] = set()
        self._floor = FIRST_VERSION
        self.version = FIRST_VERSION

    # -- reading -----------------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return an object, not to be changed.

        Raises:
            ApiError: 404.
        """
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object or None."""
        return self._objects.get(resource, {}).get((namespace if resource.namespaced else "", name))

    def items(self, resource: Resource, namespace: str = "") -> list[Object]:
        """Return all objects of a kind, of one namespace or of all, by name."""
        known = self._objects.get(resource, {})
        return [known[key] for key in sorted(known) if not namespace or key[0] == namespace]

    def everything(self) -> Iterator[tuple[Resource, Object]]:
        """Yield every object."""
        for resource, known in list(self._objects.items()):
            for item in list(known.values()):
                yield resource, item

    # -- writing -----------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, item: Object) -> Object:
        """Add an object and return it with what the server fills in.

        Raises:
            ApiError: 409.
        """
        item = copy.deepcopy(item)
        meta = item["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + "".join(random.choices(LETTERS, k=5))  # noqa: S311 - a name
        key = (namespace if resource.namespaced else "", meta["name"])
        if key in self._objects.setdefault(resource, {}):
            raise already_exists(resource, meta["name"])
        given = {
            name: meta[name]
            for name in ("labels", "annotations", "ownerReferences", "finalizers")
            if meta.get(name) not in (None, {}, [])
        }
        fresh: Object = {"name": meta["name"]}
        if meta.get("generateName"):
            fresh["generateName"] = meta["generateName"]
        if resource.namespaced:
            fresh["namespace"] = namespace
        fresh["uid"] = meta.get("uid") or str(uuid.uuid4())
        fresh["resourceVersion"] = ""
        if resource in (PODS, JOBS):
            fresh["generation"] = 1
        fresh["creationTimestamp"] = self._clock.server()
        item = {"kind": resource.kind, "apiVersion": resource.api_version, **item, "metadata": {**fresh, **given}}
        self._put(resource, key, item, None)
        return item

    def update(self, resource: Resource, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Let `change` work on a copy of an object and store it; without a difference nothing happens.

        An object that is being deleted, owes no grace and loses its last finalizer is gone with this update; the
        last event shows it as it was before.

        Raises:
            ApiError: 404, or what `change` raises.
        """
        old = self.get(resource, namespace, name)
        new = copy.deepcopy(old)
        change(new)
        tidy(new["metadata"])
        if new == old:
            return old
        meta = new["metadata"]
        if resource in (PODS, JOBS) and wishes(new) != wishes(old):
            meta["generation"] = old["metadata"]["generation"] + 1
        key = (old["metadata"].get("namespace", ""), name)
        released = old["metadata"].get("finalizers") and not meta.get("finalizers")
        if released and meta.get("deletionTimestamp") and not meta.get("deletionGracePeriodSeconds"):
            self._drop(resource, key, copy.deepcopy(old))
            return new
        self._put(resource, key, new, old)
        return new

    def remove(self, resource: Resource, namespace: str, name: str) -> Object:
        """Take an object out at once and return what it was last.

        Raises:
            ApiError: 404.
        """
        old = self.get(resource, namespace, name)
        return self._drop(resource, (old["metadata"].get("namespace", ""), name), copy.deepcopy(old))

    def _put(self, resource: Resource, key: tuple[str, str], new: Object, old: Object | None) -> None:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self._objects[resource][key] = new
        self._publish(Change(self.version, "MODIFIED" if old else "ADDED", resource, new, old))

    def _drop(self, resource: Resource, key: tuple[str, str], last: Object) -> Object:
        before = self._objects[resource].pop(key)
        self.version += 1
        last["metadata"]["resourceVersion"] = str(self.version)
        self._publish(Change(self.version, "DELETED", resource, last, before))
        return last

    def _publish(self, change: Change) -> None:
        if len(self._history) == self._history.maxlen:
            self._floor = self._history[0].version
        self._history.append(change)
        for watcher in self._watchers:
            if watcher.resource in (None, change.resource):
                watcher.queue.put_nowait(change)

    # -- history -----------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Forget the history: a watch from any version before now gets 410."""
        self._history.clear()
        self._floor = self.version

    def since(self, version: int) -> list[Change]:
        """Return what has happened after a version.

        Raises:
            ApiError: 410, the history does not reach back that far.
        """
        if version < self._floor:
            raise expired(version, self._floor)
        return [change for change in self._history if change.version > version]

    def watch(self, resource: Resource | None = None) -> Watcher:
        """Tell somebody about every change from now on; None for all resources."""
        watcher = Watcher(resource)
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """Stop telling."""
        self._watchers.discard(watcher)


def wishes(item: Object) -> Object:
    """Return what makes a new generation when it changes; where a pod runs does not."""
    return {key: value for key, value in (item.get("spec") or {}).items() if key != "nodeName"}


def tidy(meta: Object) -> None:
    """Leave out what the API server leaves out when it is empty."""
    for name in ("labels", "annotations", "finalizers", "ownerReferences"):
        if name in meta and not meta[name]:
            del meta[name]
