"""An emulated Kubernetes cluster for tests: real API, real processes, no cluster."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from agora_conformance.emulators.k8s.access import Access
from agora_conformance.emulators.k8s.admission import admit
from agora_conformance.emulators.k8s.clock import Timing
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.collector import Collector
from agora_conformance.emulators.k8s.control import Control
from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.faults import Faults
from agora_conformance.emulators.k8s.jobs import JobController
from agora_conformance.emulators.k8s.nodes import Node, PodCollector, Scheduler
from agora_conformance.emulators.k8s.resources import BY_KIND
from agora_conformance.emulators.k8s.server import Server
from agora_conformance.emulators.k8s.streams import BOOKMARKS
from agora_conformance.emulators.runner import Image, Images, Runner

#: Seconds to start and to stop.
LIMIT = 60.0


class K8sEmulator:
    """A cluster on a port of the loopback interface, in a thread of its own.

    Use it with `with` or `async with`; every method may be called from any thread. When it closes, every process
    that it has started is gone.

    Parameters:
        timing: how long its parts take; `Timing().scaled(0.2)` is five times as fast, graces included.
        images: what image names stand for, by name or pattern; every other name runs commands on this host.
        missing: patterns of image names that cannot be pulled, beside `missing/...`.
        history: changes that a watch may go back before it gets 410.
        bookmarks: seconds between two bookmarks.
        open: requests without a token are the administrator's; else they are `system:anonymous`.
        isolate: give each container a PID namespace of its own where the kernel allows it.
        node: name of the node.
        port: to listen on; 0 for any.
    """

    def __init__(
        self,
        *,
        timing: Timing | None = None,
        images: dict[str, Image] | None = None,
        missing: tuple[str, ...] = (),
        history: int = 5000,
        bookmarks: float = BOOKMARKS,
        open: bool = True,
        isolate: bool = True,
        node: str = "node-1",
        port: int = 0,
    ) -> None:
        self._timing = timing or Timing()
        self._images = Images(images, missing=(*Images().missing, *missing))
        self._history, self._bookmarks, self._open, self._isolate = history, bookmarks, open, isolate
        self._node_name, self._port = node, port
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._cluster: Cluster
        self._access: Access
        self._node: Node
        self._control: Control
        self.faults: Faults

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._thread = threading.Thread(target=self._main, name="k8s-emulator", daemon=True)
        self._thread.start()
        if not self._ready.wait(LIMIT):
            raise TimeoutError("the emulator did not start")
        if self._problem is not None:
            raise self._problem
        return self

    def close(self) -> None:
        """Kill every container, stop serving, and raise what went wrong inside."""
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
        if self._cluster.failures:
            raise ExceptionGroup(
                "the emulator failed inside", [e for e in self._cluster.failures if isinstance(e, Exception)]
            )

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
        self._cluster = Cluster(self._timing, self._images, Runner(isolate=self._isolate), self._history)
        self._access = Access(self._cluster.store, open=self._open)
        self.faults = Faults(self._cluster, self._on_loop)
        self._node = Node(self._cluster, self._node_name, "10.0.0.10")
        for name in ("default", "kube-system"):
            self._cluster.found(name)
        self._control = Control(self._cluster, self._node, self.faults)
        server = Server(self._cluster, self._node, self._access, self.faults, self._bookmarks)
        runner = web.AppRunner(server.app(), access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", self._port))
        self.port = listener.getsockname()[1]
        await web.SockSite(runner, listener).start()
        for part in (Scheduler, JobController, Collector, PodCollector):
            self._cluster.spawn(part(self._cluster).run())
        self._node.up()
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            for end in list(self.faults.watches):
                end("close")
            await self._node.kubelet.stop()
            tasks = list(self._cluster.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._cluster.runner.close()
            await runner.cleanup()

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
        """Where the API server answers."""
        return f"http://127.0.0.1:{self.port}"

    def token(self, user: str) -> str:
        """Return a token of a user who may do only what loaded Roles allow.

        Parameters:
            user: such as `system:serviceaccount:NAMESPACE:NAME`.
        """
        token: str = self._on_loop(lambda: self._access.token(user))
        return token

    def kubeconfig(self, path: Path, *, token: str | None = None, namespace: str = "default") -> Path:
        """Write a kubeconfig and return its path; without a token it is the administrator's."""
        user = {"token": token or self._access.admin_token}
        body = {
            "apiVersion": "v1", "kind": "Config", "current-context": "emulator",
            "clusters": [{"name": "emulator", "cluster": {"server": self.url}}],
            "users": [{"name": "emulator", "user": user}],
            "contexts": [{"name": "emulator",
                          "context": {"cluster": "emulator", "user": "emulator", "namespace": namespace}}],
        }  # fmt: skip
        path.touch(mode=0o600)
        path.write_text(json.dumps(body, indent=2), encoding="utf-8")
        return path

    def load(self, documents: Iterable[Object], *, namespace: str = "default") -> None:
        """Create objects, such as Roles and their bindings, from parsed manifests."""

        def create() -> None:
            for document in documents:
                resource = BY_KIND[document["apiVersion"], document["kind"]]
                item, _ = admit(resource, document)
                where = document["metadata"].get("namespace") or namespace
                self._cluster.store.create(resource, where if resource.namespaced else "", item)
                if resource.kind == "Namespace":
                    self._cluster.furnish(item["metadata"]["name"])

        self._on_loop(create)

    # -- the world outside the API -------------------------------------------------------------------------------

    def processes(self, selector: str = "") -> list[int]:
        """Return the live processes of the pods that a label selector chooses, seen from the node.

        Pods whose object is gone are among them as long as a process of theirs lives.
        """
        found: list[int] = self._on_loop(lambda: self._control.processes(selector))
        return found

    def terms(self, selector: str = "") -> list[float]:
        """Return when SIGTERM was sent to the containers of the chosen pods, in seconds since the epoch."""
        found: list[float] = self._on_loop(lambda: self._control.terms(selector))
        return found

    def node_away(self) -> None:
        """Kill the kubelet: containers run on, nobody reports them, and deletes are not carried out."""
        self._await(self._control.node_away())

    def node_back(self) -> None:
        """Start the kubelet again."""
        self._on_loop(self._control.node_back)

    def delete_node(self) -> None:
        """Delete the node object, as a cloud's controller does with a machine that it takes for dead."""
        self._on_loop(self._control.delete_node)
