"""How a workload is started: one job under an id that only this dispatch has, refused where it is on record."""

from __future__ import annotations

import time
from typing import Any

from agora.errors import DispatchConflict, ProviderError, SubmitRefused, Unreachable
from agora.hookspecs import Check
from agora.model.spec import Spec

from agora_nomad import jobspec, names
from agora_nomad.api import Api, Refusal
from agora_nomad.config import NomadConfig

#: The answer to `EnforceIndex` with index 0 where the id is taken; its status is 500.
TAKEN = "Enforcing job modify index 0"
_RETRIES = 5
_PAUSE = 0.1


def start(
    api: Api, config: NomadConfig, installation: str, dispatch_id: str, spec: Spec, check: Check
) -> dict[str, Any]:
    """Register the job, or adopt the one that is there.

    Returns:
        what is known of the job; its `CreateIndex` at least.
    Raises:
        DispatchConflict: the id is taken by another spec or another installation.
        SubmitRefused: the cluster refuses the job.
        StopRequested: a stop was requested before.
    """
    job = jobspec.job(dispatch_id, installation, spec, config, namespace=api.namespace, region=api.region)
    for _ in range(_RETRIES):
        check()
        try:
            answer = api.register(jobspec.registration(job))
        except Refusal as error:
            if TAKEN not in str(error):
                raise _refused(error) from error
        else:
            # A new job is made and modified at the same index.
            return {**job, "CreateIndex": answer["JobModifyIndex"]}
        found = api.job(job["ID"])
        if found is not None:
            _same(dispatch_id, installation, spec, found)
            return found
        time.sleep(_PAUSE)  # it was removed between the two answers
    raise Unreachable(f"the job of {dispatch_id} is there and not there")


def _same(dispatch_id: str, installation: str, spec: Spec, found: dict[str, Any]) -> None:
    if not names.is_ours(found, dispatch_id, installation):
        raise DispatchConflict(f"{found['ID']} does not belong to this installation")
    if names.meta(found, names.DIGEST) != spec.digest():
        raise DispatchConflict(f"{dispatch_id} was dispatched with another spec")


def _refused(error: Refusal) -> ProviderError:
    """Tell what the server refuses from what it could not do: only the first says that nothing was started."""
    words = str(error)
    if "nonexistent namespace" in words:
        return SubmitRefused(words, reason="namespace_missing")
    if "nonexistent node pool" in words:
        return SubmitRefused(words, reason="node_pool_missing")
    if "No path to region" in words:
        return SubmitRefused(words, reason="region_missing")
    if error.status in (400, 404, 405, 413) or error.looked_at:
        return SubmitRefused(words, reason="job_refused")
    return error
