"""Strategic-merge patch of a pod template, as the API server applies one: lists with a key merge by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Lists of a pod template that merge, and the key that tells their items apart
#: (`patchMergeKey` in k8s.io/api/core/v1/types.go); every other list is replaced.
KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
_DIRECTIVE = "$patch"


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with a strategic-merge patch applied; neither is changed.

    Raises:
        ValueError: an item of a keyed list lacks its key, or a directive is unknown.
    """
    if (directive := patch.get(_DIRECTIVE)) is not None:
        if directive != "replace":
            raise ValueError(f"$patch: {directive!r} is not understood here")
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        elif isinstance(value, list) and key in KEYS and isinstance(result.get(key, []), list):
            result[key] = _merged_list(result.get(key, []), value, key)
        else:
            result[key] = value
    return result


def _merged_list(base: list[Any], patch: list[Any], name: str) -> list[Any]:
    key = KEYS[name]
    if any(isinstance(item, Mapping) and item.get(_DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if item.get(_DIRECTIVE) != "replace"]
    result = list(base)
    for item in patch:
        if not isinstance(item, Mapping) or key not in item:
            raise ValueError(f"an item of {name} has no {key}")
        place = next((index for index, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            result = [old for old in result if old.get(key) != item[key]]
        elif place is None:
            result.append(merged({}, item))
        else:
            result[place] = merged(result[place], item)
    return result
