"""An emulated Nomad cluster for tests: real API, real processes, no cluster."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

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

#: Seconds to start and to stop.
LIMIT = 60.0


class NomadEmulator:
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
        self._timing = timing or Timing()
        self._images = Images(images, missing=(*Images().missing, *missing))
        self._acl, self._buffer, self._names, self._isolate = acl, buffer, nodes, isolate
        self._max_kill = int(max_kill_timeout * NANO)
        self._datacenter, self._pool, self._meta = datacenter, pool, dict(meta or {})
        self._environment = agent_environment() if environment is None else dict(environment)
        self._identity, self._port = Identity(identity or str(uuid.uuid4())), port
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._cluster: Cluster
        self._control: Control
        self.faults: Faults

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._thread = threading.Thread(target=self._main, name="nomad-emulator", daemon=True)
        self._thread.start()
        if not self._ready.wait(LIMIT):
            raise TimeoutError("the emulator did not start")
        if self._problem is not None:
            raise self._problem
        return self

    def close(self) -> None:
        """Kill every task, stop serving, and raise what went wrong inside."""
        if self._thread is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LIMIT)
        if self._thread.is_alive():
            raise TimeoutError("the emulator did not stop")
        self._thread = None
        if self._problem is not None:
            raise self._problem
        if failures := self._cluster.tasks.failures:
            raise ExceptionGroup("the emulator failed inside", [one for one in failures if isinstance(one, Exception)])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to whoever closes it
            self._problem = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.faults = Faults(self._on_loop, self._timing.leader)
        runner = Runner(isolate=self._isolate)
        folder = Path(tempfile.mkdtemp(prefix="agora-nomad-"))
        try:
            self._cluster = self._build(runner, folder)
            self._control = Control(self._cluster)
            await self._listen(runner)
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

    async def _listen(self, runner: Runner) -> None:
        listener = socket.create_server(("127.0.0.1", self._port))
        self.port = listener.getsockname()[1]
        server = Server(self._cluster, self._control, f"127.0.0.1:{self.port}")
        serving = web.AppRunner(server.app(), access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await serving.setup()
        await web.SockSite(serving, listener).start()
        for client in self._cluster.clients.values():
            client.start()
        try:
            await self._until_ready()
            self._ready.set()
            await self._stop.wait()
        finally:
            for end in list(self.faults.streams):
                end()
            await self._cluster.tasks.cancel()
            await runner.close()
            await serving.cleanup()

    async def _until_ready(self) -> None:
        store = self._cluster.store
        while len(store.nodes) < len(self._names) or any(one["Status"] != "ready" for one in store.nodes.values()):
            await store.news.wait()

    def _on_loop(self, work: Callable[[], Any]) -> Any:
        if threading.current_thread() is self._thread:
            return work()

        async def run() -> Any:
            return work()

        return self._await(run())

    def _await(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    # -- getting there -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the agent answers: `NOMAD_ADDR`."""
        return f"http://127.0.0.1:{self.port}"

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
