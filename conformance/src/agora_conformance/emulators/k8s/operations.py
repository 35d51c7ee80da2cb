"""What the requests do, apart from watches and logs."""

from __future__ import annotations

import base64
import binascii
import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agora_conformance.emulators.k8s import patch, selectors
from agora_conformance.emulators.k8s.access import Access
from agora_conformance.emulators.k8s.admission import admit, check_account, check_change
from agora_conformance.emulators.k8s.clock import parse
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.deletion import ORPHAN_WARNING, DeleteOptions
from agora_conformance.emulators.k8s.errors import (
    ApiError,
    Object,
    already_exists,
    bad_request,
    expired,
    invalid,
    modified,
    not_found,
    precondition,
)
from agora_conformance.emulators.k8s.faults import Faults
from agora_conformance.emulators.k8s.resources import ACCESS_REVIEWS, JOBS, NAMESPACES, PODS
from agora_conformance.emulators.k8s.routes import Route

#: Fields of the metadata that a client cannot change.
OWN = (
    *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "generateName"),
    *("deletionTimestamp", "deletionGracePeriodSeconds"),
)


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    Parameters:
        body: the object.
        code: HTTP status.
        warnings: for the Warning header.
    """

    body: Object
    code: int = 200
    warnings: tuple[str, ...] = ()


class Operations:
    """The verbs of the API.

    Parameters:
        cluster: what they work on.
        access: who may do what.
        faults: what is hidden for a while.
    """

    def __init__(self, cluster: Cluster, access: Access, faults: Faults) -> None:
        self._cluster, self._access, self._faults = cluster, access, faults

    def do(self, route: Route, query: Mapping[str, str], body: Any, kind: str, user: str) -> Answer:
        """Carry a request out.

        Raises:
            ApiError: it is refused.
        """
        if route.subresource == "eviction":
            return self._evict(route, body)
        if route.resource is ACCESS_REVIEWS:
            return self._review(body, user)
        match route.verb:
            case "get":
                return Answer(self._get(route))
            case "list":
                return Answer(self._list(route, query))
            case "create":
                return self._create(route, body)
            case "update":
                return self._update(route, body)
            case "patch":
                return self._patch(route, body, kind)
            case "delete":
                return self._delete(route, query, body)
            case _:
                return self._delete_all(route, query, body)

    # -- reading -------------------------------------------------------------------------------------------------

    def _get(self, route: Route) -> Object:
        found = self._cluster.store.get(route.resource, route.namespace, route.name)
        if self.hidden(found):
            raise not_found(route.resource, route.name)
        return found

    def hidden(self, item: Object) -> bool:
        """Whether a fault hides an object that is new."""
        return self._faults.hides(parse(item["metadata"]["creationTimestamp"]) - self._cluster.clock.server_skew)

    def _list(self, route: Route, query: Mapping[str, str]) -> Object:
        test = selectors.both(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version, start = self._cluster.store.version, ""
        if token := query.get("continue"):
            version, start = self._continued(token)
        found = [
            item
            for item in self._cluster.store.items(route.resource, route.namespace)
            if test(item) and not self.hidden(item) and _key(item) > start
        ]
        meta: Object = {"resourceVersion": str(version)}
        limit = int(query.get("limit") or 0)
        if limit and len(found) > limit:
            token = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": _key(found[limit - 1]) + "\0"})
            meta["continue"] = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                meta["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        items = [{key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in found]
        head = {"kind": f"{route.resource.kind}List", "apiVersion": route.resource.api_version}
        return {**head, "metadata": meta, "items": items}

    def _continued(self, token: str) -> tuple[int, str]:
        begin = "invalid continue token: continue key is not valid"
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise bad_request(f"{begin}: illegal base64 data at input byte 0") from None
        try:
            data = json.loads(raw)
            version, start = int(data["rv"]), str(data["start"]).rstrip("\0")
        except (ValueError, KeyError, TypeError):
            first = repr(chr(raw[0])) if raw else "''"
            raise bad_request(f"{begin}: invalid character {first} looking for beginning of value") from None
        try:
            self._cluster.store.since(version)
        except ApiError:
            raise expired(version, self._cluster.store.version) from None
        return version, start

    # -- writing -------------------------------------------------------------------------------------------------

    def _create(self, route: Route, body: Any) -> Answer:
        resource = route.resource
        body = self._whole(route, body)
        if resource.namespaced:
            namespace = self._cluster.store.get(NAMESPACES, "", route.namespace)
            if namespace["metadata"].get("deletionTimestamp"):
                text = f"unable to create new content in namespace {route.namespace} because it is being terminated"
                name = body["metadata"].get("name", "")
                message = f'{resource.qualified} "{name}" is forbidden: {text}'
                raise ApiError(403, "Forbidden", message, {"name": name, "kind": resource.plural})
        item, warnings = admit(resource, body)
        name = item["metadata"].get("name", "")
        if name and self._cluster.store.find(resource, route.namespace, name) is not None:
            raise already_exists(resource, name)
        if resource is PODS:
            check_account(self._cluster.store, route.namespace, item)
        made = self._cluster.store.create(resource, route.namespace, item)
        if resource is NAMESPACES:
            self._cluster.furnish(made["metadata"]["name"])
        return Answer(made, 201, tuple(warnings))

    def _whole(self, route: Route, body: Any) -> Object:
        resource = route.resource
        if not isinstance(body, dict) or not body:
            raise bad_request(
                f"the object provided is unrecognized (must be of type {resource.kind}): couldn't get version/kind; "
                "json parse error: unexpected end of JSON input (<empty>)"
            )
        kind = (body.get("apiVersion") or resource.api_version, body.get("kind") or resource.kind)
        if kind != (resource.api_version, resource.kind):
            raise bad_request(
                f'{kind[1]} in version "{kind[0].rpartition("/")[2]}" cannot be handled as a {resource.kind}: '
                f'no kind "{kind[1]}" is registered for version "{kind[0]}"'
            )
        meta = body.get("metadata") or {}
        if resource.namespaced and meta.get("namespace") not in (None, "", route.namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        return {**body, "metadata": dict(meta)}

    def _update(self, route: Route, body: Any) -> Answer:
        new = self._whole(route, body)
        return Answer(self._change(route, lambda _: new, whole=True))

    def _patch(self, route: Route, body: Any, kind: str) -> Answer:
        if kind not in (patch.JSON, patch.MERGE, patch.STRATEGIC):
            raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        return Answer(self._change(route, lambda old: patch.apply(kind, old, body), whole=False))

    def _change(self, route: Route, make: Any, *, whole: bool) -> Object:
        found = self._cluster.store.get(route.resource, route.namespace, route.name)
        asked = make(found)
        version = (asked.get("metadata") or {}).get("resourceVersion")
        if version and version != found["metadata"]["resourceVersion"]:
            raise modified(route.resource, route.name)
        uid = (asked.get("metadata") or {}).get("uid") or found["metadata"]["uid"]
        if uid != found["metadata"]["uid"]:
            if whole:
                raise precondition(route.resource, route.name, uid, found["metadata"]["uid"])
            problem = f'Invalid value: "{uid}": field is immutable'
            raise invalid(route.resource, route.name, "metadata.uid", problem)
        new = _allowed(found, asked, route.subresource)
        if whole and route.resource is JOBS and not route.subresource:
            new["spec"] = {**found["spec"], **new["spec"]}
            new["spec"]["template"] = found["spec"]["template"]
        check_change(route.resource, found, new)

        def change(item: Object) -> None:
            item.clear()
            item.update(new)

        return self._cluster.store.update(route.resource, route.namespace, route.name, change)

    # -- ending --------------------------------------------------------------------------------------------------

    def _delete(self, route: Route, query: Mapping[str, str], body: Any) -> Answer:
        options = DeleteOptions.read(route.resource, route.name, dict(query), body or None)
        item, gone = self._cluster.deleter.delete(route.resource, route.namespace, route.name, options)
        orphans = route.resource is JOBS and not options.propagation
        warnings = (ORPHAN_WARNING,) if orphans else ()
        if not gone or route.resource is PODS:
            return Answer(item, 200, warnings)
        details = {"name": route.name} | ({"group": route.resource.group} if route.resource.group else {})
        details |= {"kind": route.resource.plural, "uid": item["metadata"]["uid"]}
        head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return Answer({**head, "details": details}, 200, warnings)

    def _delete_all(self, route: Route, query: Mapping[str, str], body: Any) -> Answer:
        options = DeleteOptions.read(route.resource, "", dict(query), body or None)
        found = self._list(route, {key: value for key, value in query.items() if key != "limit"})
        for item in found["items"]:
            meta = item["metadata"]
            self._cluster.deleter.delete(route.resource, meta.get("namespace", ""), meta["name"], options)
        return Answer(found)

    def _evict(self, route: Route, body: Any) -> Answer:
        pod = self._cluster.store.get(PODS, route.namespace, route.name)
        now = self._cluster.clock.server()
        words = {"type": "DisruptionTarget", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
        words |= {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
        options = DeleteOptions.read(PODS, route.name, {}, (body or {}).get("deleteOptions"))

        def mark(item: Object) -> None:
            known = [one for one in item["status"].get("conditions") or [] if one["type"] != "DisruptionTarget"]
            item["status"]["conditions"] = [*known, words]

        if pod["status"].get("phase") not in ("Succeeded", "Failed") and not pod["metadata"].get("deletionTimestamp"):
            self._cluster.change(PODS, pod, mark)
        self._cluster.deleter.delete(PODS, route.namespace, route.name, options)
        return Answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    def _review(self, body: Any, user: str) -> Answer:
        asked = ((body or {}).get("spec") or {}).get("resourceAttributes") or {}
        fields = (asked.get(name) or "" for name in ("verb", "group", "resource", "subresource", "namespace", "name"))
        return Answer({**(body or {}), "status": {"allowed": self._access.allowed(user, *fields)}}, 201)


def _key(item: Object) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _allowed(old: Object, asked: Object, subresource: str) -> Object:
    """Return what becomes of an object: the fields that a client may not change stay."""
    if subresource == "status":
        return {**copy.deepcopy(old), "status": asked.get("status") or {}}
    meta = {name: value for name, value in (asked.get("metadata") or {}).items() if name not in OWN}
    meta.pop("managedFields", None)
    own = {name: old["metadata"][name] for name in OWN if name in old["metadata"]}
    new = {**copy.deepcopy(asked), "kind": old["kind"], "apiVersion": old["apiVersion"], "metadata": {**own, **meta}}
    if "status" in old:
        new["status"] = copy.deepcopy(old["status"])
    return new
