"""The node, the scheduler, and what the control plane does about a node that is away."""

from __future__ import annotations

import asyncio

from agora_conformance.emulators.k8s.clock import pause
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.environment import quantity
from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.kubelet import Kubelet
from agora_conformance.emulators.k8s.resources import NODES, PODS, Resource

HOSTNAME = "kubernetes.io/hostname"
UNREACHABLE = "node.kubernetes.io/unreachable"
#: What the node offers, whatever this machine has.
CAPACITY = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi"}
ALIVE = ("True", "KubeletReady", "kubelet is posting ready status")
SILENT = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")


class Node:
    """The one node of the emulated cluster.

    Parameters:
        cluster: where it is.
        name, address: its name and address.
    """

    def __init__(self, cluster: Cluster, name: str, address: str) -> None:
        self._cluster = cluster
        self.name = name
        self.kubelet = Kubelet(cluster, name, address)
        self._address = address
        self._monitor: asyncio.Task[None] | None = None

    def up(self) -> None:
        """Register the node and start its kubelet."""
        self._register()
        self.kubelet.start()

    async def away(self) -> None:
        """Kill the kubelet; containers run on, and the control plane notices after a while."""
        await self.kubelet.stop()
        self._monitor = self._cluster.spawn(self._silence())

    def back(self) -> None:
        """Start the kubelet again; it registers the node if the object is gone."""
        if self._monitor is not None:
            self._monitor.cancel()
        self.kubelet.start(self._cluster.timing.kubelet_start)
        self._cluster.spawn(self._return())

    async def _silence(self) -> None:
        await pause(self._cluster.timing.node_monitor)
        if self._cluster.store.find(NODES, "", self.name) is not None:
            self._ready(*SILENT)
            self._mark_pods("False")

    async def _return(self) -> None:
        await pause(self._cluster.timing.kubelet_start)
        self._register()
        self._ready(*ALIVE)
        self._mark_pods("True")

    def _register(self) -> None:
        if self._cluster.store.find(NODES, "", self.name) is not None:
            return
        body = {
            "metadata": {"name": self.name, "labels": {HOSTNAME: self.name, "kubernetes.io/os": "linux"}},
            "spec": {},
            "status": {
                "capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [self._condition(*ALIVE)],
                "addresses": [{"type": "InternalIP", "address": self._address}],
                "nodeInfo": {"kubeletVersion": "v1.36.2", "containerRuntimeVersion": "containerd://2.1.0",
                             "operatingSystem": "linux", "architecture": "amd64"},
            },
        }  # fmt: skip
        self._cluster.store.create(NODES, "", body)

    def _condition(self, status: str, reason: str, message: str) -> Object:
        now = self._cluster.clock.server()
        return {
            "type": "Ready", "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now,
            "reason": reason, "message": message,
        }  # fmt: skip

    def _ready(self, status: str, reason: str, message: str) -> None:
        """Write the node's own condition, and the taint that goes with it."""

        def change(item: Object) -> None:
            item["status"]["conditions"] = [self._condition(status, reason, message)]
            item["spec"].pop("taints", None)
            if status != "True":
                item["spec"]["taints"] = [
                    {"key": UNREACHABLE, "effect": effect} for effect in ("NoSchedule", "NoExecute")
                ]

        node = self._cluster.store.find(NODES, "", self.name)
        if node is not None:
            self._cluster.change(NODES, node, change)

    def _mark_pods(self, ready: str) -> None:
        """Write the pods' Ready condition, as the node controller does; nothing is evicted with a single node."""
        now = self._cluster.clock.server()

        def change(item: Object) -> None:
            for one in item["status"].get("conditions") or []:
                if one["type"] == "Ready" and one["status"] != ready and not one.get("reason"):
                    one |= {"status": ready, "lastTransitionTime": now}

        for pod in self._cluster.store.items(PODS):
            if pod["spec"].get("nodeName") == self.name and pod["status"].get("phase") == "Running":
                self._cluster.change(PODS, pod, change)


