"""The ways to patch an object."""

from __future__ import annotations

import copy
from typing import Any

from agora_conformance.emulators.k8s.errors import ApiError, Object, bad_request

JSON, MERGE, STRATEGIC = (f"application/{kind}+json" for kind in ("json-patch", "merge-patch", "strategic-merge-patch"))
#: Lists that a strategic merge patch merges by a key; lists of plain values below, and all others are replaced.
KEYS = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath",
    "imagePullSecrets": "name", "ownerReferences": "uid", "conditions": "type", "hostAliases": "ip",
}  # fmt: skip
UNIONS = {"finalizers"}


def apply(kind: str, item: Object, patch: Any) -> Object:
    """Return the patched object.

    Parameters:
        kind: the content type.
        item: the object; it stays as it is.
        patch: the parsed body.

    Raises:
        ApiError: 400, 415 or 422.
    """
    if kind == JSON:
        patched: Object
        try:
            patched = operations(copy.deepcopy(item), patch)
        except (LookupError, TypeError, ValueError) as error:
            text = f"the server rejected our request due to an error in our request: {error}"
            raise ApiError(422, "Invalid", text, {}) from None
        return patched
    if kind not in (MERGE, STRATEGIC):
        raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
    if not isinstance(patch, dict):
        raise bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
    made: Object = merge(item, patch) if kind == MERGE else strategic(item, patch)
    return made


def operations(item: Any, patch: list[Object]) -> Any:
    """Carry out a JSON patch (RFC 6902) on a value of one's own.

    Raises:
        LookupError, TypeError, ValueError: an operation cannot be carried out, or a test failed.
    """
    for step in patch:
        value = step.get("value")
        if step["op"] in ("move", "copy"):
            holder, key = _place(item, step["from"])
            value = copy.deepcopy(holder[key])
            if step["op"] == "move":
                del holder[key]
        holder, key = _place(item, step["path"])
        match step["op"]:
            case "add" | "move" | "copy" if isinstance(holder, list):
                holder.insert(key, value)
            case "add" | "move" | "copy":
                holder[key] = value
            case "replace" if isinstance(holder, dict) and key not in holder:
                raise KeyError(f"replace operation does not apply: doc is missing key: {step['path']}")
            case "replace":
                holder[key] = value
            case "remove":
                del holder[key]
            case "test" if holder[key] != value:
                raise ValueError(f"testing value {step['path']} failed")
            case "test":
                pass
            case other:
                raise ValueError(f"unexpected kind of operation: {other}")
    return item


def _place(item: Any, pointer: str) -> tuple[Any, Any]:
    """Return the container and the key that a JSON pointer leads to."""
    if not pointer.startswith("/"):
        raise ValueError(f"not a pointer into the object: {pointer!r}")
    *steps, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/"))
    for step in steps:
        item = item[int(step) if isinstance(item, list) else step]
    if isinstance(item, list):
        return item, len(item) if last == "-" else int(last)
    return item, last


def merge(old: Any, patch: Any) -> Any:
    """Return a JSON merge patch (RFC 7386) of a value."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merge(new.get(key), value)
    return new


def strategic(old: Any, patch: Any, name: str = "") -> Any:
    """Return a strategic merge patch of a value; `name` is the field that holds it."""
    if isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        return _strategic_map(dict(old) if isinstance(old, dict) else {}, patch)
    if isinstance(patch, list) and isinstance(old, list):
        if name in UNIONS:
            return [*old, *(one for one in patch if one not in old)]
        if name in KEYS and all(isinstance(one, dict) for one in patch):
            return _strategic_list(old, patch, KEYS[name])
    return copy.deepcopy(patch)


def _strategic_map(new: Object, patch: Object) -> Object:
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            new[field] = [one for one in new.get(field) or [] if one not in value]
        elif key.startswith(("$setElementOrder/", "$retainKeys")):
            continue
        elif value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            new.pop(key, None)
        else:
            new[key] = strategic(new.get(key), value, key)
    return new


def _strategic_list(old: list[Any], patch: list[Any], key: str) -> list[Any]:
    if any(one.get("$patch") == "replace" for one in patch):
        return [one for one in patch if "$patch" not in one]
    new = list(old)
    for one in patch:
        at = next((number for number, known in enumerate(new) if known.get(key) == one.get(key)), None)
        if one.get("$patch") == "delete":
            new = [known for known in new if known.get(key) != one.get(key)]
        elif at is None:
            new.append(one)
        else:
            new[at] = _strategic_map(dict(new[at]), one)
    return new
