"""The Job controller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agora_conformance.emulators.k8s.admission import admit_pod_spec, check_account
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.errors import ApiError, Object
from agora_conformance.emulators.k8s.resources import JOBS, PODS, Resource

TRACKING = "batch.kubernetes.io/job-tracking"
SOURCE = "job-controller"
BACKOFF_TEXT = "Job has reached the specified backoff limit"
DEADLINE_TEXT = "Job was active longer than specified deadline"
SUCCESS_TEXT = "Reached expected number of succeeded pods"
RESUMED = ("JobResumed", "Job resumed")
FINAL = {"FailureTarget": "Failed", "SuccessCriteriaMet": "Complete"}
#: Seconds before the first replacement of a failed pod; doubled with each failure.
BACKOFF = 10


def controller_uid(item: Object) -> str:
    """Return the uid of the object that controls this one, or nothing."""
    owners = item["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def condition(item: Object, kind: str) -> Object | None:
    """Return a condition that is true."""
    known = item["status"].get("conditions") or []
    return next((one for one in known if one["type"] == kind and one["status"] == "True"), None)


def finished(job: Object) -> bool:
    """Whether a Job has reached its end."""
    return condition(job, "Failed") is not None or condition(job, "Complete") is not None


def terminal(pod: Object) -> bool:
    """Whether a pod's containers are over."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """Whether a pod says Ready."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or [])


@dataclass
class Count:
    """What one look at a Job's pods found."""

    active: list[Object]
    terminating: int
    ready: int
    succeeded: int
    failed: int


