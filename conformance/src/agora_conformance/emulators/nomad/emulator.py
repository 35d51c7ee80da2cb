"""An emulated Nomad cluster for tests: real API, real processes, no cluster."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from agora_conformance.emulators.hosted import Hosted
from agora_conformance.emulators.nomad.access import Access
from agora_conformance.emulators.nomad.client import Client
from agora_conformance.emulators.nomad.cluster import Cluster, Tasks
from agora_conformance.emulators.nomad.control import Control
from agora_conformance.emulators.nomad.drivers import Driver
from agora_conformance.emulators.nomad.faults import Faults
from agora_conformance.emulators.nomad.gate import Gate
from agora_conformance.emulators.nomad.identity import Identity
from agora_conformance.emulators.nomad.nodes import Nodes, describe
from agora_conformance.emulators.nomad.scheduler import Scheduler
from agora_conformance.emulators.nomad.server import Server
from agora_conformance.emulators.nomad.store import Store
from agora_conformance.emulators.nomad.task import Host, agent_environment
from agora_conformance.emulators.nomad.task_variables import TaskVariables
from agora_conformance.emulators.nomad.timing import NANO, Timing, duration
from agora_conformance.emulators.runner import Image, Images, Runner


class NomadEmulator(Hosted):
    """A cluster on a port of the loopback interface, in a thread of its own.

    Use it with `with` or `async with`; every method may be called from any thread. When it closes, every process
    that it has started is gone.

    Parameters:
        timing: how long its parts take; `Timing().scaled(0.2)` is five times as fast, kill timeouts included.
        images: what image names stand for, by name or pattern; every other name runs commands on this host.
        missing: patterns of image names that cannot be pulled, beside `missing/...`.
        acl: requests need a token.
        max_kill_timeout: the clients' setting, in seconds of the API.
        buffer: entries that an event stream can go back.
        nodes: names of the nodes.
        datacenter, pool, meta: what the nodes' agents are configured with.
        environment: the agents' own variables; None for a few of this process.
        isolate: give tasks of exec and docker a PID namespace of their own where the kernel allows it.
        identity: clusters with the same one have the same keys; None for one of its own.
        port: to listen on; 0 for any.
    """

    def __init__(
        self,
        *,
        timing: Timing | None = None,
        images: dict[str, Image] | None = None,
        missing: tuple[str, ...] = (),
        acl: bool = False,
        max_kill_timeout: float = 30.0,
        buffer: int = 100,
        nodes: tuple[str, ...] = ("node-1",),
        datacenter: str = "dc1",
        pool: str = "default",
        meta: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        isolate: bool = True,
        identity: str | None = None,
        port: int = 0,
    ) -> None:
        super().__init__("nomad-emulator", port)
        self._timing = timing or Timing()
        self._images = Images(images, missing=(*Images().missing, *missing))
        self._acl, self._buffer, self._names, self._isolate = acl, buffer, nodes, isolate
        self._max_kill = int(max_kill_timeout * NANO)
        self._datacenter, self._pool, self._meta = datacenter, pool, dict(meta or {})
        self._environment = agent_environment() if environment is None else dict(environment)
        self._identity = Identity(identity or str(uuid.uuid4()))
        self._cluster: Cluster
        self._control: Control
        self.faults: Faults

    # -- life ----------------------------------------------------------------------------------------------------

    def _failures(self) -> Sequence[BaseException]:
        return self._cluster.tasks.failures

    async def _serve(self) -> None:
        self.faults = Faults(self._on_loop, self._timing.leader)
        runner = Runner(isolate=self._isolate)
        folder = Path(tempfile.mkdtemp(prefix="agora-nomad-"))
        try:
            self._cluster = self._build(runner, folder)
            self._control = Control(self._cluster)
            await self._answer(runner)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _build(self, runner: Runner, folder: Path) -> Cluster:
        store, tasks, gate, timing = Store(self._buffer), Tasks(), Gate(), self._timing
        scheduler = Scheduler(store, timing, tasks.spawn, self._identity.key_id)
        nodes = Nodes(store, scheduler, timing, tasks.spawn, gate.passed)
        driver = Driver(runner, self._images)
        host = Host(
            driver, timing, tasks.spawn, self.faults.lose_exit, self._environment, self._max_kill,
            TaskVariables(store, self._acl),
        )  # fmt: skip
        clients = {}
        for name in self._names:
            node = describe(str(uuid.uuid4()), name, self._datacenter, self._pool, self._meta)
            clients[node["ID"]] = Client(store, nodes, scheduler, host, node, folder / name, gate)
        access = Access(enabled=self._acl)
        return Cluster(
            store, scheduler, nodes, clients, access, self.faults, timing, tasks, gate, self._identity,
            duration(self._max_kill),
        )  # fmt: skip

    async def _answer(self, runner: Runner) -> None:
        listener = self._listen()
        server = Server(self._cluster, self._control, f"127.0.0.1:{self.port}")
        async with self._answering(listener, server.app()):
            for client in self._cluster.clients.values():
                client.start()
            try:
                await self._until_ready()
                await self._until_closed()
            finally:
                for end in list(self.faults.streams):
                    end()
                await self._cluster.tasks.cancel()
                await runner.close()

    async def _until_ready(self) -> None:
        store = self._cluster.store
        while len(store.nodes) < len(self._names) or any(one["Status"] != "ready" for one in store.nodes.values()):
            await store.news.wait()

    # -- getting there -------------------------------------------------------------------------------------------

    @property
    def management_token(self) -> str:
        """The token that may do everything, where tokens are needed."""
        return str(self._cluster.access.bootstrap)

    def token(self, *policies: str) -> str:
        """Return a new token.

        Parameters:
            policies: what it may do, each a policy in HCL or JSON.
        """

        def make() -> str:
            access, names = self._cluster.access, []
            for rules in policies:
                names.append(f"policy-{len(access.policies)}")
                access.policy(names[-1], rules)
            return str(access.token(names)["SecretID"])

        token: str = self._on_loop(make)
        return token

    def namespace(self, name: str) -> None:
        """Create a namespace."""
        known = {"Name": name, "Description": ""}
        self._on_loop(lambda: self._cluster.store.namespaces.__setitem__(name, known))

    def collect_garbage(self) -> None:
        """Forget jobs that are dead, with their evaluations and allocations, as the servers do after hours."""
        self._on_loop(self._control.collect_garbage)

    # -- the world outside the API -------------------------------------------------------------------------------

    def processes(self, job: str = "") -> list[int]:
        """Return the live processes of a job, seen from the node; of every job without an id.

        Those of a job that the servers know no more are among them as long as they live.
        """
        found: list[int] = self._on_loop(lambda: self._control.processes(job))
        return found

    def terms(self, job: str = "") -> list[float]:
        """Return when SIGTERM was sent to a job's tasks, in seconds since the epoch."""
        found: list[float] = self._on_loop(lambda: self._control.terms(job))
        return found

    def node_away(self, node: str = "") -> None:
        """Kill a node's agent, the first one's without a name: tasks run on, and nobody reports or stops them."""
        self._await(self._control.node_away(node))

    def node_back(self, node: str = "") -> None:
        """Start a node's agent again."""
        self._on_loop(lambda: self._control.node_back(node))

    def server_away(self) -> None:
        """Freeze the servers: no request is answered, and the clients miss them."""
        self._on_loop(self._control.server_away)

    def server_back(self) -> None:
        """Let the servers go on."""
        self._on_loop(self._control.server_back)
