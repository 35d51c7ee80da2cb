"""Why a job is not placed: what an evaluation says, and what can be seen before a job is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from agora.errors import InvalidRequest

from agora_nomad.config import Driver


def why_not(evaluation: Mapping[str, Any]) -> str | None:
    """Put an evaluation's `FailedTGAllocs` into words; null where it placed everything."""
    failed = evaluation.get("FailedTGAllocs") or {}
    said = [_metric(metric) for metric in failed.values()]
    return "; ".join(dict.fromkeys(said)) or None


def _metric(metric: Mapping[str, Any]) -> str:
    seen = metric.get("NodesEvaluated") or 0
    if not seen:
        pool = metric.get("NodePool") or "default"
        known = metric.get("NodesAvailable") or {}
        if not metric.get("NodesInPool"):
            return f"no node is ready in the node pool {pool!r}"
        if not any(known.values()):
            return "no node is ready in the wanted datacenters"
    said: list[str] = []
    for key, words in (("ConstraintFiltered", "{what}"), ("ClassFiltered", "node class {what}")):
        said += [f"{words.format(what=what)} on {count} of {seen} nodes" for what, count in _counts(metric, key)]
    for key in ("DimensionExhausted", "ClassExhausted"):
        said += [f"{what} exhausted on {count} of {seen} nodes" for what, count in _counts(metric, key)]
    said += [f"quota exhausted: {what}" for what in metric.get("QuotaExhausted") or ()]
    return ", ".join(said) or f"none of {seen} nodes fits"


def _counts(metric: Mapping[str, Any], key: str) -> list[tuple[str, int]]:
    return sorted((metric.get(key) or {}).items())


def refuse_unknown(
    nodes: Sequence[Mapping[str, Any]], driver: Driver, datacenters: Sequence[str], pool: str | None
) -> None:
    """Refuse what no node of the cluster is able to run, ready or not; Nomad itself would wait for ever.

    Raises:
        InvalidRequest: names the datacenter, the node pool or the driver.
    """
    if not nodes:
        return
    patterns = list(datacenters) or ["*"]
    there = [node for node in nodes if any(fnmatchcase(node.get("Datacenter") or "", pattern) for pattern in patterns)]
    if not there:
        known = ", ".join(sorted({node.get("Datacenter") or "" for node in nodes}))
        raise InvalidRequest(f"options.datacenters: no node is in {', '.join(patterns)}; there are {known}")
    if pool not in (None, "all"):
        there = [node for node in there if node.get("NodePool", "default") == pool]
        if not there:
            raise InvalidRequest(f"options.node_pool: no node of these datacenters is in {pool!r}")
    if not any(((node.get("Drivers") or {}).get(driver) or {}).get("Detected") for node in there):
        raise InvalidRequest(f"options.driver: no node that could be chosen has the driver {driver}")