class Scheduler:
    """Gives pods to the node, or says why it cannot.

    Parameters:
        cluster: what it works on.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def run(self) -> None:
        """Work until cancelled."""
        await self._cluster.each(None, self._react)

    def _react(self, item: Object, resource: Resource, gone: bool) -> None:
        if resource is NODES and not gone:
            for pod in self._cluster.store.items(PODS):
                self._react(pod, PODS, False)
        elif resource is PODS and not gone and not item["spec"].get("nodeName"):
            loop = asyncio.get_running_loop()
            loop.call_later(self._cluster.timing.schedule, self._schedule, item["metadata"])

    def _schedule(self, meta: Object) -> None:
        pod = self._cluster.pod(meta["uid"], meta["namespace"], meta["name"])
        if pod is None or pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
            return
        nodes = self._cluster.store.items(NODES)
        problems = {node["metadata"]["name"]: unfit(pod, node) for node in nodes}
        fit = [name for name, problem in problems.items() if not problem]
        now = self._cluster.clock.server()
        made: Object = {"type": "PodScheduled", "lastProbeTime": None, "lastTransitionTime": now}

        def bind(item: Object) -> None:
            item["spec"]["nodeName"] = fit[0]
            item["status"]["conditions"] = [made | {"status": "True"}]

        def refuse(item: Object) -> None:
            if not item["status"].get("conditions"):
                words = {"status": "False", "reason": "Unschedulable", "message": text}
                item["status"]["conditions"] = [made | words]

        if fit:
            changed = self._cluster.change(PODS, pod, bind)
            if changed is not None:
                where = f"{meta['namespace']}/{meta['name']} to {fit[0]}"
                self._cluster.event(changed, "Scheduled", f"Successfully assigned {where}", "default-scheduler")
            return
        text = "no nodes available to schedule pods"
        if nodes:
            each = ", ".join(f"1 {problem}" for problem in problems.values())
            text = f"0/{len(nodes)} nodes are available: {each}."
        self._cluster.change(PODS, pod, refuse)
        self._cluster.event(pod, "FailedScheduling", text, "default-scheduler", "Warning")


def unfit(pod: Object, node: Object) -> str:
    """Return why a pod cannot run on a node, or nothing."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod["spec"].get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return "node(s) didn't match Pod's node affinity/selector"
    taints = {taint["key"] for taint in node["spec"].get("taints") or [] if taint["effect"] == "NoSchedule"}
    tolerated = {one.get("key") for one in pod["spec"].get("tolerations") or [] if one.get("effect") != "NoExecute"}
    if None not in tolerated and (left := taints - tolerated):
        return f"node(s) had untolerated taint(s) {{{', '.join(sorted(left))}}}"
    for name in ("cpu", "memory"):
        asked = 0.0
        for container in pod["spec"]["containers"]:
            resources = container.get("resources") or {}
            wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
            asked += quantity(wanted.get(name, 0))
        if asked > quantity(node["status"]["allocatable"][name]):
            return f"Insufficient {name}"
    return ""


class PodCollector:
    """Ends the pods of nodes whose object is gone; their processes know nothing of it.

    Parameters:
        cluster: what it works on.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def run(self) -> None:
        """Work until cancelled."""
        await self._cluster.each(NODES, self._react)

    def _react(self, node: Object, _resource: Resource, gone: bool) -> None:
        if gone:
            self._cluster.spawn(self._collect(node["metadata"]["name"]))

    async def _collect(self, name: str) -> None:
        await pause(self._cluster.timing.pod_collect)
        if self._cluster.store.find(NODES, "", name) is not None:
            return
        now = self._cluster.clock.server()
        words = {"type": "DisruptionTarget", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
        words |= {"reason": "DeletionByPodGC", "message": "PodGC: node no longer exists"}

        def fail(item: Object) -> None:
            item["status"]["phase"] = "Failed"
            known = [one for one in item["status"].get("conditions") or [] if one["type"] != "DisruptionTarget"]
            item["status"]["conditions"] = [*known, words]

        for pod in self._cluster.store.items(PODS):
            if pod["spec"].get("nodeName") == name:
                if pod["status"].get("phase") not in ("Succeeded", "Failed"):
                    self._cluster.change(PODS, pod, fail)
                self._cluster.delete(PODS, pod, grace=0)
