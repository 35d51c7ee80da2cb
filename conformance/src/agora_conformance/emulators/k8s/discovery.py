"""What the API server says of itself."""

from __future__ import annotations

from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.resources import RESOURCES, Resource

VERSION = {
    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35", "gitVersion": "v1.36.2", "gitCommit": "emulated", "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.27.3", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def page(path: str) -> Object | None:
    """Return the page of a path, or None."""
    if path in ("/version", "/version/"):
        return VERSION
    parts = [part for part in path.split("/") if part]
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if parts == ["apis"]:
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in _groups()]}
    if parts == ["api", "v1"]:
        return _resources("", "v1")
    if len(parts) == 2 and parts[0] == "apis" and parts[1] in _groups():
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1])}
    if len(parts) == 3 and parts[0] == "apis" and parts[1] in _groups():
        return _resources(parts[1], parts[2])
    return None


def _groups() -> list[str]:
    return sorted({item.group for item in RESOURCES if item.group})


def _group(name: str) -> Object:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str, version: str) -> Object:
    entries = []
    for item in RESOURCES:
        if (item.group, item.version) == (group, version):
            entries.append(_entry(item))
            entries += [
                {"name": f"{item.plural}/{sub}", "singularName": "", "namespaced": item.namespaced, "kind": item.kind,
                 "verbs": ["create"] if sub in ("eviction", "binding") else ["get", "patch", "update"]}
                for sub in item.subresources
            ]  # fmt: skip
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def _entry(item: Resource) -> Object:
    entry: Object = {
        "name": item.plural, "singularName": item.kind.lower(), "namespaced": item.namespaced, "kind": item.kind,
        "verbs": ["create"] if item.kind.endswith("Review") else VERBS,
    }  # fmt: skip
    if item.short:
        entry["shortNames"] = list(item.short)
    if item.kind in ("Pod", "Job"):
        entry["categories"] = ["all"]
    return entry
