"""The kubelet: it watches the pods of its node, one worker a pod, and can be away."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.environment import Maker
from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.pod_worker import PodWorker, Sandbox
from agora_conformance.emulators.k8s.resources import PODS, Resource


@dataclass
class Kubelet:
    """The agent of one node.

    Parameters:
        cluster: where it reports to.
        node, address: name and address of its node.
        sandboxes: what the container runtime holds, by the uid of the pod; it outlives the kubelet's absence.
        up: whether the kubelet runs.
    """

    cluster: Cluster
    node: str
    address: str
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    up: bool = False
    _workers: dict[str, tuple[PodWorker, asyncio.Task[None]]] = field(default_factory=dict)
    _loop: asyncio.Task[None] | None = None

    def start(self, delay: float = 0.0) -> None:
        """Start the kubelet; it takes over what the runtime still holds."""
        if not self.up:
            self.up = True
            self._loop = self.cluster.spawn(self._run(delay))

    async def stop(self) -> None:
        """Kill the kubelet, not what it has started: containers run on."""
        self.up = False
        tasks = [task for _, task in self._workers.values()]
        if self._loop is not None:
            tasks.append(self._loop)
        for task in tasks:
            task.cancel()
        self._workers.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, delay: float) -> None:
        await asyncio.sleep(delay)
        known = {pod["metadata"]["uid"] for pod in self.cluster.store.items(PODS)}
        for uid in set(self.sandboxes) - known:
            self._work(self.sandboxes[uid].pod).gone()
        await self.cluster.each(PODS, self._react)

    def _react(self, pod: Object, _resource: Resource, gone: bool) -> None:
        uid = pod["metadata"]["uid"]
        if pod["spec"].get("nodeName") != self.node:
            return
        if uid not in self._workers and (gone or self._nothing_to_do(pod)):
            return
        worker = self._work(pod)
        worker.changed(pod)
        if gone:
            worker.gone()

    def _nothing_to_do(self, pod: Object) -> bool:
        """A pod that was over before this kubelet saw it, and that nobody deletes."""
        over = pod["status"].get("phase") in ("Succeeded", "Failed") and pod["metadata"]["uid"] not in self.sandboxes
        return over and not pod["metadata"].get("deletionTimestamp")

    def _work(self, pod: Object) -> PodWorker:
        uid = pod["metadata"]["uid"]
        if uid not in self._workers:
            sandbox = self.sandboxes.setdefault(uid, Sandbox(pod))
            maker = Maker(self.cluster.store, self.node, self.address)
            worker = PodWorker(self.cluster, sandbox, maker)
            self._workers[uid] = (worker, self.cluster.spawn(self._look_after(uid, worker)))
        return self._workers[uid][0]

    async def _look_after(self, uid: str, worker: PodWorker) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await worker.run()
            # The object is gone and so is every process: nothing is left to look after.
            for container in self.sandboxes.pop(uid).containers.values():
                self.cluster.runner.forget(container)
            self._workers.pop(uid, None)
