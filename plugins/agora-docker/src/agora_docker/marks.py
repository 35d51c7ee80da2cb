"""The marks by which a container is known as ours, and nobody else's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from agora.errors import InvalidRequest
from agora.model.ids import check_dispatch_id

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


def carries(summary: Mapping[str, Any], installation: str) -> bool:
    """Whether a listed container carries the marks of an installation."""
    known = summary.get("Labels") or {}
    try:
        check_dispatch_id(known.get(DISPATCH, ""))
    except InvalidRequest:
        return False  # labels that somebody else made up
    return bool(known.get(INSTALLATION) == installation)


def is_named(summary: Mapping[str, Any], installation: str) -> bool:
    """Whether a listed container that carries the marks of an installation has the name that goes with them."""
    return f"/{name_of(summary['Labels'][DISPATCH], installation)}" in (summary.get("Names") or ())
