"""What goes past the API: the node, its processes, and the faults; also over HTTP, for other processes."""

from __future__ import annotations

from aiohttp import web

from agora_conformance.emulators.hosted import switch
from agora_conformance.emulators.k8s import selectors
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.errors import ApiError, Object, bad_request
from agora_conformance.emulators.k8s.faults import Faults
from agora_conformance.emulators.k8s.nodes import Node
from agora_conformance.emulators.k8s.resources import NODES
from agora_conformance.emulators.runner import Container

#: Where the paths of this begin; the API of a real cluster has nothing there.
CONTROL = "/emulator/"
FAULTS = (
    *("throttle", "fail", "slow", "stall", "cut", "hide_created", "lose_events", "expire", "cut_watches", "skew"),
    "clear",
)


class Control:
    """Looks at the node, moves it, and switches faults; all on the emulator's event loop.

    Parameters:
        cluster: the cluster.
        node: its node.
        faults: its faults.
    """

    def __init__(self, cluster: Cluster, node: Node, faults: Faults) -> None:
        self._cluster, self._node, self._faults = cluster, node, faults

    def containers(self, selector: str) -> list[Container]:
        """Return the containers of the chosen pods; those of pods that are gone from the API are among them."""
        test = selectors.labels(selector)
        sandboxes = [one for one in self._node.kubelet.sandboxes.values() if test(one.pod)]
        return [container for sandbox in sandboxes for container in sandbox.containers.values()]

    def processes(self, selector: str) -> list[int]:
        """Return the live processes of the chosen pods."""
        return [pid for container in self.containers(selector) for pid in container.processes()]

    def terms(self, selector: str) -> list[float]:
        """Return when SIGTERM was sent to the containers of the chosen pods."""
        return sorted(at for container in self.containers(selector) for at in container.terms)

    async def node_away(self) -> None:
        """Kill the kubelet."""
        await self._node.away()

    def node_back(self) -> None:
        """Start the kubelet again."""
        self._node.back()

    def delete_node(self) -> None:
        """Delete the node object."""
        self._cluster.store.remove(NODES, "", self._node.name)

    async def do(self, method: str, path: str, request: web.Request) -> Object:
        """Carry out a request: GET processes and terms, POST node/{away,back,deleted} and faults/NAME.

        Raises:
            ApiError: 400 or 404.
        """
        selector = request.query.get("labelSelector", "")
        match method, path:
            case "GET", "processes":
                return {"processes": self.processes(selector)}
            case "GET", "terms":
                return {"terms": self.terms(selector)}
            case "POST", "node/away":
                await self.node_away()
            case "POST", "node/back":
                self.node_back()
            case "POST", "node/deleted":
                self.delete_node()
            case "POST", fault if fault.removeprefix("faults/") in FAULTS:
                if problem := switch(getattr(self._faults, fault.removeprefix("faults/")), await request.read()):
                    raise bad_request(problem)
            case _:
                raise ApiError(404, "NotFound", "the emulator knows no such control", {})
        return {}
