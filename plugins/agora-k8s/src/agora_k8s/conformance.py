"""The target that `agora-conformance run k8s` tests: an emulated cluster, or the one that `--target-config` names."""

from __future__ import annotations

import atexit
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from agora.errors import AgoraError
from agora_conformance.emulators.k8s import Image, K8sEmulator
from agora_conformance.target import Backend, ConformanceTarget

from agora_k8s import names
from agora_k8s.api import Api
from agora_k8s.cluster import Cluster, installation_selector
from agora_k8s.config import K8sConfig
from agora_k8s.connect import connect
from agora_k8s.testing.gateway import Gateway

#: What the probe runs in; any image with a POSIX shell, `od` and `setsid` does.
IMAGE = "busybox:1.36"
#: On the emulator: an image whose own ENTRYPOINT would end with another code than the probe.
ENTRYPOINT_IMAGE = "emulated/entrypoint:1"
#: Nobody; the restricted security profile refuses root.
USER = 65534


def probe_spec(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run the probe in the target's image."""
    return {"command": ["sh", "-c", script, "probe", *arguments]}


def _with_entrypoint(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    return {**probe_spec(script, arguments), "image": ENTRYPOINT_IMAGE}


class Stranger:
    """A pod that no provider made."""

    def __init__(self, api: Api, image: str) -> None:
        self._api = api
        container = {
            "name": "main",
            "image": image,
            "command": ["sleep", "600"],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        self._pod = api.create(
            "pods",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"stranger-{uuid4().hex[:8]}"},
                "spec": {
                    "restartPolicy": "Never",
                    "securityContext": {
                        "runAsUser": USER,
                        "runAsNonRoot": True,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                },
            },
        )

    def alive(self) -> bool:
        """Whether nobody has deleted it."""
        pod = self._api.get("pods", self._pod["metadata"]["name"])
        return pod is not None and pod["metadata"].get("deletionTimestamp") is None

    def remove(self) -> None:
        """Delete it."""
        self._api.delete("pods", self._pod, gracePeriodSeconds=2)


class ClusterEyes:
    """What the API shows beside the provider.

    Parameters:
        config: the target's table in the configuration.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @cached_property
    def api(self) -> Api:
        """A connection of its own."""
        return Api(connect("the conformance suite", self._model))

    @property
    def _model(self) -> K8sConfig:
        return K8sConfig.model_validate(dict(self._config))

    def version(self) -> str:
        """Return the version of the API server."""
        return str(self.api.call("GET", "/version")["gitVersion"])

    def stranger(self) -> Stranger:
        """Make a pod without any mark."""
        return Stranger(self.api, self._model.image or IMAGE)

    def forget(self, installation: str, dispatch_id: str) -> None:
        """Delete the Job without its pod, and the pod with `--force --grace-period=0`: its process does not notice."""
        selector = f"{installation_selector(installation)},{names.DISPATCH}={dispatch_id}"
        jobs, pods = (self.api.list(kind, selector)[0] for kind in ("jobs", "pods"))
        if not pods:
            raise LookupError(f"{dispatch_id} has no pod")
        for job in jobs:
            self.api.delete("jobs", job, propagationPolicy="Orphan")
        for pod in pods:
            self.api.patch("pods", pod["metadata"]["name"], {"metadata": {"finalizers": None}})
            self.api.delete("pods", pod, gracePeriodSeconds=0)

    def remember(self, installation: str, dispatch_id: str) -> None:
        """Leave it: what was deleted cannot be brought back, and ends with its grace."""

    def leftovers(self, installation: str) -> Sequence[str]:
        """Name the Jobs and pods that carry the mark, ended ones included; a Secret goes with its Job."""
        return [
            f"{kind} {item['metadata']['name']}"
            for kind in ("jobs", "pods")
            for item in self.api.list(kind, installation_selector(installation))[0]
            if item["metadata"].get("deletionTimestamp") is None
            or names.FINALIZER in (item["metadata"].get("finalizers") or ())
        ]

    def sweep(self, installation: str) -> None:
        """Remove everything that carries the mark."""
        for kind in ("jobs", "pods"):
            for item in self.api.list(kind, installation_selector(installation))[0]:
                with suppress(AgoraError):
                    Cluster(self.api).let_go(item)
                    self.api.delete(kind, item, propagationPolicy="Background", gracePeriodSeconds=2)


class EmulatedCluster(Mapping[str, Any]):
    """The configuration of a target on an emulator, which starts when it is read for the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._emulator: K8sEmulator | None = None
        self._table: dict[str, Any] = {}

    def start(self) -> K8sEmulator:
        """Return the emulator, started."""
        with self._lock:
            if self._emulator is None:
                images = {ENTRYPOINT_IMAGE: Image(entrypoint=("sh", "-c", "exit 9"))}
                self._emulator = K8sEmulator(images=images).start()
                atexit.register(self._emulator.close)
                folder = tempfile.TemporaryDirectory(prefix="agora-k8s-")
                atexit.register(folder.cleanup)
                kubeconfig = self._emulator.kubeconfig(Path(folder.name) / "kubeconfig")
                self._table = configuration(kubeconfig=str(kubeconfig))
            return self._emulator

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Any]:
        self.start()
        return self._table


class EmulatorEyes(ClusterEyes):
    """What the emulated node shows, and a hand on its API.

    Parameters:
        cluster: the emulator's configuration.
    """

    def __init__(self, cluster: EmulatedCluster) -> None:
        super().__init__(cluster)
        self._cluster = cluster

    def processes(self, installation: str, dispatch_id: str | None) -> Sequence[int]:
        """Return the processes of the containers, also of pods whose object is gone."""
        selector = installation_selector(installation)
        if dispatch_id is not None:
            selector += f",{names.DISPATCH}={dispatch_id}"
        return self._cluster.start().processes(selector)

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Cut the API off for one installation: every list and watch of its objects, and so every look and stop."""
        faults = self._cluster.start().faults
        faults.cut(None, selector=installation_selector(installation))
        faults.cut_watches()

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Let that installation in again."""
        self._cluster.start().faults.mend(installation_selector(installation))


class GatewayEyes(ClusterEyes):
    """What the API of a real cluster shows, and a hand on the way to it.

    Parameters:
        config: the target's table, as somebody wrote it.
        gateway: all requests of the suite's clients go through it.
    """

    def __init__(self, config: Mapping[str, Any], gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Cut the API off for one installation: every list and watch of its objects, and so every look and stop."""
        self._gateway.cut(installation_selector(installation))

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Let that installation in again."""
        self._gateway.heal(installation_selector(installation))


def configuration(**values: Any) -> dict[str, Any]:
    """Return a target's table that suits the probe."""
    return {"image": IMAGE, "defaults": {"run_as_user": USER}, **values}


def _emulated() -> ConformanceTarget:
    cluster = EmulatedCluster()
    eyes = EmulatorEyes(cluster)
    return ConformanceTarget(
        provider="k8s",
        probe_spec=probe_spec,
        config=cluster,
        overhead=2.0,
        emulated=True,
        eyes=eyes,
        backend=lambda: Backend("Kubernetes", eyes.version()),
        variants={"entrypoint": _with_entrypoint},
        configured=_real,
    )


def _real(table: Mapping[str, Any]) -> ConformanceTarget:
    """Return the target for a cluster that somebody has configured.

    Parameters:
        table: the target's table, and in `[conformance]` an `entrypoint_image`: one whose own ENTRYPOINT would end
            with another code than the probe.
    """
    config = dict(table)
    images = config.pop("conformance", {})
    connection = connect("the conformance suite", K8sConfig.model_validate(config))
    gateway = Gateway(connection)
    folder = tempfile.TemporaryDirectory(prefix="agora-k8s-")
    atexit.register(folder.cleanup)
    way = {"kubeconfig": str(gateway.kubeconfig(Path(folder.name) / "kubeconfig")), "namespace": connection.namespace}
    rest = {name: value for name, value in config.items() if name not in ("context", "in_cluster")}
    eyes = GatewayEyes(config, gateway)

    def with_entrypoint(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
        return {**probe_spec(script, arguments), "image": images["entrypoint_image"]}

    return replace(
        TARGET,
        config={**rest, **way},
        overhead=2.5,
        emulated=False,
        eyes=eyes,
        backend=lambda: Backend("Kubernetes", eyes.version()),
        variants={"entrypoint": with_entrypoint} if "entrypoint_image" in images else {},
    )


TARGET = _emulated()
