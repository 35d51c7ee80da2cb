"""An emulated Kubernetes cluster for tests: real API, real processes, no cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from agora_conformance.emulators.hosted import Hosted
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


class K8sEmulator(Hosted):
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
        super().__init__("k8s-emulator", port)
        self._timing = timing or Timing()
        self._images = Images(images, missing=(*Images().missing, *missing))
        self._history, self._bookmarks, self._open, self._isolate = history, bookmarks, open, isolate
        self._node_name = node
        self._cluster: Cluster
        self._access: Access
        self._node: Node
        self._control: Control
        self.faults: Faults

    # -- life ----------------------------------------------------------------------------------------------------

    def _failures(self) -> Sequence[BaseException]:
        return self._cluster.failures

    async def _serve(self) -> None:
        self._cluster = Cluster(self._timing, self._images, Runner(isolate=self._isolate), self._history)
        self._access = Access(self._cluster.store, open=self._open)
        self.faults = Faults(self._cluster, self._on_loop)
        self._node = Node(self._cluster, self._node_name, "10.0.0.10")
        for name in ("default", "kube-system"):
            self._cluster.found(name)
        self._control = Control(self._cluster, self._node, self.faults)
        server = Server(self._cluster, self._node, self._access, self.faults, self._bookmarks)
        async with self._answering(self._listen(), server.app()):
            for part in (Scheduler, JobController, Collector, PodCollector):
                self._cluster.spawn(part(self._cluster).run())
            self._node.up()
            try:
                await self._until_closed()
            finally:
                for end in list(self.faults.watches):
                    end("close")
                await self._node.kubelet.stop()
                tasks = list(self._cluster.tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._cluster.runner.close()

    # -- getting there -------------------------------------------------------------------------------------------

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
