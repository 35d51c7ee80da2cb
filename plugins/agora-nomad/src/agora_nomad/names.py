"""Names and marks that this provider puts on jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Keys of the job's Meta: the marks. A workload is found by the first two, never by anything looser.
DISPATCH = "agora.dispatch_id"
INSTALLATION = "agora.installation"
DIGEST = "agora.spec_digest"
#: For people who look at the cluster.
RUN = "agora.run"
NAME = "agora.name"

#: The group and the task of the workload.
TASK = "main"

#: Where the variables of all dispatches are.
VARIABLES = "nomad/jobs/agora-"


def job_id(dispatch_id: str) -> str:
    """Return the id of the job: the idempotency key."""
    return f"agora-{dispatch_id}"


def secrets_path(dispatch_id: str) -> str:
    """Return the path of the variable that only the task of a dispatch reads."""
    return f"nomad/jobs/{job_id(dispatch_id)}/{TASK}/{TASK}"


def dispatch_of(path: str) -> str | None:
    """Return the dispatch whose secrets a path names; null for any other path."""
    id = path.removeprefix(VARIABLES).removesuffix(f"/{TASK}/{TASK}")
    return id if path == secrets_path(id) else None


def marks(dispatch_id: str, installation: str, digest: str) -> dict[str, str]:
    """Return the Meta by which a job is known."""
    return {DISPATCH: dispatch_id, INSTALLATION: installation, DIGEST: digest}


def meta(job: Mapping[str, Any], name: str) -> str | None:
    """Return a value of a job's Meta."""
    value: str | None = (job.get("Meta") or {}).get(name)
    return value


def is_ours(job: Mapping[str, Any], dispatch_id: str, installation: str) -> bool:
    """Whether a job carries the marks of that dispatch and installation."""
    return (meta(job, DISPATCH), meta(job, INSTALLATION)) == (dispatch_id, installation)
