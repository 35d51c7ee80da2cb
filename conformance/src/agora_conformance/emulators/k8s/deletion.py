"""What a DELETE does: grace, preconditions, propagation, finalizers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from agora_conformance.emulators.k8s.clock import Clock, parse
from agora_conformance.emulators.k8s.errors import Object, invalid, precondition
from agora_conformance.emulators.k8s.resources import JOBS, NAMESPACES, PODS, Resource
from agora_conformance.emulators.k8s.store import Store

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
ORPHAN_WARNING = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them "
    "or set propagationPolicy=Orphan to suppress this warning"
)


@dataclass(frozen=True)
class DeleteOptions:
    """What a client asks for.

    Parameters:
        grace: seconds; None for the object's own.
        propagation: `Orphan`, `Background` or `Foreground`; empty for the kind's default.
        uid, version: what the object must have.
        dry_run: nothing happens.
    """

    grace: int | None = None
    propagation: str = ""
    uid: str = ""
    version: str = ""
    dry_run: bool = False

    @classmethod
    def read(cls, resource: Resource, name: str, query: Object, body: Object | None) -> Self:
        """Read a request; a body, where there is one, replaces the query whole.

        Raises:
            ApiError: 422.
        """
        source = body or query
        grace = source.get("gracePeriodSeconds")
        conditions = (body or {}).get("preconditions") or {}
        policy = source.get("propagationPolicy") or ""
        if not policy and str(source.get("orphanDependents", "")).lower() in ("true", "false"):
            policy = "Orphan" if str(source["orphanDependents"]).lower() == "true" else "Background"
        if policy not in ("", "Orphan", "Background", "Foreground"):
            raise invalid(
                resource, name, "propagationPolicy", f'Unsupported value: "{policy}"', "FieldValueNotSupported"
            )
        return cls(
            grace=None if grace is None else int(grace),
            propagation=policy,
            uid=conditions.get("uid") or "",
            version=conditions.get("resourceVersion") or "",
            dry_run=bool(source.get("dryRun")),
        )


class Deleter:
    """Deletes objects by the rules of the API server.

    Parameters:
        store: where they are.
        clock: tells the time of a deletion.
        second: how long a second of the API lasts.
    """

    def __init__(self, store: Store, clock: Clock, second: float) -> None:
        self._store, self._clock, self._second = store, clock, second

    def delete(self, resource: Resource, namespace: str, name: str, options: DeleteOptions) -> tuple[Object, bool]:
        """Delete an object; return it as it is now, and whether it is gone already.

        Raises:
            ApiError: 404, or 409 for a precondition.
        """
        found = self._store.get(resource, namespace, name)
        meta = found["metadata"]
        if options.uid and options.uid != meta["uid"]:
            raise precondition(resource, name, options.uid, meta["uid"])
        if options.version and options.version != meta["resourceVersion"]:
            raise precondition(resource, name, options.version, meta["resourceVersion"])
        if options.dry_run:
            return found, False
        if resource is PODS:
            return self._delete_pod(found, options)
        return self._delete_other(resource, found, options)

    # -- pods --------------------------------------------------------------------------------------------------

    def _delete_pod(self, pod: Object, options: DeleteOptions) -> tuple[Object, bool]:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        asked = options.grace if options.grace is None or options.grace >= 0 else 1
        if pod["metadata"].get("deletionTimestamp"):
            known = pod["metadata"]["deletionGracePeriodSeconds"]
            if asked is None or asked >= known:
                return pod, False
            pod = self._store.update(PODS, namespace, name, lambda item: self._shorten(item, known, asked))
        else:
            grace = self._grace(pod, asked)
            pod = self._store.update(PODS, namespace, name, lambda item: self._mark(item, grace))
        if pod["metadata"]["deletionGracePeriodSeconds"] == 0 and not pod["metadata"].get("finalizers"):
            return self._store.remove(PODS, namespace, name), True
        return pod, False

    def _grace(self, pod: Object, asked: int | None) -> int:
        if not pod["spec"].get("nodeName") or pod["status"].get("phase") in ("Succeeded", "Failed"):
            return 0
        own = pod["spec"].get("terminationGracePeriodSeconds", 30)
        grace = own if asked is None else asked
        return int(grace) if grace >= 0 else 1

    def _mark(self, item: Object, grace: int) -> None:
        meta = item["metadata"]
        meta["deletionTimestamp"] = self._clock.server(grace)
        meta["deletionGracePeriodSeconds"] = grace
        meta["generation"] = meta.get("generation", 1) + 1

    def _shorten(self, item: Object, known: int, grace: int) -> None:
        meta = item["metadata"]
        now = self._clock.server()
        first = parse(meta["deletionTimestamp"]) - known
        if first + grace < parse(now):
            meta["deletionTimestamp"] = now
            meta["deletionGracePeriodSeconds"] = min(grace, 1)
        else:
            meta["deletionTimestamp"] = self._clock.server(math.floor(first + grace - parse(now)))
            meta["deletionGracePeriodSeconds"] = grace

    # -- everything else -----------------------------------------------------------------------------------------

    def _delete_other(self, resource: Resource, found: Object, options: DeleteOptions) -> tuple[Object, bool]:
        namespace, name = found["metadata"].get("namespace", ""), found["metadata"]["name"]
        policy = options.propagation or ("Orphan" if resource is JOBS else "Background")
        wanted = {"Orphan": ORPHAN, "Foreground": FOREGROUND}.get(policy)
        finalizers = [one for one in found["metadata"].get("finalizers", []) if one not in (ORPHAN, FOREGROUND)]
        if wanted:
            finalizers.append(wanted)
        if not finalizers and resource is not NAMESPACES:  # a namespace goes once it is empty
            return self._store.remove(resource, namespace, name), True

        def mark(item: Object) -> None:
            meta = item["metadata"]
            if finalizers:
                meta["finalizers"] = finalizers
            if resource is NAMESPACES:
                item["status"] = {**(item.get("status") or {}), "phase": "Terminating"}
            if not meta.get("deletionTimestamp"):
                meta["deletionTimestamp"] = self._clock.server()
                meta["deletionGracePeriodSeconds"] = 0
                if "generation" in meta:
                    meta["generation"] += 1

        return self._store.update(resource, namespace, name, mark), False