class JobController:
    """Makes pods for Jobs and tells how they went; changes are collected for a while, as in reality.

    Parameters:
        cluster: what it works on.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._delayed: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._writing: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._again: set[tuple[str, str]] = set()
        self._generations: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._retry: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self._cluster.each(None, self._react)
        finally:
            for timer in (*self._delayed.values(), *self._writing.values()):
                timer.cancel()

    # -- the queue ---------------------------------------------------------------------------------------------

    def _react(self, item: Object, resource: Resource, gone: bool) -> None:
        if resource is JOBS:
            self._job_changed(item, gone)
        elif resource is PODS:
            self._pod_changed(item)

    def _job_changed(self, job: Object, gone: bool) -> None:
        meta = job["metadata"]
        key = (meta["namespace"], meta["name"])
        if gone:
            self._generations.pop(meta["uid"], None)
            for pod in self._cluster.store.items(PODS, meta["namespace"]):
                if controller_uid(pod) == meta["uid"]:
                    self._release(pod)
        elif self._generations.get(meta["uid"]) != meta["generation"]:
            self._generations[meta["uid"]] = meta["generation"]
            asyncio.get_running_loop().call_soon(self._sync, key)
        else:
            self._later(key, self._cluster.timing.job_batch)

    def _pod_changed(self, pod: Object) -> None:
        namespace = pod["metadata"]["namespace"]
        uid = controller_uid(pod)
        for job in self._cluster.store.items(JOBS, namespace):
            if job["metadata"]["uid"] == uid:
                self._later((namespace, job["metadata"]["name"]), self._cluster.timing.job_batch)
                return
        self._release(pod)

    def _release(self, pod: Object) -> None:
        """Take the tracking mark off a pod."""

        def release(item: Object) -> None:
            known = item["metadata"].get("finalizers", [])
            item["metadata"]["finalizers"] = [one for one in known if one != TRACKING]

        if TRACKING in pod["metadata"].get("finalizers", []):
            self._cluster.change(PODS, pod, release)

    def _later(self, key: tuple[str, str], delay: float) -> None:
        loop = asyncio.get_running_loop()
        known = self._delayed.get(key)
        if known is not None and known.when() <= loop.time() + delay:
            return
        if known is not None:
            known.cancel()
        self._delayed[key] = loop.call_later(delay, self._due, key)

    def _due(self, key: tuple[str, str]) -> None:
        del self._delayed[key]
        self._sync(key)

    # -- one look ----------------------------------------------------------------------------------------------

    def _sync(self, key: tuple[str, str]) -> None:
        """Make and remove pods; what the status says is written a moment later."""
        job = self._cluster.store.find(JOBS, *key)
        if job is None or finished(job):
            return
        if key in self._writing:
            self._again.add(key)
            return
        status = dict(job["status"])
        if "startTime" not in status and not job["spec"].get("suspend"):
            self._start(job, status)
        count = self._count(job, self._pods(job))
        verdict = self._verdict(job, status, count)
        if verdict is not None:
            for pod in count.active:
                self._cluster.delete(PODS, pod)
            count.terminating += len(count.active)
            count.active, count.ready = [], 0
        elif not job["metadata"].get("deletionTimestamp"):
            verdict = self._manage(job, status, count)
        changed = self._counters(status, count)
        changed = changed or status.get("conditions") != job["status"].get("conditions")
        loop = asyncio.get_running_loop()
        self._writing[key] = loop.call_later(
            self._cluster.timing.job_write, self._write_down, key, job, status, verdict, changed
        )

    def _write_down(
        self, key: tuple[str, str], job: Object, status: Object, verdict: Object | None, changed: bool
    ) -> None:
        """Write the status, unless somebody changed the Job in between: then look again."""
        del self._writing[key]
        found = self._cluster.store.find(JOBS, *key)
        if found is None or found["metadata"]["uid"] != job["metadata"]["uid"]:
            return
        if found["metadata"]["generation"] != job["metadata"]["generation"]:
            self._sync(key)
            return
        self._track(found, status, self._pods(job), verdict, changed)
        if key in self._again:
            self._again.discard(key)
            self._sync(key)

    def _pods(self, job: Object) -> list[Object]:
        meta = job["metadata"]
        return [pod for pod in self._cluster.store.items(PODS, meta["namespace"]) if controller_uid(pod) == meta["uid"]]

    def _count(self, job: Object, pods: list[Object]) -> Count:
        uncounted = job["status"].get("uncountedTerminatedPods") or {}
        new = [pod for pod in pods if TRACKING in pod["metadata"].get("finalizers", [])]
        active = [pod for pod in pods if not terminal(pod) and not pod["metadata"].get("deletionTimestamp")]
        succeeded = {pod["metadata"]["uid"] for pod in new if pod["status"].get("phase") == "Succeeded"}
        failed = {pod["metadata"]["uid"] for pod in new if self._has_failed(job, pod)}
        return Count(
            active=active,
            terminating=sum(1 for pod in pods if not terminal(pod) and pod["metadata"].get("deletionTimestamp")),
            ready=sum(1 for pod in active if is_ready(pod)),
            succeeded=job["status"].get("succeeded", 0) + len(succeeded | set(uncounted.get("succeeded", []))),
            failed=job["status"].get("failed", 0) + len(failed | set(uncounted.get("failed", []))),
        )

    @staticmethod
    def _has_failed(job: Object, pod: Object) -> bool:
        phase = pod["status"].get("phase")
        if phase == "Failed":
            return True
        if job["spec"].get("podReplacementPolicy") == "Failed":
            return False
        return bool(pod["metadata"].get("deletionTimestamp")) and phase != "Succeeded"

    def _verdict(self, job: Object, status: Object, count: Count) -> Object | None:
        """Return the condition that decides the Job, if there is one."""
        for kind in FINAL:
            if (known := condition(job, kind)) is not None:
                return known
        if count.failed > job["spec"].get("backoffLimit", 6):
            return self._condition("FailureTarget", "BackoffLimitExceeded", BACKOFF_TEXT)
        deadline = job["spec"].get("activeDeadlineSeconds")
        if deadline is None or job["spec"].get("suspend") or "startTime" not in status:
            return None
        left = self._started.get(job["metadata"]["uid"], 0.0) + deadline * self._cluster.timing.second
        left -= asyncio.get_running_loop().time()
        if left <= 0:
            return self._condition("FailureTarget", "DeadlineExceeded", DEADLINE_TEXT)
        self._later((job["metadata"]["namespace"], job["metadata"]["name"]), left)
        return None

    def _condition(self, kind: str, reason: str, message: str) -> Object:
        now = self._cluster.clock.server()
        return {
            "type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now, "reason": reason,
            "message": message,
        }  # fmt: skip

    def _manage(self, job: Object, status: Object, count: Count) -> Object | None:
        """Make and remove pods; return the condition that decides the Job, if it is complete."""
        spec = job["spec"]
        completions = spec.get("completions")
        wanted = spec.get("parallelism", 1)
        if completions is not None:
            wanted = min(wanted, completions - count.succeeded)
        if spec.get("suspend"):
            for pod in count.active:
                self._release(pod)
                self._cluster.delete(PODS, pod)
            count.terminating += len(count.active)
            count.active, count.ready = [], 0
        else:
            waiting = count.terminating if spec.get("podReplacementPolicy") == "Failed" else 0
            self._add(job, count, wanted - waiting - len(count.active))
        if completions is not None and count.succeeded >= completions and not count.active:
            return self._condition("SuccessCriteriaMet", "CompletionsReached", SUCCESS_TEXT)
        self._suspension(job, status)
        return None

    def _add(self, job: Object, count: Count, number: int) -> None:
        if number <= 0:
            return
        meta = job["metadata"]
        if count.failed:
            again = self._retry.setdefault((meta["uid"], count.failed), asyncio.get_running_loop().time())
            wait = BACKOFF * 2 ** (count.failed - 1) * self._cluster.timing.second
            left = again + wait - asyncio.get_running_loop().time()
            if left > 0:
                self._later((meta["namespace"], meta["name"]), left)
                return
        for _ in range(number):
            wanted = pod_of(job)
            try:
                check_account(self._cluster.store, meta["namespace"], wanted)
            except ApiError as error:
                self._cluster.event(job, "FailedCreate", f"Error creating: {error}", SOURCE, "Warning")
                self._later((meta["namespace"], meta["name"]), self._cluster.timing.job_batch)
                return
            pod = self._cluster.store.create(PODS, meta["namespace"], wanted)
            count.active.append(pod)
            self._cluster.event(job, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}", SOURCE)

    def _suspension(self, job: Object, status: Object) -> None:
        suspended = bool(job["spec"].get("suspend"))
        known = next((one for one in status.get("conditions") or [] if one["type"] == "Suspended"), None)
        if (known is not None and known["status"] == "True") == suspended:
            return
        new = self._condition("Suspended", *(("JobSuspended", "Job suspended") if suspended else RESUMED))
        new["status"] = "True" if suspended else "False"
        status["conditions"] = [*(one for one in status.get("conditions") or [] if one["type"] != "Suspended"), new]
        status.pop("startTime", None)
        if not suspended:
            self._start(job, status)
        self._cluster.event(job, "Suspended" if suspended else "Resumed", new["message"], SOURCE)

    def _start(self, job: Object, status: Object) -> None:
        self._started[job["metadata"]["uid"]] = asyncio.get_running_loop().time()
        status["startTime"] = self._cluster.clock.server()

    # -- what the status says ------------------------------------------------------------------------------------

    @staticmethod
    def _counters(status: Object, count: Count) -> bool:
        """Write the counters; tell whether they changed."""
        before = {name: status.get(name) for name in ("active", "ready", "terminating")}
        now = {"active": len(count.active) or None, "ready": count.ready, "terminating": count.terminating}
        status |= now
        return before != now

    def _track(self, job: Object, status: Object, pods: list[Object], verdict: Object | None, changed: bool) -> None:
        """Count pods that are over, let them go, and end the Job; three writes, as in reality."""
        uncounted = {kind: list(ids) for kind, ids in (status.get("uncountedTerminatedPods") or {}).items()}
        final = self._final(verdict)
        let_go = []
        for pod in (pod for pod in pods if TRACKING in pod["metadata"].get("finalizers", [])):
            uid, phase = pod["metadata"]["uid"], pod["status"].get("phase")
            failed = self._has_failed(job, pod) or (final is not None and final["type"] == "Failed")
            if phase == "Succeeded" or failed or final is not None or job["metadata"].get("deletionTimestamp"):
                let_go.append(pod)
            kind = "succeeded" if phase == "Succeeded" else "failed" if failed else ""
            if kind and uid not in uncounted.get(kind, []):
                uncounted.setdefault(kind, []).append(uid)
                changed = True
        status["uncountedTerminatedPods"] = uncounted
        if verdict is not None and condition(job, verdict["type"]) is None:
            status["conditions"] = [*(status.get("conditions") or []), verdict]
            changed = True
        if changed:
            self._write(job, status)
            changed = False
        for pod in let_go:
            self._release(pod)
        if any(uncounted.values()):
            for kind in [kind for kind, ids in uncounted.items() if ids]:
                status[kind] = status.get(kind, 0) + len(uncounted[kind])
            status["uncountedTerminatedPods"] = {}
            changed = True
        if final is not None and not status["terminating"]:
            status["conditions"] = [*status["conditions"], final]
            if final["type"] == "Complete":
                status["completionTime"] = self._cluster.clock.server()
            changed = True
            self._report(job, final)
        if changed:
            self._write(job, status)

    def _final(self, verdict: Object | None) -> Object | None:
        if verdict is None:
            return None
        return self._condition(FINAL[verdict["type"]], verdict["reason"], verdict["message"])

    def _report(self, job: Object, final: Object) -> None:
        if final["type"] == "Complete":
            self._cluster.event(job, "Completed", "Job completed", SOURCE)
        else:
            self._cluster.event(job, final["reason"], final["message"], SOURCE, "Warning")

    def _write(self, job: Object, status: Object) -> None:
        order = (
            *("conditions", "startTime", "completionTime", "active", "succeeded", "failed"),
            *("terminating", "uncountedTerminatedPods", "ready"),
        )
        body = {name: status[name] for name in order if status.get(name) is not None}
        self._cluster.change(JOBS, job, lambda item: item.update(status=body))


def pod_of(job: Object) -> Object:
    """Return the pod that a Job's template describes."""
    meta, template = job["metadata"], job["spec"]["template"]
    head = template.get("metadata") or {}
    owner = {
        "apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True,
        "blockOwnerDeletion": True,
    }  # fmt: skip
    own = {
        "generateName": f"{meta['name']}-",
        "labels": head.get("labels") or {},
        "annotations": head.get("annotations") or {},
        "ownerReferences": [owner],
        "finalizers": [*(head.get("finalizers") or []), TRACKING],
    }
    return {"metadata": own, **admit_pod_spec(template["spec"])}
