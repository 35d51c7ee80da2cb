"""Tables, for `kubectl get`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agora_conformance.emulators.k8s.clock import parse
from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.resources import EVENTS, JOBS, NODES, PODS, SECRETS, Resource


def render(accept: str, resource: Resource, query: Mapping[str, str], item: Object) -> Object:
    """Return an object or a list as the client wants it: as it is, or as a Table."""
    if not any("as=Table" in part and "v=v1;" in part + ";" for part in accept.split(",")):
        return item
    rows = item.get("items", [item])
    names, make = COLUMNS.get(resource, (("Name", "Age"), _plain))
    meta = {key: value for key, value in item["metadata"].items() if key in ("resourceVersion", "continue")}
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": [_column(name) for name in names],
        "rows": [{"cells": make(row), "object": _shown(row, query)} for row in rows],
    }


def _column(name: str) -> Object:
    return {
        "name": name,
        "type": "string",
        "format": "name" if name == "Name" else "",
        "description": "",
        "priority": 0,
    }


def _shown(row: Object, query: Mapping[str, str]) -> Object | None:
    policy = query.get("includeObject", "Metadata")
    if policy == "None":
        return None
    if policy == "Object":
        return row
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": row["metadata"]}


def age(stamp: str | None) -> str:
    """Return how long ago something was, as kubectl writes it."""
    if not stamp:
        return "<unknown>"
    seconds = max(int(time.time() - parse(stamp)), 0)
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 48 * 3600 else f"{seconds // 86400}d"


def _plain(item: Object) -> list[Any]:
    return [item["metadata"]["name"], age(item["metadata"].get("creationTimestamp"))]


def _pod(item: Object) -> list[Any]:
    statuses = item["status"].get("containerStatuses") or []
    word = item["status"].get("reason") or item["status"].get("phase", "")
    for one in statuses:
        state = one["state"]
        if "waiting" in state or "terminated" in state:
            word = next(iter(state.values())).get("reason") or word
    if item["metadata"].get("deletionTimestamp"):
        word = "Terminating"
    ready = f"{sum(1 for one in statuses if one['ready'])}/{len(item['spec']['containers'])}"
    return [item["metadata"]["name"], ready, word, "0", age(item["metadata"]["creationTimestamp"])]


def _job(item: Object) -> list[Any]:
    status = item["status"]
    words = {one["type"] for one in status.get("conditions") or [] if one["status"] == "True"}
    word = next((word for word in ("Complete", "Failed", "Suspended") if word in words), "Running")
    if item["metadata"].get("deletionTimestamp"):
        word = "Terminating"
    length = ""
    if status.get("startTime"):
        end = parse(status["completionTime"]) if status.get("completionTime") else time.time()
        length = f"{int(end - parse(status['startTime']))}s"
    done = f"{status.get('succeeded', 0)}/{item['spec'].get('completions', 1)}"
    return [item["metadata"]["name"], word, done, length, age(item["metadata"]["creationTimestamp"])]


def _secret(item: Object) -> list[Any]:
    return [item["metadata"]["name"], item.get("type"), len(item.get("data") or {}), _plain(item)[1]]


def _event(item: Object) -> list[Any]:
    about = item["involvedObject"]
    what = f"{about['kind'].lower()}/{about['name']}"
    return [age(item["lastTimestamp"]), item["type"], item["reason"], what, item["message"]]


def _node(item: Object) -> list[Any]:
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in item["status"]["conditions"])
    version = item["status"]["nodeInfo"]["kubeletVersion"]
    return [item["metadata"]["name"], "Ready" if ready else "NotReady", "<none>", _plain(item)[1], version]


COLUMNS = {
    PODS: (("Name", "Ready", "Status", "Restarts", "Age"), _pod),
    JOBS: (("Name", "Status", "Completions", "Duration", "Age"), _job),
    SECRETS: (("Name", "Type", "Data", "Age"), _secret),
    EVENTS: (("Last Seen", "Type", "Reason", "Object", "Message"), _event),
    NODES: (("Name", "Status", "Roles", "Age", "Version"), _node),
}
