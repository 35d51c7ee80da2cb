"""Evaluations: who works on them, and what becomes of their plans."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agora_conformance.emulators.nomad.errors import Object
from agora_conformance.emulators.nomad.plan import Plan, Reconciler, due
from agora_conformance.emulators.nomad.store import EVAL_TERMINAL, Key, Store, client_over
from agora_conformance.emulators.nomad.timing import NANO, Timing, nano, stamp

CONFLICTS, ATTEMPTS = "created due to placement conflicts", "maximum attempts reached (2)"
MORE_RECENT, RECONNECTED = "canceled after more recent eval was processed", "allocs reconnected"
AWAY, LATER = "created for delayed disconnect timeout", "created for delayed rescheduling"
#: Seconds that a clock may be early.
MARGIN = 0.002
PLACE_LATER = "created to place remaining allocations"
#: What an evaluation that could not place something says no more when it is done.
DROPPED = ("FailedTGAllocs", "ClassEligibility", "StatusDescription")
#: What a scheduler decides of an allocation; the rest is the client's.
WISHES = (
    *("DesiredStatus", "DesiredDescription", "NextAllocation", "Job", "EvalID", "FollowupEvalID", "AllocStates"),
    "DesiredTransition",
)
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass
class Scheduler:
    """Works on evaluations, those of one job after one another.

    Parameters:
        store: the servers' state.
        timing: how long it takes.
        spawn: runs something beside everything else.
        signing_key: id of the key that signs workload identities.
    """

    store: Store
    timing: Timing
    spawn: Spawn
    signing_key: str
    _queues: dict[Key, list[str]] = field(default_factory=dict)
    _busy: set[Key] = field(default_factory=set)

    def make(self, job: Object, cause: str, **fields: object) -> Object:
        """Return a new, pending evaluation of a job.

        Parameters:
            job: the job.
            cause: `TriggeredBy`.
            fields: others of its fields.
        """
        now = nano()
        return {
            "ID": str(uuid.uuid4()), "JobID": job["ID"], "Namespace": job["Namespace"], "Priority": job["Priority"],
            "Type": job["Type"], "Status": "pending", "TriggeredBy": cause, "CreateTime": now, "ModifyTime": now,
            **fields,
        }  # fmt: skip

    def enqueue(self, evaluation: Object) -> None:
        """Work on an evaluation as soon as those of the same job before it are done."""
        key = (evaluation["Namespace"], evaluation["JobID"])
        queue = self._queues.setdefault(key, [])
        if evaluation["ID"] not in queue:
            queue.append(evaluation["ID"])
        if key not in self._busy:
            self._busy.add(key)
            self.spawn(self._work(key))

    def later(self, evaluation: Object, at: int) -> None:
        """Work on an evaluation at a time, in nanoseconds since the epoch."""

        async def wait() -> None:
            await asyncio.sleep(due(at) + MARGIN)
            self.enqueue(evaluation)

        self.spawn(wait())

    def unblock(self) -> None:
        """Try again what could not be placed: there is more room now."""
        for one in list(self.store.evals.values()):
            if one["Status"] == "blocked" and one.get("FailedTGAllocs"):
                self.enqueue(one)

    def _ready(self) -> list[str]:
        return [name for name, node in self.store.nodes.items() if node["Status"] == "ready"]

    async def _work(self, key: Key) -> None:
        try:
            while queue := self._queues.get(key):
                await self._process(key, queue.pop(0))
        finally:
            self._busy.discard(key)
            self._queues.pop(key, None)

    async def _process(self, key: Key, name: str) -> None:
        """Make a plan from what is known now, and carry it out a little later."""
        evaluation = self.store.evals.get(name)
        if evaluation is None or evaluation["Status"] in EVAL_TERMINAL:
            return
        snapshot = self.store.index
        plan = Reconciler(self.store, key, evaluation, self.timing.second, self.signing_key).plan()
        await asyncio.sleep(self.timing.schedule)
        evaluation = self.store.evals.get(name)
        if evaluation is None:
            return
        if plan.failed and evaluation["Status"] == "blocked":
            return
        if plan.refused(self._ready()):
            await self._refuse(key, evaluation, plan, snapshot)
            return
        follow = self._follow(key, evaluation, plan, snapshot)
        if follow is not None:
            evaluation = {**evaluation, "NextEval": follow["ID"]}
        blocked = self._blocked(evaluation, plan, snapshot) if plan.failed else None
        if not plan.empty:
            self._apply(key, evaluation, plan)
        await asyncio.sleep(self.timing.plan)
        done = {name: value for name, value in evaluation.items() if name not in DROPPED}
        self._finish(key, done, plan, snapshot, blocked)

    def _follow(self, key: Key, evaluation: Object, plan: Plan, snapshot: int) -> Object | None:
        """Write the evaluation that comes after this one."""
        made = None
        for name, at in plan.follow.items():
            job = self.store.jobs[key]
            away = plan.updates_any("Disconnect")
            cause, words = ("max-disconnect-timeout", AWAY) if away else ("failed-follow-up", LATER)
            made = self.make(
                job, cause, ID=name, JobModifyIndex=job["ModifyIndex"], PreviousEval=evaluation["ID"],
                SnapshotIndex=snapshot, StatusDescription=words, WaitUntil=stamp(at / NANO),
            )  # fmt: skip
            with self.store.write("EvaluationUpdated") as txn:
                self.later(txn.eval(made), at)
        return made

    def _blocked(self, evaluation: Object, plan: Plan, snapshot: int) -> Object:
        """Write the evaluation that waits for room."""
        known = self.store.jobs[evaluation["Namespace"], evaluation["JobID"]]
        made = self.make(
            known, "queued-allocs", Status="blocked", StatusDescription=PLACE_LATER, SnapshotIndex=snapshot,
            PreviousEval=evaluation["ID"], FailedTGAllocs=plan.failed,
        )  # fmt: skip
        if "JobModifyIndex" in evaluation:
            made["JobModifyIndex"] = evaluation["JobModifyIndex"]
        if any(one["NodesEvaluated"] for one in plan.failed.values()):
            fit = any(one["NodesExhausted"] for one in plan.failed.values())
            made["ClassEligibility"] = {"v1:1": fit}
        with self.store.write("EvaluationUpdated") as txn:
            for other in self.store.job_evals((made["Namespace"], made["JobID"])):
                if other["Status"] == "blocked":
                    txn.eval({**other, "Status": "canceled", "StatusDescription": "existing blocked evaluation"})
            return txn.eval(made)

    def _apply(self, key: Key, evaluation: Object, plan: Plan) -> None:
        """Write what a plan says, as far as it still holds."""
        with self.store.write("PlanResult") as txn:
            txn.eval(evaluation)
            job = self.store.jobs.get(key)
            for alloc in plan.placed:
                # The job may have been stopped since the plan was made.
                if job is not None and not job["Stop"] and job["Version"] == alloc["Job"]["Version"]:
                    made = txn.alloc(alloc)
                    self._link(txn, made, {one["ID"] for one in plan.changed})
            for alloc in plan.changed:
                known = self.store.allocs.get(alloc["ID"])
                if known is not None and not client_over(known):
                    wished = {name: alloc[name] for name in WISHES if name in alloc}
                    if alloc["ClientStatus"] in ("lost", "unknown"):
                        wished |= {name: alloc[name] for name in ("ClientStatus", "ClientDescription") if name in alloc}
                    left = {name: value for name, value in known.items() if name != "AllocStates"}
                    txn.alloc({**left, **wished})
                elif known is not None and alloc.get("NextAllocation"):
                    txn.alloc({**known, **{name: alloc[name] for name in WISHES if name in alloc}})
            txn.settle(key)

    def _link(self, txn: Any, made: Object, changed: set[str]) -> None:
        previous = self.store.allocs.get(made.get("PreviousAllocation", ""))
        if previous is not None and previous["ID"] not in changed:
            txn.link(previous, made["ID"])

    async def _refuse(self, key: Key, evaluation: Object, plan: Plan, snapshot: int) -> None:
        """Give up a plan that nodes refuse; the next evaluation of the job makes up for it."""
        blocked = self.make(
            self.store.jobs[key], "max-plan-attempts", Status="blocked", StatusDescription=CONFLICTS,
            SnapshotIndex=snapshot, PreviousEval=evaluation["ID"],
        )  # fmt: skip
        with self.store.write("EvaluationUpdated") as txn:
            txn.eval(blocked)
        await asyncio.sleep(self.timing.plan)
        self._finish(key, {**evaluation, "StatusDescription": ATTEMPTS}, plan, snapshot, blocked, status="failed")

    def _finish(
        self, key: Key, done: Object, plan: Plan, snapshot: int, blocked: Object | None, *, status: str = "complete"
    ) -> None:  # fmt: skip
        for other in self.store.job_evals(key):
            if other["TriggeredBy"] == "max-plan-attempts" and other["Status"] == "blocked" and blocked is None:
                with self.store.write("EvaluationUpdated") as txn:
                    txn.eval({**other, "Status": "canceled", "StatusDescription": MORE_RECENT})
        done |= {
            "Status": status, "ModifyTime": nano(), "SnapshotIndex": snapshot,
            "PlanAnnotations": {"DesiredTGUpdates": plan.updates, "PreemptedAllocs": None},
        }  # fmt: skip
        if plan.queued:
            done["QueuedAllocations"] = plan.queued
        if blocked is not None:
            done["BlockedEval"] = blocked["ID"]
        if plan.failed:
            done["FailedTGAllocs"] = plan.failed
        with self.store.write("EvaluationUpdated") as txn:
            txn.eval(done)
            txn.settle(key)
