"""Which node a task group fits on, and the figures that say why not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from agora_conformance.emulators.nomad.errors import Object

METRICS: Object = {
    "AllocationTime": 10000, "ClassExhausted": None, "ClassFiltered": None, "CoalescedFailures": 0,
    "ConstraintFiltered": None, "DimensionExhausted": None, "NodePool": "default", "NodesAvailable": {},
    "NodesEvaluated": 0, "NodesExhausted": 0, "NodesFiltered": 0, "NodesInPool": 0, "QuotaExhausted": None,
    "ResourcesExhausted": None, "ScoreMetaData": None, "Scores": None,
}  # fmt: skip
SCORES = {"binpack": 0.05, "job-anti-affinity": 0.0, "node-affinity": 0.0, "node-reschedule-penalty": 0.0}
#: Resources that can run out: the name in a job, the name in the figures, and where a node says how much it has.
DIMENSIONS = (("CPU", "cpu", ("Cpu", "CpuShares")), ("MemoryMB", "memory", ("Memory", "MemoryMB")))


def choose(job: Object, group: Object, nodes: Iterable[Object], allocs: Iterable[Object]) -> tuple[str, Object]:
    """Return a node's id and the figures of the choice; an empty id where no node fits.

    Parameters:
        job, group: what is to run.
        nodes: every node there is.
        allocs: what runs on them.
    """
    metrics: Object = {**METRICS, "NodePool": job["NodePool"]}
    running = list(allocs)
    pool = [one for one in nodes if one["NodePool"] == job["NodePool"] or job["NodePool"] == "all"]
    ready = [one for one in pool if one["Status"] == "ready" and one["SchedulingEligibility"] == "eligible"]
    there = [one for one in ready if _datacenter(job, one)]
    metrics["NodesInPool"] = len(ready)
    for node in there:
        centers = metrics["NodesAvailable"]
        metrics["NodesAvailable"] = {**centers, node["Datacenter"]: centers.get(node["Datacenter"], 0) + 1}
    for node in there:
        metrics["NodesEvaluated"] += 1
        if reason := _unfit(job, group, node):
            metrics["NodesFiltered"] += 1
            _count(metrics, "ConstraintFiltered", reason)
        elif dimension := _lacking(group, node, running):
            metrics["NodesExhausted"] += 1
            _count(metrics, "DimensionExhausted", dimension)
        else:
            score = sum(SCORES.values())
            metrics["ScoreMetaData"] = [{"NodeID": node["ID"], "NormScore": score, "Scores": dict(SCORES)}]
            return str(node["ID"]), metrics
    if metrics["DimensionExhausted"]:
        metrics["ResourcesExhausted"] = _exhausted(group, metrics["DimensionExhausted"])
    return "", metrics


def _count(metrics: Object, name: str, what: str) -> None:
    known = metrics[name] or {}
    metrics[name] = {**known, what: known.get(what, 0) + 1}


def _datacenter(job: Object, node: Object) -> bool:
    patterns = (re.escape(one).replace(r"\*", ".*") for one in job["Datacenters"])
    return any(re.fullmatch(one, node["Datacenter"]) for one in patterns)


def _unfit(job: Object, group: Object, node: Object) -> str:
    """Return the constraint that filters a node out, or nothing."""
    constraints = [*(job["Constraints"] or []), *(group["Constraints"] or [])]
    for task in group["Tasks"]:
        constraints += task["Constraints"] or []
    for task in group["Tasks"]:
        if not (node["Drivers"].get(task["Driver"]) or {}).get("Healthy"):
            return "missing drivers"
    for one in constraints:
        if not _meets(one, node):
            return f"{one['LTarget']} {one['Operand']} {one['RTarget']}".strip()
    return ""


def _meets(constraint: Object, node: Object) -> bool:
    left, operand, right = (target(constraint[name], node) for name in ("LTarget", "Operand", "RTarget"))
    if operand in ("distinct_hosts", "distinct_property"):
        return True
    if operand == "is_set":
        return left is not None
    if operand == "is_not_set":
        return left is None
    if operand in ("!=", "not"):
        return left != right
    if left is None or right is None:
        return False
    wanted = {one.strip() for one in right.split(",")}
    given = {one.strip() for one in left.split(",")}
    tests: dict[str | None, Any] = {
        "=": left == right, "==": left == right, "is": left == right, "<": left < right, "<=": left <= right,
        ">": left > right, ">=": left >= right, "set_contains": wanted <= given, "set_contains_all": wanted <= given,
        "set_contains_any": bool(wanted & given), "regexp": operand == "regexp" and bool(re.search(right, left)),
        # Versions are compared no further than that.
        "version": True, "semver": True,
    }  # fmt: skip
    return bool(tests.get(operand, False))


def target(text: str, node: Object) -> str | None:
    """Return what a constraint's side stands for on a node; None for something that the node does not say."""
    found = re.fullmatch(r"\$\{(.*)\}", text)
    if found is None:
        return text
    name = found[1]
    known = {
        "node.unique.id": node["ID"], "node.unique.name": node["Name"], "node.datacenter": node["Datacenter"],
        "node.class": node["NodeClass"], "node.pool": node["NodePool"], "node.region": "global",
    }  # fmt: skip
    if name in known:
        return str(known[name])
    for prefix, values in (("attr.", node["Attributes"]), ("meta.", node["Meta"])):
        if name.startswith(prefix):
            value = (values or {}).get(name.removeprefix(prefix))
            return None if value is None else str(value)
    return None


def _lacking(group: Object, node: Object, allocs: list[Object]) -> str:
    """Return what a node has too little of, or nothing."""
    used = [one for one in allocs if one["NodeID"] == node["ID"]]
    for name, dimension, (kind, field) in DIMENSIONS:
        asked = sum(task["Resources"][name] for task in group["Tasks"])
        taken = sum(one[name] for alloc in used for one in alloc["TaskResources"].values())
        if asked + taken > node["NodeResources"][kind][field]:
            return dimension
    return ""


def _exhausted(group: Object, dimensions: Object) -> Object:
    """Return how much of what had run out each task asked for."""
    names = {name for name, dimension, _ in DIMENSIONS if dimension in dimensions}
    zero = {
        "CPU": 0, "Cores": 0, "Devices": None, "DiskMB": 0, "IOPS": 0, "MemoryMB": 0, "MemoryMaxMB": 0, "NUMA": None,
        "Networks": None, "SecretsMB": 0,
    }  # fmt: skip
    return {task["Name"]: zero | {name: task["Resources"][name] for name in names} for task in group["Tasks"]}
