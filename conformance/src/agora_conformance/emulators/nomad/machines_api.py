"""Nodes, agents, namespaces, tokens and the system itself."""

from __future__ import annotations

from collections.abc import Callable

from agora_conformance.emulators.nomad import listing
from agora_conformance.emulators.nomad.api import Answer, Ask, Look, found, missing
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.errors import ApiError, Object, denied
from agora_conformance.emulators.nomad.jobspec import REGION
from agora_conformance.emulators.nomad.nodes import VERSION


class Machines:
    """Answers what is asked about machines, and about the cluster itself.

    Parameters:
        cluster: the cluster.
        address: where it answers.
    """

    def __init__(self, cluster: Cluster, address: str) -> None:
        self._cluster, self._store, self._address = cluster, cluster.store, address

    # -- nodes ---------------------------------------------------------------------------------------------------

    def nodes(self, ask: Ask) -> Look:
        """Answer `/v1/nodes`."""
        ask.needs("GET")
        ask.allowed.need_other("node", "read")

        def look() -> Answer:
            items = [
                one for one in self._store.nodes.values() if str(one["ID"]).startswith(ask.query.get("prefix", ""))
            ]
            items.sort(key=lambda one: str(one["ID"]))
            chosen, rest = listing.page(items, ask.query, lambda one: str(one["ID"]))
            return found([listing.node(one) for one in chosen], self._store.table("nodes"), rest)

        return look

    def node(self, ask: Ask) -> Answer | Look:
        """Answer `/v1/node/ID` and what is below it."""
        name, _, action = ask.path.removeprefix("/v1/node/").partition("/")
        nodes = self._cluster.nodes
        if action in ("drain", "eligibility"):
            ask.needs("POST", "PUT")
            ask.allowed.need_other("node", "write")
            body = ask.body if isinstance(ask.body, dict) else {}
            if action == "eligibility":
                index = nodes.eligibility(name, str(body.get("Eligibility") or ""))
                return Answer({"EvalCreateIndex": 0, "EvalIDs": None, "Index": index, "NodeModifyIndex": index}, index)
            index, evaluation = nodes.drain(name, body.get("DrainSpec"), eligible=bool(body.get("MarkEligible")))
            shown = {"EvalCreateIndex": evaluation, "EvalIDs": None, "Index": index, "NodeModifyIndex": index}
            return Answer(shown, index)
        ask.needs("GET")
        ask.allowed.need_other("node", "read")

        def look() -> Answer:
            if action == "allocations":
                items = self._store.node_allocs(name)
                return found(items, max((one["ModifyIndex"] for one in items), default=self._store.table("allocs")))
            if name not in self._store.nodes and len(name) == 36:
                return missing("node not found", self._store.table("nodes"))
            node = nodes.find(name)
            return found(node, node["ModifyIndex"])

        return look

    # -- agents --------------------------------------------------------------------------------------------------

    def agent(self, ask: Ask) -> Answer:
        """Answer `/v1/agent/...`: the agent that is asked is server and client in one."""
        what = ask.path.removeprefix("/v1/agent/")
        ask.needs("GET")
        if what == "health":
            return Answer({"client": {"ok": True, "message": "ok"}, "server": {"ok": True, "message": "ok"}})
        if what == "servers":
            ask.allowed.need_other("agent", "read")
            return Answer([self._address])
        if what not in ("self", "members"):
            raise ApiError(404, "")
        ask.allowed.need_other("agent" if what == "self" else "node", "read")
        member = {
            "Name": f"server.{REGION}", "Addr": "127.0.0.1", "Port": 4648, "Status": "alive",
            "Tags": {"role": "nomad", "region": REGION, "dc": "dc1", "build": VERSION},
            "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
        }  # fmt: skip
        if what == "members":
            return Answer({
                "Members": [member], "ServerDC": "dc1", "ServerName": "server", "ServerRegion": REGION,
            })  # fmt: skip
        node = next(iter(self._cluster.clients.values())).node
        config = {
            "Region": REGION, "Datacenter": node["Datacenter"], "NodeName": node["Name"],
            "Version": {"Version": VERSION, "Revision": "", "VersionPrerelease": "", "VersionMetadata": ""},
            "ACL": {"Enabled": self._cluster.access.enabled},
            "Client": {"Enabled": True, "MaxKillTimeout": self._cluster.max_kill, "NodePool": node["NodePool"]},
            "Server": {"Enabled": True},
        }  # fmt: skip
        stats = {"client": {"node_id": node["ID"]}, "nomad": {"leader": "true", "server": "true"}}
        return Answer({"config": config, "member": member, "stats": stats})

    def status(self, ask: Ask) -> Answer:
        """Answer `/v1/status/...` and `/v1/regions`."""
        ask.needs("GET")
        if ask.path == "/v1/regions":
            return Answer([REGION])
        if ask.path == "/v1/status/leader":
            return Answer("127.0.0.1:4647" if self._cluster.faults.led else "")
        return Answer(["127.0.0.1:4647"])

    def keys(self, ask: Ask) -> Answer:
        """Answer `/.well-known/jwks.json`."""
        ask.needs("GET")
        return Answer(self._cluster.identity.jwks(), headers={"Cache-Control": "max-age=3600"})

    def system(self, ask: Ask) -> Answer:
        """Answer `/v1/system/...`."""
        ask.needs("POST", "PUT")
        if not ask.allowed.management:
            raise denied()
        if ask.path == "/v1/system/gc":
            self._cluster.collect_garbage()
        return Answer()

    # -- namespaces and pools ------------------------------------------------------------------------------------

    def namespaces(self, ask: Ask) -> Answer:
        """Answer `/v1/namespaces` and `/v1/namespace/NAME`."""
        known, index = self._store.namespaces, self._store.table("namespaces")
        if ask.path == "/v1/namespaces":
            ask.needs("GET")
            rights = ask.allowed
            return found([one for name, one in sorted(known.items()) if rights.may("read-job", name)], index)
        name = ask.path.removeprefix("/v1/namespace").strip("/")
        if ask.writes:
            if not ask.allowed.management:
                raise denied()
            body = ask.body if isinstance(ask.body, dict) else {}
            made = body.get("Name") or name
            known[made] = {"Name": made, "Description": body.get("Description", "")}
            return Answer()
        ask.needs("GET")
        if name not in known or not ask.allowed.may("read-job", name):
            return missing("Namespace not found", index)
        return found(known[name], index)

    def pools(self, ask: Ask) -> Answer:
        """Answer `/v1/node/pools`."""
        ask.needs("GET")
        pools = [{"Name": "all", "Description": "Node pool with all nodes in the cluster."},
                 {"Name": "default", "Description": "Default node pool."}]  # fmt: skip
        ask.allowed.need_other("node", "read")
        return found(pools, self._store.index)

    # -- access control ------------------------------------------------------------------------------------------

    def acl(self, ask: Ask) -> Answer:
        """Answer `/v1/acl/...`: policies and tokens."""
        access = self._cluster.access
        if not access.enabled:
            raise ApiError(400, "ACL support disabled")
        what = ask.path.removeprefix("/v1/acl/")
        if what == "token/self":
            token = access.find(ask.token)
            if token is None:
                raise denied()
            return found(token, self._store.index)
        if not ask.allowed.management:
            raise denied()
        answers: dict[str, Callable[[], list[Object]]] = {
            "policies": lambda: list(access.policies.values()), "tokens": lambda: list(access.tokens.values()),
        }  # fmt: skip
        if what in answers:
            return found(answers[what](), self._store.index)
        body = ask.body if isinstance(ask.body, dict) else {}
        if what == "token" and ask.writes:
            management = body.get("Type") == "management"
            return Answer(access.token(list(body.get("Policies") or []), management=management), self._store.index)
        if what.startswith("policy/"):
            return self._policy(ask, what.removeprefix("policy/"), body)
        raise ApiError(404, "")

    def _policy(self, ask: Ask, name: str, body: Object) -> Answer:
        access = self._cluster.access
        if ask.writes:
            access.policy(name, str(body.get("Rules") or ""), str(body.get("Description") or ""))
            return Answer(index=self._store.index)
        if ask.method == "DELETE":
            access.policies.pop(name, None)
            return Answer(index=self._store.index)
        if name not in access.policies:
            return missing("ACL policy not found", self._store.index)
        return found(access.policies[name], self._store.index)
