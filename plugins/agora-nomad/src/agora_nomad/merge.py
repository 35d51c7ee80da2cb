"""Patch of a job: tables merge, lists whose items have a name merge by it, everything else is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with a patch applied; neither is changed, and null removes a key."""
    result = dict(base)
    for key, value in patch.items():
        before = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        elif before is not None and _named(value) and _named(before):
            result[key] = _merged_list(before, value)
        else:
            result[key] = value
    return result


def _named(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(item, Mapping) and "Name" in item for item in value)
    )


def _merged_list(base: Sequence[Mapping[str, Any]], patch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    result = {item["Name"]: dict(item) for item in base}
    for item in patch:
        result[item["Name"]] = merged(result.get(item["Name"], {}), item)
    return list(result.values())
