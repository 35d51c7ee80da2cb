"""The marks by which a container is known as ours, and nobody else's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

DISPATCH = "agora.dispatch-id"
INSTALLATION = "agora.installation"
SPEC = "agora.spec-hash"


def name_of(id: str, installation: str) -> str:
    """Return the container's name: the dispatch id, and a short hash that keeps installations apart."""
    return f"agora-{id}-{hashlib.sha256(installation.encode()).hexdigest()[:8]}"


def labels(id: str, installation: str, digest: str) -> dict[str, str]:
    """Return the labels of a container."""
    return {DISPATCH: id, INSTALLATION: installation, SPEC: digest}


def is_marked(labels: Mapping[str, str] | None, id: str, installation: str) -> bool:
    """Whether labels are those of this dispatch."""
    return labels is not None and labels.get(DISPATCH) == id and labels.get(INSTALLATION) == installation


def is_ours(summary: Mapping[str, Any], installation: str) -> bool:
    """Whether a listed container is ours: its name too, since an image made of our container has its labels."""
    known = summary.get("Labels") or {}
    id = known.get(DISPATCH)
    if not id or known.get(INSTALLATION) != installation:
        return False
    return f"/{name_of(id, installation)}" in (summary.get("Names") or ())
