"""What has to happen to a job's allocations: a function of the servers' state, without effects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from agora_conformance.emulators.nomad import feasible, jobspec
from agora_conformance.emulators.nomad.errors import Object
from agora_conformance.emulators.nomad.store import Key, Store, client_over, over
from agora_conformance.emulators.nomad.timing import NANO, nano, stamp

UPDATES = (
    *("Canary", "DestructiveUpdate", "Disconnect", "Ignore", "InPlaceUpdate", "Migrate", "Place", "Preemptions"),
    *("Reconnect", "RescheduleLater", "RescheduleNow", "Stop"),
)
NOT_NEEDED = "alloc not needed due to job update"
MIGRATED = "alloc is being migrated"
LOST = "alloc is lost since its node is down"
UNKNOWN = "alloc is unknown since its node is disconnected"
UPDATED = "alloc is being updated due to job update"
RESCHEDULED = "alloc was rescheduled because it failed"
NO_TRANSITION: Object = {
    "ForceReschedule": None, "Migrate": None, "MigrateDisablePlacement": None, "NoShutdownDelay": None,
    "Reschedule": None,
}  # fmt: skip


@dataclass
class Plan:
    """What a scheduler wants.

    Parameters:
        updates: counters by task group, as the annotations of an evaluation show them.
        placed: new allocations.
        changed: allocations with other wishes.
        queued: how many could not be placed, by task group.
        failed: why not.
        follow: later evaluations: when, in nanoseconds since the epoch, and their ids.
    """

    updates: dict[str, dict[str, int]] = field(default_factory=dict)
    placed: list[Object] = field(default_factory=list)
    changed: list[Object] = field(default_factory=list)
    queued: dict[str, int] = field(default_factory=dict)
    failed: dict[str, Object] = field(default_factory=dict)
    follow: dict[str, int] = field(default_factory=dict)

    def refused(self, ready: Collection[str]) -> bool:
        """Whether nodes would refuse it: something is to change where a node is not ready yet.

        Parameters:
            ready: ids of the nodes that are.
        """
        return any(reconnecting_again(one) and one["NodeID"] not in ready for one in self.changed)

    @property
    def empty(self) -> bool:
        """Whether nothing is to change."""
        return not self.placed and not self.changed

    def updates_any(self, what: str) -> bool:
        """Whether a counter of some task group is not zero."""
        return any(one[what] for one in self.updates.values())


class Reconciler:
    """Compares what a job wants with what there is.

    Parameters:
        store: the servers' state.
        key: namespace and id of the job.
        evaluation: on whose behalf.
        second: how long a second of the API lasts.
        signing_key: id of the key that signs workload identities.
    """

    def __init__(self, store: Store, key: Key, evaluation: Object, second: float, signing_key: str) -> None:
        self._store, self._key, self._evaluation, self._second = store, key, evaluation, second
        self._signing_key = signing_key
        self._plan = Plan()
        self._removed: set[str] = set()

    def plan(self) -> Plan:
        """Return what is to be done."""
        job = self._store.jobs.get(self._key)
        allocs = self._store.job_allocs(self._key)
        if job is not None:
            for group in job["TaskGroups"]:
                self._plan.updates[group["Name"]] = dict.fromkeys(UPDATES, 0)
                self._plan.queued[group["Name"]] = 0
        if job is None or job["Stop"]:
            for alloc in allocs:
                self._stop(alloc)
            return self._plan
        for group in job["TaskGroups"]:
            self._group(job, group, [one for one in allocs if one["TaskGroup"] == group["Name"]])
        names = {group["Name"] for group in job["TaskGroups"]}
        for alloc in allocs:
            if alloc["TaskGroup"] not in names:
                self._stop(alloc)
        return self._plan

    # -- one allocation ------------------------------------------------------------------------------------------

    def _count(self, group: str, what: str) -> None:
        if group in self._plan.updates:
            self._plan.updates[group][what] += 1

    def _node(self, alloc: Object) -> str:
        node = self._store.nodes.get(alloc["NodeID"])
        return "down" if node is None else str(node["Status"])

    def _stop(self, alloc: Object) -> None:
        """Stop an allocation of a job that nobody wants any more."""
        if client_over(alloc):
            return
        if self._node(alloc) == "down" and not (over(alloc) and alloc["ClientStatus"] == "unknown"):
            if not over(alloc):
                self._count(alloc["TaskGroup"], "Stop")
            self._change(alloc, LOST, ClientStatus="lost")
        elif not over(alloc):
            self._count(alloc["TaskGroup"], "Stop")
            self._change(alloc, NOT_NEEDED)

    def _change(self, alloc: Object, words: str, **fields: object) -> None:
        self._removed.add(alloc["ID"])
        left = {name: value for name, value in alloc.items() if name != "AllocStates"}
        self._plan.changed.append({**left, "DesiredStatus": "stop", "DesiredDescription": words, **fields})

    # -- one task group ------------------------------------------------------------------------------------------

    def _group(self, job: Object, group: Object, allocs: list[Object]) -> None:
        """Sort the allocations into those that count and those that do not, and place what is missing."""
        name, there = group["Name"], 0
        replaced: list[Object | None] = []
        for alloc in allocs:
            counts, successor = self._one(job, group, alloc)
            there += counts
            if successor:
                replaced.append(alloc)
        missing = max(group["Count"] - there, 0)
        surplus = there - group["Count"]
        for alloc in self._least_wanted(group, allocs)[: max(surplus, 0)]:
            self._count(name, "Stop")
            self._change(alloc, NOT_NEEDED)
        for previous in [*replaced, *([None] * missing)][:missing]:
            self._place(job, group, previous)

    def _least_wanted(self, group: Object, allocs: list[Object]) -> list[Object]:
        """Return what runs, in the order in which it has to go where it is too much: `reconcile` decides."""
        live = [one for one in allocs if not over(one) and one["ID"] not in self._removed]
        keep_last = (group["Disconnect"] or {}).get("Reconcile") == "keep_replacement"
        return sorted(live, key=lambda one: int(one["CreateIndex"]), reverse=not keep_last)

    def _one(self, job: Object, group: Object, alloc: Object) -> tuple[bool, bool]:
        """Judge an allocation: whether it counts as being there, and whether its replacement is its successor."""
        name = group["Name"]
        if alloc["DesiredStatus"] != "run":
            node_lost = not client_over(alloc) and self._node(alloc) == "down"
            if node_lost:
                self._change(alloc, LOST, ClientStatus="lost")
            else:
                self._count(name, "Ignore")
            held = bool((alloc.get("DesiredTransition") or {}).get("MigrateDisablePlacement"))
            return held or succeeded(alloc), False
        if client_over(alloc):
            return self._ended(group, alloc)
        transition = alloc.get("DesiredTransition") or {}
        if transition.get("Migrate") and self._node(alloc) != "down":
            self._count(name, "Migrate")
            self._change(alloc, MIGRATED)
            return bool(transition.get("MigrateDisablePlacement")), True
        if (absent := self._absent(group, alloc)) is not None:
            return absent, False
        if alloc["Job"]["Version"] != job["Version"] and jobspec.changed(alloc["Job"], job):
            return self._other_version(job, group, alloc)
        self._count(name, "Ignore")
        if reconnecting(alloc):
            self._count(name, "Reconnect")
            known = {"Field": 0, "Time": stamp(), "Value": alloc["ClientStatus"]}
            self._plan.changed.append({**alloc, "Job": job, "AllocStates": [*alloc["AllocStates"], known]})
        return True, False

    def _ended(self, group: Object, alloc: Object) -> tuple[bool, bool]:
        """Judge an allocation that is over by itself: a failed one may be replaced."""
        policy = group["ReschedulePolicy"]
        tries = len(((alloc.get("RescheduleTracker") or {}).get("Events")) or [])
        again = alloc["ClientStatus"] == "failed" and not alloc.get("NextAllocation")
        if again and (policy["Unlimited"] or tries < policy["Attempts"]):
            when = alloc["ModifyTime"] + int(policy["Delay"] * self._second)
            if nano() >= when:
                self._count(group["Name"], "RescheduleNow")
                self._change(alloc, RESCHEDULED)
                return False, True
            self._count(group["Name"], "RescheduleLater")
            self._plan.follow[str(uuid.uuid4())] = when
        else:
            self._count(group["Name"], "Ignore")
        return True, False

    def _absent(self, group: Object, alloc: Object) -> bool | None:
        """Judge an allocation on a node that is away; None where the node is there."""
        status, name = self._node(alloc), group["Name"]
        lost_after = lost_limit(group)
        since = unknown_since(alloc)
        asked = alloc.get("FollowupEvalID") == self._evaluation["ID"]
        passed = since is not None and (asked or nano() >= since + int((lost_after or 0) * self._second))
        if status == "down" or (status == "disconnected" and (lost_after is None or passed)):
            self._count(name, "Stop")
            self._change(alloc, LOST, ClientStatus="lost")
            # With no time at all to be unknown, what replaces it is left to the next evaluation.
            return passed and not lost_after
        if status != "disconnected":
            return None
        self._count(name, "Ignore")
        if alloc["ClientStatus"] == "unknown":
            return not group["Disconnect"]["Replace"]
        self._count(name, "Disconnect")
        now, follow = nano(), str(uuid.uuid4())
        self._plan.follow[follow] = now + int((lost_after or 0) * self._second)
        self._plan.changed.append({
            **alloc, "ClientStatus": "unknown", "ClientDescription": UNKNOWN, "FollowupEvalID": follow,
            "AllocStates": [{"Field": 0, "Time": stamp(now / NANO), "Value": "unknown"}],
        })  # fmt: skip
        return not group["Disconnect"]["Replace"]

    def _other_version(self, job: Object, group: Object, alloc: Object) -> tuple[bool, bool]:
        if jobspec.in_place(alloc["Job"], job):
            self._count(group["Name"], "InPlaceUpdate")
            self._plan.changed.append({**alloc, "Job": job, "EvalID": self._evaluation["ID"]})
            return True, False
        self._count(group["Name"], "DestructiveUpdate")
        self._change(alloc, UPDATED)
        return False, True

    # -- placing -------------------------------------------------------------------------------------------------

    def _place(self, job: Object, group: Object, previous: Object | None) -> None:
        name = group["Name"]
        running = [one for one in self._store.allocs.values() if not over(one) and one["ID"] not in self._removed]
        where, metrics = feasible.choose(job, group, self._store.nodes.values(), running + self._plan.placed)
        if previous is None or not where:
            self._count(name, "Place")
        if not where:
            self._plan.queued[name] += 1
            known = self._plan.failed.get(name)
            self._plan.failed[name] = metrics if known is None else known | {
                "CoalescedFailures": known["CoalescedFailures"] + 1
            }  # fmt: skip
            return
        alloc = self._alloc(job, group, self._store.nodes[where], metrics)
        if previous is not None:
            alloc["PreviousAllocation"] = previous["ID"]
            if previous["ClientStatus"] == "failed":
                events = ((previous.get("RescheduleTracker") or {}).get("Events")) or []
                event = {"RescheduleTime": nano(), "PrevAllocID": previous["ID"], "PrevNodeID": previous["NodeID"]}
                alloc["RescheduleTracker"] = {"Events": [*events, event]}
            for number, changed in enumerate(self._plan.changed):
                if changed["ID"] == previous["ID"]:
                    self._plan.changed[number] = {**changed, "NextAllocation": alloc["ID"]}
        self._plan.placed.append(alloc)

    def _alloc(self, job: Object, group: Object, node: Object, metrics: Object) -> Object:
        now = nano()
        disk = group["EphemeralDisk"]["SizeMB"]
        tasks = {task["Name"]: task["Resources"] for task in group["Tasks"]}
        total = {name: sum(one[name] for one in tasks.values()) for name in ("CPU", "MemoryMB")}
        zero = {
            "CPU": 0, "Cores": 0, "Devices": None, "DiskMB": disk, "IOPS": 0, "MemoryMB": 0, "MemoryMaxMB": 0,
            "NUMA": None, "Networks": None, "SecretsMB": 0,
        }  # fmt: skip
        each = {
            name: {
                "Cpu": {"CpuShares": one["CPU"], "ReservedCores": None}, "Devices": None,
                "Memory": {"MemoryMB": one["MemoryMB"], "MemoryMaxMB": one["MemoryMaxMB"]}, "Networks": None,
            }
            for name, one in tasks.items()
        }  # fmt: skip
        used = sum(1 for one in self._plan.placed if one["TaskGroup"] == group["Name"])
        return {
            "ID": str(uuid.uuid4()), "EvalID": self._evaluation["ID"], "JobID": job["ID"], "Job": job,
            "Name": f"{job['ID']}.{group['Name']}[{used}]", "Namespace": job["Namespace"], "TaskGroup": group["Name"],
            "NodeID": node["ID"], "NodeName": node["Name"], "Metrics": metrics, "SigningKeyID": self._signing_key,
            "ClientStatus": "pending", "DesiredStatus": "run", "CreateTime": now, "ModifyTime": now,
            "AllocatedResources": {
                "Shared": {"DiskMB": disk, "Networks": None, "Ports": None},
                "TaskLifecycles": dict.fromkeys(tasks), "Tasks": each,
            },
            "Resources": zero | total | {"MemoryMaxMB": total["MemoryMB"]}, "SharedResources": zero,
            "TaskResources": tasks, "TaskStates": None,
        }  # fmt: skip


def lost_limit(group: Object) -> int | None:
    """Return how long a node may be disconnected before its allocations are lost, in nanoseconds; None for not."""
    if group["Disconnect"] is None:
        return None
    return int(group["Disconnect"]["LostAfter"])


def unknown_since(alloc: Object) -> int | None:
    """Return when an allocation became unknown, in nanoseconds since the epoch; None where it is not."""
    return alloc["ModifyTime"] if alloc["ClientStatus"] == "unknown" else None


def reconnecting_again(alloc: Object) -> bool:
    """Whether a plan takes note of an allocation that is heard of again."""
    return len(alloc.get("AllocStates") or ()) > 1


def reconnecting(alloc: Object) -> bool:
    """Whether an allocation is heard of again, and the servers have not taken note yet."""
    states = alloc.get("AllocStates") or [{"Value": ""}]
    return bool(states[-1]["Value"] == "unknown" and alloc["ClientStatus"] == "running")


def succeeded(alloc: Object) -> bool:
    """Whether every task of an allocation has ended well."""
    states = (alloc["TaskStates"] or {}).values()
    return bool(states) and all(one["State"] == "dead" and not one["Failed"] and _last_code(one) == 0 for one in states)


def _last_code(state: Object) -> int:
    codes = [one["ExitCode"] for one in state["Events"] or [] if one["Type"] == "Terminated"]
    return int(codes[-1]) if codes else -1


def transition(alloc: Object, **wishes: bool) -> Object:
    """Return an allocation with wishes of an operator's.

    Parameters:
        alloc: the allocation.
        wishes: fields of its `DesiredTransition`.
    """
    known = alloc.get("DesiredTransition") or NO_TRANSITION
    return {**alloc, "DesiredTransition": {**known, **wishes}}


def due(at: int) -> float:
    """Return the seconds until a time in nanoseconds."""
    return max(at / NANO - time.time(), 0.0)
