"""How the kubelet writes a pod's status: from what it knows of the containers to the words of the API."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

from agora_conformance.emulators.k8s.errors import Object

#: Conditions that the kubelet owns, in the order in which it writes them; others stay in front.
OWN = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
LOST = "The container could not be located when the pod was terminated"


@dataclass(frozen=True)
class ContainerView:
    """What the kubelet knows of one container.

    Parameters:
        state: `waiting`, `running` or `terminated`.
        words: the fields of that state.
        id: the runtime's id; empty before it was created.
        user, group: who it runs as.
    """

    state: str = "waiting"
    words: Object = field(default_factory=lambda: {"reason": "ContainerCreating"})
    id: str = ""
    user: int = 0
    group: int = 0


@dataclass(frozen=True)
class PodView:
    """What the kubelet knows of one pod.

    Parameters:
        containers: by name, in the order of the spec.
        sandbox: the pod's sandbox is up.
        final: the pod is over: its phase is `Succeeded` or `Failed`.
        began: when the kubelet first saw the pod.
        reason, message: why the kubelet ended it.
    """

    containers: dict[str, ContainerView]
    sandbox: bool = False
    final: bool = False
    began: str = ""
    reason: str = ""
    message: str = ""

    def set(self, name: str, view: ContainerView) -> Self:
        """Return the same with another view of one container."""
        return replace(self, containers={**self.containers, name: view})

    def waiting(self, name: str, reason: str, message: str = "") -> Self:
        """Return the same with a container that waits."""
        words = {"reason": reason} | ({"message": message} if message else {})
        return self.set(name, replace(self.containers[name], state="waiting", words=words))

    @property
    def over(self) -> bool:
        """Whether every container has ended."""
        return all(view.state == "terminated" for view in self.containers.values())

    @property
    def started(self) -> bool:
        """Whether any container ever ran."""
        return any(view.id for view in self.containers.values())


def phase(view: PodView) -> str:
    """Return the phase of a pod."""
    if view.final:
        codes = [one.words.get("exitCode", 137) for one in view.containers.values() if one.state == "terminated"]
        return "Succeeded" if codes and not any(codes) and not view.reason else "Failed"
    return "Running" if view.started else "Pending"


def write(pod: Object, view: PodView, generation: int, now: str, address: str) -> Object:
    """Return the status of a pod.

    Parameters:
        pod: the pod as the kubelet knows it; conditions that are not the kubelet's stay.
        view: what the kubelet knows.
        generation: of the pod that the kubelet works with.
        now: the node's time.
        address: the node's address.
    """
    known = {one["type"]: one for one in pod["status"].get("conditions") or []}
    foreign = [one for kind, one in known.items() if kind not in OWN]
    wanted = _conditions(pod, view)
    conditions = [_condition(known.get(kind), kind, generation, now, *wanted[kind]) for kind in OWN]
    status: Object = {"observedGeneration": generation, "phase": phase(view), "conditions": [*foreign, *conditions]}
    if view.reason:
        status |= {"message": view.message, "reason": view.reason}
    host = {"hostIP": address, "hostIPs": [{"ip": address}]}
    if pod["spec"].get("hostNetwork") or view.sandbox:
        host |= {"podIP": address, "podIPs": [{"ip": address}]}
    statuses = [_container(pod, name, one) for name, one in view.containers.items()]
    return (
        status
        | host
        | {
            "startTime": view.began,
            "containerStatuses": statuses,
            "qosClass": pod["status"].get("qosClass", "BestEffort"),
            "resources": {},
        }
    )


def _conditions(pod: Object, view: PodView) -> dict[str, tuple[str, str, str]]:
    """Return status, reason and message of each condition that the kubelet owns."""
    ready, why, message = "True", "", ""
    unready = [name for name, one in view.containers.items() if one.state != "running"]
    if view.started and (view.over or view.final):
        ready, why = "False", "PodCompleted" if phase(replace(view, final=True)) == "Succeeded" else "PodFailed"
    elif unready:
        ready, why = "False", "ContainersNotReady"
        message = f"containers with unready status: [{' '.join(unready)}]"
    scheduled: Object = next(
        (one for one in pod["status"].get("conditions") or [] if one["type"] == "PodScheduled"), {}
    )
    return {
        "PodReadyToStartContainers": ("True" if view.sandbox else "False", "", ""),
        "Initialized": ("True", "PodCompleted" if why == "PodCompleted" else "", ""),
        "Ready": (ready, why, message),
        "ContainersReady": (ready, why, message),
        "PodScheduled": (scheduled.get("status", "True"), "", ""),
    }


def _condition(
    known: Object | None, kind: str, generation: int, now: str, status: str, reason: str, message: str
) -> Object:
    since = known["lastTransitionTime"] if known and known["status"] == status else now
    made = {
        "type": kind, "observedGeneration": generation, "status": status, "lastProbeTime": None,
        "lastTransitionTime": since,
    }  # fmt: skip
    if reason:
        made["reason"] = reason
    if message:
        made["message"] = message
    return made


def _container(pod: Object, name: str, view: ContainerView) -> Object:
    spec = next(one for one in pod["spec"]["containers"] if one["name"] == name)
    running = view.state == "running"
    made: dict[str, Any] = {
        "name": name, "state": {view.state: view.words}, "lastState": {}, "ready": running, "restartCount": 0,
        "image": spec["image"], "imageID": f"emulated://{spec['image']}" if view.id else "",
    }  # fmt: skip
    if view.id:
        made["containerID"] = f"containerd://{view.id}"
    made["started"] = running
    if view.id:
        made["resources"] = {}
        made["user"] = {"linux": {"uid": view.user, "gid": view.group, "supplementalGroups": [view.group]}}
    return made
