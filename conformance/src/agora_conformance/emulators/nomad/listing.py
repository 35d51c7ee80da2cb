"""Lists: what of an object they show, which objects, and in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agora_conformance.emulators.nomad import filters
from agora_conformance.emulators.nomad.errors import ApiError, Object
from agora_conformance.emulators.nomad.store import Store

JOB_FIELDS = (
    *("CreateIndex", "Datacenters", "ID", "JobModifyIndex", "ModifyIndex", "Multiregion", "Name", "Namespace"),
    *("NodePool", "ParentID", "Priority", "Status", "StatusDescription", "Stop", "SubmitTime", "Type"),
)
ALLOC_FIELDS = (
    *("ClientStatus", "CreateIndex", "CreateTime", "DesiredStatus", "EvalID", "ID", "JobID", "ModifyIndex"),
    *("ModifyTime", "Name", "Namespace", "NodeID", "NodeName", "TaskGroup"),
)
ALLOC_DEFAULTS: Object = {
    "ClientDescription": "", "DesiredDescription": "", "FollowupEvalID": "", "NextAllocation": "",
    "PreemptedByAllocation": "", "PreemptedAllocations": None, "RescheduleTracker": None, "DeploymentStatus": None,
}  # fmt: skip
TRANSITION = {
    "ForceReschedule": None, "Migrate": None, "MigrateDisablePlacement": None, "NoShutdownDelay": None,
    "Reschedule": None,
}  # fmt: skip
NODE_FIELDS = (
    *("CreateIndex", "Datacenter", "Drain", "Drivers", "HostVolumes", "ID", "LastDrain", "ModifyIndex", "Name"),
    *("NodeClass", "NodePool", "SchedulingEligibility", "Status", "StatusDescription"),
)


def job(store: Store, item: Object, *, meta: bool) -> Object:
    """Return what a list of jobs shows of one."""
    shown = {name: item[name] for name in JOB_FIELDS}
    shown |= {"ParameterizedJob": False, "Periodic": False, "JobSummary": summary(store, item)}
    return shown | {"Meta": item["Meta"]} if meta else shown


def summary(store: Store, item: Object) -> Object:
    """Return how many of a job's allocations are in which state."""
    key = (item["Namespace"], item["ID"])
    counts = {
        group["Name"]: dict.fromkeys(("Complete", "Failed", "Lost", "Queued", "Running", "Starting", "Unknown"), 0)
        for group in item["TaskGroups"]
    }
    last = item["CreateIndex"]
    for alloc in store.job_allocs(key):
        last = max(last, alloc["ModifyIndex"])
        name = "Starting" if alloc["ClientStatus"] == "pending" else alloc["ClientStatus"].capitalize()
        if alloc["TaskGroup"] in counts:
            counts[alloc["TaskGroup"]][name] += 1
    for evaluation in store.job_evals(key):
        if evaluation["Status"] == "blocked":
            for group in evaluation.get("FailedTGAllocs") or {}:
                counts[group]["Queued"] += 1
    return {
        "Children": {"Dead": 0, "Pending": 0, "Running": 0}, "CreateIndex": item["CreateIndex"], "JobID": item["ID"],
        "ModifyIndex": last, "Namespace": item["Namespace"], "Summary": counts,
    }  # fmt: skip


def alloc(item: Object, *, states: bool) -> Object:
    """Return what a list of allocations shows of one."""
    shown = {name: item[name] for name in ALLOC_FIELDS} | {
        name: item.get(name, default) for name, default in ALLOC_DEFAULTS.items()
    }
    return shown | {
        "DesiredTransition": {**TRANSITION, **(item.get("DesiredTransition") or {})},
        "JobType": item["Job"]["Type"], "JobVersion": item["Job"]["Version"],
        "TaskStates": item["TaskStates"] if states else None,
    }  # fmt: skip


def node(item: Object) -> Object:
    """Return what a list of nodes shows of one."""
    shown = {name: item[name] for name in NODE_FIELDS}
    return shown | {"Address": "127.0.0.1", "Version": item["Attributes"]["nomad.version"]}


def page(items: Iterable[Object], query: Mapping[str, str], token: Callable[[Object], str]) -> tuple[list[Object], str]:
    """Choose from a list what a request asks for; return it, and where the next page begins.

    Parameters:
        items: in order of the list.
        query: `filter`, `per_page`, `next_token`, `reverse`.
        token: tells where an object stands.

    Raises:
        ApiError: 400, the filter is none.
    """
    chosen = list(items)
    if query.get("reverse") == "true":
        chosen.reverse()
    if start := query.get("next_token"):
        place = next((number for number, one in enumerate(chosen) if _reached(token(one), start)), len(chosen))
        chosen = chosen[place:]
    if text := query.get("filter"):
        test = filters.parse(text)
        chosen = [one for one in chosen if test(one)]
    try:
        size = int(query.get("per_page") or 0)
    except ValueError:
        raise ApiError(400, f"Failed to parse per_page value: {query['per_page']}") from None
    if not size or len(chosen) <= size:
        return chosen, ""
    return chosen[:size], token(chosen[size])


def _reached(token: str, start: str) -> bool:
    """Whether a place is that of a token or after it; tokens that begin with an index are compared by it."""
    left, right = token.split(".", 1), start.split(".", 1)
    if left[0].isdigit() and right[0].isdigit():
        return (int(left[0]), left[1:]) >= (int(right[0]), right[1:])
    return token >= start
