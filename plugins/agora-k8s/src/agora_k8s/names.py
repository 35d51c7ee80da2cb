"""Names, labels and annotations that this provider puts on objects of the cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

#: Labels: the marks. A workload is found by the first two, never by anything looser.
DISPATCH = "agora.dev/dispatch-id"
INSTALLATION = "agora.dev/installation"
DIGEST = "agora.dev/spec-digest"

#: Annotations of a Job whose start is not finished, of what asked for a stop, of a workload given up, of its end.
MAKING = "agora.dev/making"
CAUSE = "agora.dev/cause"
GIVEN_UP = "agora.dev/given-up"
RESULT = "agora.dev/result"
SECRETS = "agora.dev/secrets"

#: Keeps the record of a pod that we stop until its end is written on its Job.
FINALIZER = "agora.dev/exit-code"
#: The container of the workload.
CONTAINER = "main"
MANAGER = {"app.kubernetes.io/managed-by": "agora"}


def object_name(dispatch_id: str) -> str:
    """Return the name of the Job and of its Secret: the idempotency key."""
    return f"agora-{dispatch_id}"


def installation_label(installation: str) -> str:
    """Return the label value of an installation; a name that is no label value is hashed."""
    if len(installation) <= 63 and installation[-1:].isalnum():
        return installation
    return hashlib.sha256(installation.encode()).hexdigest()[:40]


def marks(dispatch_id: str, installation: str, digest: str) -> dict[str, str]:
    """Return the labels of everything that belongs to one dispatch."""
    return {DISPATCH: dispatch_id, INSTALLATION: installation_label(installation), DIGEST: digest, **MANAGER}


def label(item: Mapping[str, Any], name: str) -> str | None:
    """Return a label of an object."""
    value: str | None = (item["metadata"].get("labels") or {}).get(name)
    return value


def annotation(item: Mapping[str, Any], name: str) -> str | None:
    """Return an annotation of an object."""
    value: str | None = (item["metadata"].get("annotations") or {}).get(name)
    return value


def is_ours(item: Mapping[str, Any], dispatch_id: str, installation: str) -> bool:
    """Whether an object carries the marks of that dispatch and installation."""
    wanted = (dispatch_id, installation_label(installation))
    return (label(item, DISPATCH), label(item, INSTALLATION)) == wanted
