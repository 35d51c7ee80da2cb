"""Jobs: registered, stopped, read."""

from __future__ import annotations

import asyncio
from typing import Any

from agora_conformance.emulators.nomad import jobspec, listing
from agora_conformance.emulators.nomad.api import Answer, Ask, Look, found, missing
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.errors import ApiError, Object, denied, listed
from agora_conformance.emulators.nomad.plan import transition
from agora_conformance.emulators.nomad.scaling_api import Scaling
from agora_conformance.emulators.nomad.store import Key, client_over
from agora_conformance.emulators.nomad.timing import nano

POOLS = ("default", "all")
FENCE = "Enforcing job modify index {}: {}"
#: What may follow a job's id in a path.
VIEWS = ("allocations", "evaluations", "summary", "versions", "deployments", "deployment", "evaluate", "plan", "scale")
META = {"Index": 0, "KnownLeader": False, "LastContact": 0, "NextToken": ""}


class Jobs:
    """Answers what is asked about jobs.

    Parameters:
        cluster: the cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._store, self._scaling = cluster, cluster.store, Scaling(cluster)

    def collection(self, ask: Ask) -> Answer | Look:
        """Answer `/v1/jobs`."""
        ask.needs("GET", "POST", "PUT")
        return self.register(ask) if ask.writes else self.list(ask)

    def one(self, ask: Ask) -> Answer | Look:
        """Answer `/v1/job/ID` and what is below it; the id may hold slashes."""
        name, view = split(ask.path.removeprefix("/v1/job/"))
        key = (ask.namespace, name)
        if not view:
            ask.needs("GET", "POST", "PUT", "DELETE")
            if ask.writes:
                return self.register(ask)
            return self.deregister(ask, key) if ask.method == "DELETE" else self._read(ask, key)
        if view == "evaluate":
            ask.needs("POST", "PUT")
            return self._evaluate(ask, key)
        if view == "scale":
            return self._scaling.answer(ask, key)
        ask.needs("GET")
        ask.allowed.need("read-job", key[0])
        views = {
            "allocations": self._allocations, "evaluations": self._evaluations, "summary": self._summary,
            "versions": self._versions,
        }  # fmt: skip
        if view in views:
            return lambda: views[view](ask, key)
        return found([] if view == "deployments" else None, self._store.index)

    # -- reading -------------------------------------------------------------------------------------------------

    def _job(self, key: Key) -> Object | None:
        return None if self._cluster.faults.hides(key[1]) else self._store.jobs.get(key)

    def _read(self, ask: Ask, key: Key) -> Look:
        ask.allowed.need("read-job", key[0])

        def look() -> Answer:
            job = self._job(key)
            if job is None:
                return missing("job not found", self._store.table("jobs"))
            return found(job, job["ModifyIndex"])

        return look

    def list(self, ask: Ask) -> Look:
        """List jobs."""
        namespace, rights = ask.namespace, ask.allowed
        if not (rights.any_namespace("list-jobs") if namespace == "*" else rights.may("list-jobs", namespace)):
            raise denied()
        meta = ask.flag("meta")

        def look() -> Answer:
            items = [
                one
                for (where, name), one in sorted(self._store.jobs.items())
                if (where == namespace or (namespace == "*" and rights.may("list-jobs", where)))
                and name.startswith(ask.query.get("prefix", ""))
                and not self._cluster.faults.hides(name)
            ]
            chosen, rest = listing.page(items, ask.query, lambda one: f"{one['Namespace']}.{one['ID']}")
            index = max(self._store.table("jobs"), self._store.table("allocs"))
            return found([listing.job(self._store, one, meta=meta) for one in chosen], index, rest)

        return look

    def _allocations(self, ask: Ask, key: Key) -> Answer:
        items = [] if self._cluster.faults.hides(key[1]) else self._store.job_allocs(key)
        index = max((one["ModifyIndex"] for one in items), default=self._store.table("allocs"))
        return found([listing.alloc(one, states=True) for one in items], index)

    def _evaluations(self, ask: Ask, key: Key) -> Answer:
        items = [] if self._cluster.faults.hides(key[1]) else self._store.job_evals(key)
        return found(items, max((one["ModifyIndex"] for one in items), default=self._store.table("evals")))

    def _summary(self, ask: Ask, key: Key) -> Answer:
        job = self._job(key)
        if job is None:
            return missing("job not found", self._store.table("jobs"))
        summary = listing.summary(self._store, job)
        return found(summary, summary["ModifyIndex"])

    def _versions(self, ask: Ask, key: Key) -> Answer:
        versions = [] if self._job(key) is None else self._store.versions.get(key, [])
        if not versions:
            return missing("job versions not found", self._store.table("jobs"))
        return found({"Versions": versions, "Diffs": None, **META}, versions[0]["ModifyIndex"])

    # -- registering ---------------------------------------------------------------------------------------------

    def _given(self, ask: Ask) -> Object:
        body = ask.body
        if body is None:
            raise ApiError(400, "Request body is empty")
        if not isinstance(body, dict) or not body.get("Job"):
            raise ApiError(400, "Job must be specified")
        try:
            given = dict(body["Job"])
            given["Namespace"] = given.get("Namespace") or ask.namespace
            return jobspec.canonical(given)
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise ApiError(
                400, f"json: cannot unmarshal into Go value of type api.JobRegisterRequest: {error}"
            ) from None

    def register(self, ask: Ask) -> Answer:
        """Take up a job, or a new version of it."""
        job = self._given(ask)
        wanted = ask.path.removeprefix("/v1/job/")
        if ask.path.startswith("/v1/job/") and wanted != job["ID"]:
            raise ApiError(400, "Job ID does not match name")
        ask.allowed.need("submit-job", job["Namespace"])
        jobspec.check(job, self._store.namespaces, POOLS)
        key = (job["Namespace"], job["ID"])
        old = self._store.jobs.get(key)
        if ask.body.get("EnforceIndex"):
            fence(old, int(ask.body.get("JobModifyIndex") or 0))
        if old is not None and not jobspec.changed(old, job):
            evaluation = self._again(old)
            return self._registered(evaluation, old["JobModifyIndex"])
        version = 0 if old is None else old["Version"] + 1
        with self._store.write("JobRegistered") as txn:
            made = txn.job({**job, "Version": version, "SubmitTime": nano(), "NomadTokenID": self._accessor(ask)})
            evaluation = txn.eval(self._cluster.scheduler.make(made, "job-register", JobModifyIndex=txn.index))
            txn.settle(key)
        self._cluster.scheduler.enqueue(evaluation)
        return self._registered(evaluation, evaluation["CreateIndex"])

    def _accessor(self, ask: Ask) -> str:
        token = self._cluster.access.find(ask.token) if self._cluster.access.enabled else None
        return "" if token is None else str(token["AccessorID"])

    def _again(self, job: Object) -> Object:
        """Look at a job again that is registered as it was."""
        with self._store.write("EvaluationUpdated") as txn:
            evaluation = txn.eval(
                self._cluster.scheduler.make(job, "job-register", JobModifyIndex=job["JobModifyIndex"])
            )
            txn.settle((job["Namespace"], job["ID"]))
        self._cluster.scheduler.enqueue(evaluation)
        return evaluation

    def _registered(self, evaluation: Object, index: int) -> Answer:
        body = {
            **META, "EvalCreateIndex": evaluation["CreateIndex"], "EvalID": evaluation["ID"], "Index": index,
            "JobModifyIndex": index, "Warnings": "",
        }  # fmt: skip
        return Answer(body, index)

    def validate(self, ask: Ask) -> Answer:
        """Say what is wrong with a job."""
        ask.needs("POST", "PUT")
        job = self._given(ask)
        ask.allowed.need("read-job", job["Namespace"])
        problems = jobspec.mistakes(job)
        shown = {"DriverConfigValidated": True, "ValidationErrors": problems or None, "Warnings": ""}
        return Answer({**shown, "Error": listed(problems) if problems else ""}, 0)

    def _evaluate(self, ask: Ask, key: Key) -> Answer:
        ask.allowed.need("submit-job", key[0])
        job = self._job(key)
        if job is None:
            raise ApiError(404, "job not found")
        return self._registered(self._again(job), job["JobModifyIndex"])

    # -- stopping ------------------------------------------------------------------------------------------------

    def deregister(self, ask: Ask, key: Key) -> Answer:
        """Stop a job; with `purge` forget it, too."""
        ask.allowed.need("submit-job", key[0])
        purge, hurry = ask.flag("purge"), ask.flag("no_shutdown_delay")
        job = self._job(key)
        empty: dict[str, Any] = {
            **META, "EvalCreateIndex": 0, "EvalID": "", "JobModifyIndex": 0, "VolumeEvalID": "", "VolumeEvalIndex": 0,
        }  # fmt: skip
        if job is None:
            return Answer(empty, 0)
        scheduler = self._cluster.scheduler
        with self._store.write("JobDeregistered") as txn:
            for alloc in self._store.job_allocs(key) if hurry else ():
                if not client_over(alloc):
                    txn.alloc(transition(alloc, NoShutdownDelay=True))
            if purge:
                txn.job_gone(key)
            else:
                txn.job({**job, "Stop": True, "Version": job["Version"] + 1, "SubmitTime": nano()})
            evaluation = scheduler.make(job, "job-deregister", Type="service", JobModifyIndex=txn.index)
            evaluation = txn.eval(evaluation)
            txn.settle(key)
        scheduler.enqueue(evaluation)
        if purge:
            self._cluster.tasks.spawn(self._purge(job["CreateIndex"], key))
        index = evaluation["CreateIndex"]
        made = {"EvalCreateIndex": index, "EvalID": evaluation["ID"], "Index": index, "JobModifyIndex": index}
        return Answer(empty | made, index)

    async def _purge(self, created: int, key: Key) -> None:
        """Forget the allocations of a job that was purged, as soon as they are over."""
        while True:
            news = self._store.news
            left = [
                one
                for one in self._store.allocs.values()
                if (one["Namespace"], one["JobID"]) == key and one["Job"]["CreateIndex"] == created
            ]
            if all(client_over(one) for one in left):
                break
            await news.wait()
        await asyncio.sleep(self._cluster.timing.purge)
        with self._store.write("EvaluationUpdated") as txn:
            txn.forget(evals=[], allocs=[one["ID"] for one in left])


def fence(old: Object | None, index: int) -> None:
    """Refuse a registration that was meant for another state of the job.

    Raises:
        ApiError: 500 with Nomad's text.
    """
    if old is None:
        if index:
            raise ApiError(500, FENCE.format(index, "job does not exist"))
    elif index == 0:
        raise ApiError(500, FENCE.format(index, "job already exists"))
    elif index != old["JobModifyIndex"]:
        text = f"job exists with conflicting job modify index: {old['JobModifyIndex']}"
        raise ApiError(500, FENCE.format(index, text))


def split(rest: str) -> tuple[str, str]:
    """Return a job's id and what of it is asked for, from the end of a path."""
    name, slash, view = rest.rpartition("/")
    return (name, view) if slash and view in VIEWS else (rest, "")
