"""Objects as a cluster showed them (Kubernetes 1.36, containerd), and ways to change copies of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

Item = dict[str, Any]
_RECORDED: dict[str, Item] = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))


def recorded(name: str) -> Item:
    """Return a copy of a recorded object."""
    return copy.deepcopy(_RECORDED[name])


def annotated(item: Item, **annotations: str) -> Item:
    """Add annotations under `agora.dev/`; underscores stand for dashes."""
    values = {f"agora.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    item["metadata"].setdefault("annotations", {}).update(values)
    return item


def main_state(pod: Item) -> Item:
    """Return the state of the only container."""
    state: Item = pod["status"]["containerStatuses"][0]["state"]
    return state
