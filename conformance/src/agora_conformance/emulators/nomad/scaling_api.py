"""Scaling events of a job: remarks that stay beside its record; nothing is ever scaled here."""

from __future__ import annotations

from agora_conformance.emulators.nomad.api import Answer, Ask, found, missing
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.errors import ApiError, Object, denied
from agora_conformance.emulators.nomad.store import Key
from agora_conformance.emulators.nomad.timing import nano

#: Events that a group keeps (`JobTrackedScalingEvents`).
KEPT = 20


class Scaling:
    """Answers `/v1/job/ID/scale`.

    Parameters:
        cluster: the cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._store = cluster, cluster.store

    def answer(self, ask: Ask, key: Key) -> Answer:
        """Read the events of a job, or write one: without a count, the job itself stays as it is."""
        ask.needs("GET", "POST", "PUT")
        wanted = ("submit-job", "scale-job") if ask.writes else ("read-job", "read-job-scaling")
        if not any(ask.allowed.may(one, key[0]) for one in wanted):
            raise denied()
        job = None if self._cluster.faults.hides(key[1]) else self._store.jobs.get(key)
        if not ask.writes:
            return missing("job not found", self._store.table("jobs")) if job is None else self._read(job, key)
        body = ask.body if isinstance(ask.body, dict) else {}
        group = (body.get("Target") or {}).get("Group", "")
        if not group:
            raise ApiError(400, "missing task group name for scaling action")
        if job is None:
            raise ApiError(404, f'job "{key[1]}" not found')
        if group not in [one["Name"] for one in job["TaskGroups"]]:
            raise ApiError(400, f'task group "{group}" specified for scaling does not exist in job')
        if body.get("Count") is not None:
            raise ApiError(400, "the emulator scales nothing")
        return self._write(job, key, group, body)

    def _write(self, job: Object, key: Key, group: str, body: Object) -> Answer:
        with self._store.write("ScalingEventRegistered") as txn:
            event: Object = {
                "Time": nano(), "Count": None, "PreviousCount": 1, "Message": str(body.get("Message") or ""),
                "Error": bool(body.get("Error")), "Meta": body.get("Meta"), "EvalID": None, "CreateIndex": txn.index,
            }  # fmt: skip
            groups = self._store.scalings.setdefault(key, {})
            groups[group] = [event, *groups.get(group, [])][:KEPT]
        shown = {
            "EvalCreateIndex": 0, "EvalID": "", "Index": txn.index, "JobModifyIndex": job["ModifyIndex"],
            "Warnings": "", "KnownLeader": False, "LastContact": 0, "NextToken": "",
        }  # fmt: skip
        return Answer(shown, txn.index)

    def _read(self, job: Object, key: Key) -> Answer:
        running = sum(one["ClientStatus"] == "running" for one in self._store.job_allocs(key))
        groups = {
            one["Name"]: {
                "Desired": one["Count"], "Placed": running, "Running": running, "Healthy": 0, "Unhealthy": 0,
                "Events": self._store.scalings.get(key, {}).get(one["Name"]),
            }
            for one in job["TaskGroups"]
        }  # fmt: skip
        shown = {
            "JobID": key[1], "Namespace": key[0], "JobCreateIndex": job["CreateIndex"],
            "JobModifyIndex": job["ModifyIndex"], "JobStopped": job["Stop"], "TaskGroups": groups,
        }  # fmt: skip
        return found(shown, job["ModifyIndex"])
