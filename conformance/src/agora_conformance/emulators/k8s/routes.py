"""Paths and verbs of the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agora_conformance.emulators.k8s.errors import ApiError
from agora_conformance.emulators.k8s.resources import BY_PATH, Resource

NO_PAGE = "the server could not find the requested resource"


@dataclass(frozen=True)
class Route:
    """What a request is about.

    Parameters:
        resource: kind of objects.
        namespace: empty for all, or for kinds without.
        name: empty for the collection.
        subresource: empty for the object itself.
        verb: the verb of RBAC.
    """

    resource: Resource
    namespace: str
    name: str
    subresource: str
    verb: str


def read(method: str, path: str, query: Mapping[str, str]) -> Route:
    """Read a request's path.

    Raises:
        ApiError: 404 or 405.
    """
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise ApiError(404, "NotFound", NO_PAGE, {})
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and (group, version, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0])) if rest else None
    if resource is None or len(rest) > 3:
        raise ApiError(404, "NotFound", NO_PAGE, {})
    name, subresource = (*rest[1:], "", "")[:2]
    if subresource and subresource not in resource.subresources:
        raise ApiError(404, "NotFound", NO_PAGE, {})
    return Route(resource, namespace, name, subresource, _verb(method, name, query))


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method == "GET":
        if query.get("watch", "").lower() in ("1", "true", "t"):
            return "watch"
        return "get" if name else "list"
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if name else "deletecollection"}
    if method not in verbs or (method in ("PUT", "PATCH") and not name):
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})
    return verbs[method]
