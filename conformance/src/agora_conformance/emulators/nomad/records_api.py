"""Allocations and evaluations: read, stopped, signalled."""

from __future__ import annotations

from agora_conformance.emulators.nomad import listing
from agora_conformance.emulators.nomad.api import Answer, Ask, Look, found, missing
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.errors import ApiError, Object, denied, not_uuid
from agora_conformance.emulators.nomad.plan import transition

UUID = 36


class Records:
    """Answers what is asked about allocations and evaluations.

    Parameters:
        cluster: the cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._store = cluster, cluster.store

    def _shown(self, item: Object, ask: Ask, capability: str) -> bool:
        namespace = ask.namespace
        return (
            (item["Namespace"] == namespace or namespace == "*")
            and ask.allowed.may(capability, item["Namespace"])
            and item["ID"].startswith(ask.query.get("prefix", ""))
            and not self._cluster.faults.hides(item["JobID"])
        )

    def _listable(self, ask: Ask) -> None:
        rights, namespace = ask.allowed, ask.namespace
        if not (rights.any_namespace("read-job") if namespace == "*" else rights.may("read-job", namespace)):
            raise denied()

    # -- allocations ---------------------------------------------------------------------------------------------

    def allocations(self, ask: Ask) -> Look:
        """Answer `/v1/allocations`."""
        ask.needs("GET")
        self._listable(ask)
        states = ask.query.get("task_states") != "false"

        def look() -> Answer:
            items = [one for one in self._store.allocs.values() if self._shown(one, ask, "read-job")]
            items.sort(key=lambda one: (one["CreateIndex"], one["ID"]))
            chosen, rest = listing.page(items, ask.query, lambda one: f"{one['CreateIndex']}.{one['ID']}")
            return found([listing.alloc(one, states=states) for one in chosen], self._store.table("allocs"), rest)

        return look

    def allocation(self, ask: Ask) -> Answer | Look:
        """Answer `/v1/allocation/ID` and `/v1/allocation/ID/stop`."""
        name, _, action = ask.path.removeprefix("/v1/allocation/").partition("/")
        if action == "stop":
            ask.needs("POST", "PUT")
            return self._stop(ask, name)
        if action:
            raise ApiError(404, f'resource not found, got "{action}"')
        ask.needs("GET")
        rights = ask.allowed

        def look() -> Answer:
            alloc = self._store.allocs.get(name)
            if alloc is None or self._cluster.faults.hides(alloc["JobID"]):
                if len(name) != UUID:
                    raise not_uuid("alloc")
                return missing("alloc not found", self._store.table("allocs"))
            if not rights.may("read-job", alloc["Namespace"]):
                raise ApiError(500, f'Unknown allocation "{name}"')
            return found(alloc, alloc["ModifyIndex"])

        return look

    def _stop(self, ask: Ask, name: str) -> Answer:
        """Stop an allocation; its job gets another one."""
        rights, alloc = ask.allowed, self._store.allocs.get(name)
        if alloc is None:
            raise not_uuid("alloc") if len(name) != UUID else ApiError(404, f'Unknown allocation "{name}"')
        rights.need("alloc-lifecycle", alloc["Namespace"])
        wishes = {"Migrate": True, "Reschedule": False, "NoShutdownDelay": ask.flag("no_shutdown_delay")}
        with self._store.write("AllocationUpdateDesiredStatus") as txn:
            txn.alloc(transition(alloc, **wishes))
            made = self._cluster.scheduler.make(
                alloc["Job"], "alloc-stop", JobModifyIndex=alloc["Job"]["JobModifyIndex"]
            )
            evaluation = txn.eval(made)
        self._cluster.scheduler.enqueue(evaluation)
        return Answer({"EvalID": evaluation["ID"], "Index": evaluation["CreateIndex"]}, evaluation["CreateIndex"])

    # -- evaluations ---------------------------------------------------------------------------------------------

    def evaluations(self, ask: Ask) -> Look:
        """Answer `/v1/evaluations`."""
        ask.needs("GET")
        self._listable(ask)

        def look() -> Answer:
            items = [
                one
                for one in self._store.evals.values()
                if self._shown(one, ask, "read-job")
                and ask.query.get("job") in (None, "", one["JobID"])
                and ask.query.get("status") in (None, "", one["Status"])
            ]
            items.sort(key=lambda one: (one["CreateIndex"], one["ID"]))
            chosen, rest = listing.page(items, ask.query, lambda one: f"{one['CreateIndex']}.{one['ID']}")
            return found(chosen, self._store.table("evals"), rest)

        return look

    def evaluation(self, ask: Ask) -> Look:
        """Answer `/v1/evaluation/ID` and `/v1/evaluation/ID/allocations`."""
        name, _, view = ask.path.removeprefix("/v1/evaluation/").partition("/")
        ask.needs("GET")
        rights = ask.allowed

        def look() -> Answer:
            evaluation = self._store.evals.get(name)
            if evaluation is None or self._cluster.faults.hides(evaluation["JobID"]):
                if len(name) != UUID:
                    raise ApiError(500, f"failed to lookup eval: {not_uuid('eval')}")
                return missing("eval not found", self._store.table("evals"))
            rights.need("read-job", evaluation["Namespace"])
            if view != "allocations":
                return found(evaluation, evaluation["ModifyIndex"])
            items = [one for one in self._store.allocs.values() if one["EvalID"] == name]
            return found([listing.alloc(one, states=True) for one in items], self._store.table("allocs"))

        return look

    # -- what goes to a client -----------------------------------------------------------------------------------

    def signal(self, ask: Ask) -> Answer:
        """Answer `/v1/client/allocation/ID/signal`."""
        name, _, action = ask.path.removeprefix("/v1/client/allocation/").partition("/")
        if action != "signal":
            raise ApiError(404, f'resource not found, got "{action}"')
        ask.needs("POST", "PUT")
        rights, alloc = ask.allowed, self._store.allocs.get(name)
        rights.need("alloc-lifecycle", ask.namespace if alloc is None else alloc["Namespace"])
        client = self._cluster.client(name)
        runner = client.runner(name)
        if runner is None:
            raise ApiError(404, f'Unknown allocation "{name}"')
        body = ask.body if isinstance(ask.body, dict) else {}
        runner.signal(str(body.get("Task") or ""), str(body.get("Signal") or ""))
        return Answer({"Index": 0})
