"""What goes past the API: nodes, their processes, and the faults; also over HTTP, for other processes."""

from __future__ import annotations

import asyncio

from aiohttp import web

from agora_conformance.emulators.hosted import switch
from agora_conformance.emulators.nomad.client import Client
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.errors import ApiError, Object

#: Where the paths of this begin; the API of a real agent has nothing there.
CONTROL = "/emulator/"
FAULTS = (
    *("throttle", "fail", "forbid", "slow", "stall", "cut", "mend", "leaderless", "hide", "show", "lose_events"),
    *("silence_streams", "cut_streams", "lose_exit_codes", "clear"),
)


class Control:
    """Looks at machines, moves them, and switches faults; all on the emulator's event loop.

    Parameters:
        cluster: the cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def processes(self, job: str) -> list[int]:
        """Return the live processes of a job."""
        return [pid for container in self._cluster.containers(job) for pid in container.processes()]

    def terms(self, job: str) -> list[float]:
        """Return when SIGTERM was sent to a job's tasks."""
        return sorted(at for container in self._cluster.containers(job) for at in container.terms)

    def _client(self, node: str) -> Client:
        clients = list(self._cluster.clients.values())
        return next((one for one in clients if node in (one.node["ID"], one.node["Name"])), clients[0])

    async def node_away(self, node: str = "") -> None:
        """Kill a node's agent."""
        await self._client(node).stop()

    def node_back(self, node: str = "") -> None:
        """Start a node's agent again."""
        self._client(node).start(self._cluster.timing.client_start)

    def server_away(self) -> None:
        """Let the servers answer nobody, the clients included."""
        self._cluster.gate.set(False)
        for client in self._cluster.clients.values():
            client.server_away()

    def server_back(self) -> None:
        """Let the servers answer again; they find that they have not heard of the clients."""
        self._cluster.gate.set(True)
        self._cluster.store.wake()
        self._cluster.tasks.spawn(self._returned())

    async def _returned(self) -> None:
        await asyncio.sleep(self._cluster.timing.observe * 4)
        for client in self._cluster.clients.values():
            if client.up:
                client.returned()

    def collect_garbage(self) -> None:
        """Forget what is over."""
        self._cluster.collect_garbage()

    async def do(self, method: str, path: str, request: web.Request) -> Object:
        """Carry out a request: GET processes and terms, POST node/{away,back}, server/{away,back}, gc, faults/NAME.

        Raises:
            ApiError: 400 or 404.
        """
        job, node = request.query.get("job", ""), request.query.get("node", "")
        match method, path:
            case "GET", "processes":
                return {"processes": self.processes(job)}
            case "GET", "terms":
                return {"terms": self.terms(job)}
            case "POST", "node/away":
                await self.node_away(node)
            case "POST", "node/back":
                self.node_back(node)
            case "POST", "server/away":
                self.server_away()
            case "POST", "server/back":
                self.server_back()
            case "POST", "gc":
                self.collect_garbage()
            case "POST", fault if fault.removeprefix("faults/") in FAULTS:
                if problem := switch(
                    getattr(self._cluster.faults, fault.removeprefix("faults/")), await request.read()
                ):
                    raise ApiError(400, problem)
            case _:
                raise ApiError(404, "the emulator knows no such control")
        return {}
