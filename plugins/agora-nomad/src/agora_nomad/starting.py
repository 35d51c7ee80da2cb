"""How a workload is started: one job under an id that only this dispatch has, refused where it is on record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from agora.errors import DispatchConflict, ProviderError, StopRequested, SubmitRefused, Unreachable
from agora.hookspecs import Check
from agora.model.spec import Spec

from agora_nomad import jobspec, names
from agora_nomad.api import Api, Refusal
from agora_nomad.config import NomadConfig
from agora_nomad.secrets import Secrets

logger = logging.getLogger(__name__)

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

    def recorded() -> dict[str, Any] | None:
        found = api.job(job["ID"])
        if found is not None:
            _same(dispatch_id, installation, spec, found)
        return found

    if not spec.secrets:
        return _register(api, job, recorded, check)
    secrets = Secrets(api, installation)
    if (found := secrets.write(dispatch_id, spec, recorded, check)) is not None:
        return found
    try:
        return _register(api, job, recorded, check)
    except (StopRequested, SubmitRefused):
        _forget(api, secrets, dispatch_id)
        raise


def _register(
    api: Api, job: dict[str, Any], recorded: Callable[[], dict[str, Any] | None], check: Check
) -> dict[str, Any]:
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
        if (found := recorded()) is not None:
            return found
        time.sleep(_PAUSE)  # it was removed between the two answers
    raise Unreachable(f"the job {job['ID']} is there and not there")


def _forget(api: Api, secrets: Secrets, dispatch_id: str) -> None:
    """Remove the secrets of what will never start, unless an earlier attempt has made its job all the same."""
    try:
        if api.job(names.job_id(dispatch_id)) is None:
            secrets.remove(dispatch_id)
    except ProviderError as error:
        # Whoever looks after the dispatch removes them, as after every end.
        logger.warning("the secrets of %s are still on the cluster: %s", dispatch_id, error)


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
