"""How a workload is started: one Job under a name that only this dispatch has."""

from __future__ import annotations

import time

from agora.errors import DispatchConflict, ProviderError, StopRequested, SubmitRefused, Unreachable
from agora.hookspecs import Check
from agora.model.spec import Spec

from agora_k8s import manifest, names
from agora_k8s.api import Refusal
from agora_k8s.cluster import Cluster, Item, is_another
from agora_k8s.config import K8sConfig

_RETRIES = 8
_PAUSE = 0.1


class Starter:
    """Makes Jobs.

    Parameters:
        cluster: where.
        config: the target.
        installation: whose.
    """

    def __init__(self, cluster: Cluster, config: K8sConfig, installation: str) -> None:
        self._cluster = cluster
        self._api = cluster.api
        self._config = config
        self._installation = installation
        self._making: set[str] = set()

    def is_making(self, dispatch_id: str, job: Item) -> bool:
        """Whether a Job is half made, and this process is the one that makes it."""
        return dispatch_id in self._making and names.annotation(job, names.MAKING) is not None

    def start(self, dispatch_id: str, spec: Spec, check: Check) -> Item:
        """Make the Job, or adopt it.

        With secrets it is made suspended, gets its Secret, and is let go then: so the Secret belongs to the Job
        from its first moment, and what a crash leaves behind is a Job that has its marks and never runs.

        Raises:
            DispatchConflict: the name is taken by another spec or another installation.
            SubmitRefused: the cluster refuses the Job.
            StopRequested: a stop was requested before it could start.
        """
        if spec.secrets:
            self._making.add(dispatch_id)
        body = manifest.job(dispatch_id, self._installation, spec, self._config)
        check()
        job = self._created(body)
        try:
            job = job or self._made(dispatch_id, spec, body)
            if names.annotation(job, names.MAKING) is not None and spec.secrets:
                try:
                    job = self._with_secret(dispatch_id, spec, job, check)
                except (StopRequested, SubmitRefused):
                    self._api.delete("jobs", job, propagationPolicy="Background")
                    raise
        except ProviderError as error:
            error.sent = True  # whatever became of this request, the Job is there
            raise
        self._making.discard(dispatch_id)
        return job

    def _created(self, body: Item) -> Item | None:
        """Make the Job; null where its name is taken."""
        try:
            return self._api.create("jobs", body)
        except Refusal as error:
            if error.reason != "AlreadyExists":
                raise _refused(error, str(error)) from error
            return None

    def _made(self, dispatch_id: str, spec: Spec, body: Item) -> Item:
        """Return the Job that has the name, or make it after all."""
        for _ in range(_RETRIES):
            found = self._api.get("jobs", body["metadata"]["name"])
            if found is not None:
                self._same(dispatch_id, spec, found)
                return found
            time.sleep(_PAUSE)  # it was removed between the two answers
            if (made := self._created(body)) is not None:
                return made
        raise Unreachable(f"the Job of {dispatch_id} is there and not there")

    def _same(self, dispatch_id: str, spec: Spec, found: Item) -> None:
        if not names.is_ours(found, dispatch_id, self._installation):
            raise DispatchConflict(f"{found['metadata']['name']} does not belong to this installation")
        if names.label(found, names.DIGEST) != spec.digest():
            raise DispatchConflict(f"{dispatch_id} was dispatched with another spec")

    def _with_secret(self, dispatch_id: str, spec: Spec, job: Item, check: Check) -> Item:
        check()
        body = manifest.secret(dispatch_id, self._installation, spec, job)
        name = body["metadata"]["name"]
        try:
            self._api.create("secrets", body)
        except Refusal as error:
            if error.reason != "AlreadyExists":
                # The server's words might repeat a value.
                raise _refused(error, f"the Secret {name} is refused ({error.status} {error.reason})") from None
            self._api.patch("secrets", name, {"data": body["data"], "metadata": _owners(body)})
        check()
        return self._let_go(dispatch_id, job)

    def _let_go(self, dispatch_id: str, job: Item) -> Item:
        """Let a suspended Job start, unless somebody has stopped it or given it up meanwhile."""
        for _ in range(_RETRIES):
            if names.annotation(job, names.MAKING) is None:
                return job
            if names.annotation(job, names.CAUSE) is not None:
                raise StopRequested(f"{dispatch_id} was stopped before it was started")
            if (why := names.annotation(job, names.GIVEN_UP)) is not None:
                raise SubmitRefused(why, reason="start_not_finished")
            metadata = {
                "uid": job["metadata"]["uid"],
                "resourceVersion": job["metadata"]["resourceVersion"],
                "annotations": {names.MAKING: None},
            }
            try:
                return self._api.patch(
                    "jobs", job["metadata"]["name"], {"metadata": metadata, "spec": {"suspend": False}}
                )
            except Refusal as error:
                if error.status != 409 and not is_another(error):
                    raise
            current = self._api.get("jobs", job["metadata"]["name"])
            if current is None or current["metadata"]["uid"] != job["metadata"]["uid"]:
                raise StopRequested(f"the Job of {dispatch_id} was removed before it was started")
            job = current
        raise Unreachable(f"the Job of {dispatch_id} changes too often to be started")


def _owners(body: Item) -> Item:
    return {"ownerReferences": body["metadata"]["ownerReferences"]}


def _refused(error: Refusal, message: str) -> SubmitRefused:
    words = str(error)
    if "exceeded quota" in words:
        return SubmitRefused(message, reason="quota_exceeded")
    if error.status == 404:
        return SubmitRefused(message, reason="namespace_missing")
    return SubmitRefused(message, reason="job_refused")
