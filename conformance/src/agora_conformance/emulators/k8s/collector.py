"""The garbage collector, the TTL controller and the end of namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agora_conformance.emulators.k8s.clock import pause
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.deletion import FOREGROUND, ORPHAN
from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.jobs import finished
from agora_conformance.emulators.k8s.resources import JOBS, NAMESPACES, Resource


class Collector:
    """Deletes what nobody owns any more, and finished Jobs whose time is over.

    Parameters:
        cluster: what it works on.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._timed: set[str] = set()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._cluster.each(None, self._react)

    def _react(self, item: Object, resource: Resource, gone: bool) -> None:
        meta = item["metadata"]
        finalizers = meta.get("finalizers") or []
        if gone:
            self._soon(self._owner_gone, meta["uid"])
            for owner in meta.get("ownerReferences") or []:
                self._soon(self._foreground, owner["uid"])
            self._soon(self._namespace, meta.get("namespace", ""))
        elif meta.get("deletionTimestamp") and ORPHAN in finalizers:
            self._soon(self._orphan, resource, item)
        elif meta.get("deletionTimestamp") and FOREGROUND in finalizers:
            self._soon(self._foreground, meta["uid"])
        elif meta.get("deletionTimestamp") and resource is NAMESPACES:
            self._soon(self._namespace, meta["name"])
        elif meta.get("ownerReferences"):
            self._soon(self._owned, resource, item)
        if resource is JOBS and not gone and finished(item) and meta["uid"] not in self._timed:
            self._expire(item)

    def _soon(self, work: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(self._cluster.timing.collect, work, *arguments)

    def _dependents(self, uid: str) -> list[tuple[Resource, Object]]:
        return [
            (resource, item)
            for resource, item in self._cluster.store.everything()
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences") or [])
        ]

    def _exists(self, uid: str) -> bool:
        return any(item["metadata"]["uid"] == uid for _, item in self._cluster.store.everything())

    def _owner_gone(self, uid: str) -> None:
        for resource, item in self._dependents(uid):
            self._owned(resource, item)

    def _owned(self, resource: Resource, item: Object) -> None:
        """Delete an object whose owners are all gone."""
        meta = item["metadata"]
        found = self._cluster.store.find(resource, meta.get("namespace", ""), meta["name"])
        if found is None or found["metadata"]["uid"] != meta["uid"] or found["metadata"].get("deletionTimestamp"):
            return
        owners = found["metadata"].get("ownerReferences") or []
        if owners and not any(self._exists(owner["uid"]) for owner in owners):
            self._cluster.delete(resource, found, propagation="Background")

    def _orphan(self, resource: Resource, owner: Object) -> None:
        uid = owner["metadata"]["uid"]

        def forget(item: Object) -> None:
            known = item["metadata"].get("ownerReferences") or []
            item["metadata"]["ownerReferences"] = [one for one in known if one["uid"] != uid]

        for kind, item in self._dependents(uid):
            self._cluster.change(kind, item, forget)
        self._let_go(resource, owner, ORPHAN)

    def _let_go(self, resource: Resource, item: Object, finalizer: str) -> None:
        def release(found: Object) -> None:
            known = found["metadata"].get("finalizers") or []
            found["metadata"]["finalizers"] = [one for one in known if one != finalizer]

        self._cluster.change(resource, item, release)

    def _foreground(self, uid: str) -> None:
        """Delete the dependents of an object that waits for them, and the object after them."""
        for resource, owner in self._cluster.store.everything():
            meta = owner["metadata"]
            if meta["uid"] != uid or FOREGROUND not in (meta.get("finalizers") or []):
                continue
            dependents = self._dependents(uid)
            for kind, item in dependents:
                if not item["metadata"].get("deletionTimestamp"):
                    self._cluster.delete(kind, item, propagation="Background")
            left = [
                one
                for _, item in self._dependents(uid)
                for one in item["metadata"]["ownerReferences"]
                if one["uid"] == uid and one.get("blockOwnerDeletion")
            ]
            if not left:
                self._let_go(resource, owner, FOREGROUND)

    def _namespace(self, name: str) -> None:
        """Empty a namespace that is being deleted, and remove it once it is empty."""
        namespace = self._cluster.store.find(NAMESPACES, "", name)
        if namespace is None or not namespace["metadata"].get("deletionTimestamp"):
            return
        inside = [
            (kind, item) for kind, item in self._cluster.store.everything() if item["metadata"].get("namespace") == name
        ]
        for resource, item in inside:
            if not item["metadata"].get("deletionTimestamp"):
                self._cluster.delete(resource, item, propagation="Background")
        if not inside:
            self._cluster.store.remove(NAMESPACES, "", name)

    def _expire(self, job: Object) -> None:
        seconds = job["spec"].get("ttlSecondsAfterFinished")
        if seconds is not None:
            self._timed.add(job["metadata"]["uid"])
            self._cluster.spawn(self._after(job, seconds))

    async def _after(self, job: Object, seconds: int) -> None:
        await pause(seconds * self._cluster.timing.second)
        self._cluster.delete(JOBS, job, propagation="Foreground")
