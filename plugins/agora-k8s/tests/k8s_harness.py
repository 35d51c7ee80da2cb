"""The provider on an emulated cluster, in the hands of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agora.errors import AgoraError
from agora.model.cause import Cause, Via
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Observation, Phase, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation
from agora_conformance.emulators.k8s import K8sEmulator
from agora_k8s import PROVIDER, names
from agora_k8s.api import Api
from agora_k8s.cluster import Cluster, installation_selector
from agora_k8s.provider import K8sProvider

GRACEFUL = "trap 'echo got term; exit 42' TERM; echo ready; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def lingering(go: Path) -> str:
    """Return a script that leaves with 42 on SIGTERM, once a file is there."""
    leave = f"until [ -e {go} ]; do sleep 0.05; done; exit 42"
    return GRACEFUL.replace("exit 42", leave)


def never() -> None:
    """A check that never asks to stop."""


def eventually(look: Callable[[], Any], within: float = 50.0) -> Any:
    """Look until something is true."""
    until = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < until, f"not within {within} s"
        time.sleep(0.05)
    return seen


class Hands:
    """The provider on an emulator.

    Parameters:
        emulator: the cluster.
        directory: the installation's directory.
        installation: its mark.
        config: of the target.
    """

    def __init__(
        self, emulator: K8sEmulator, directory: Path, installation: str = "test-installation", **config: Any
    ) -> None:
        self.emulator = emulator
        self.installation = installation
        if "kubeconfig" not in config:
            config["kubeconfig"] = emulator.kubeconfig(directory / "kubeconfig")
        values = {"image": "busybox", "defaults": {"security": "image"}, **config}
        made = PROVIDER.create("here", PROVIDER.config_model(**values), Installation(installation, directory))
        assert isinstance(made, K8sProvider)
        self.provider = made

    @property
    def api(self) -> Api:
        """The provider's way to the cluster."""
        return self.provider._api

    def start(self, script: str = GRACEFUL, id: str | None = None, **fields: Any) -> Handle:
        """Dispatch a script."""
        spec = Spec(**{"command": ("sh", "-c", script), "grace": 5, **fields})
        return self.provider.dispatch(id or new_dispatch_id(), spec, never)

    def ready(self, handle: Handle) -> None:
        """Wait until the script says that it is ready."""
        eventually(lambda: b"ready" in self.output(handle))
        eventually(lambda: self.observe(handle).phase in (Phase.RUNNING, Phase.ENDED))

    def stop(self, handle: Handle, grace: int = 20, reason: str = "a test") -> StopReceipt:
        """Stop a workload."""
        return self.provider.stop(handle, grace, Cause(actor="tester", via=Via.API, reason=reason))

    def observe(self, handle: Handle) -> Observation:
        """Look at one workload."""
        (seen,) = self.provider.observe([handle])
        return seen

    def end(self, handle: Handle, within: float = 50.0) -> Observation:
        """Wait for the end of a workload."""
        eventually(lambda: self.observe(handle).phase is Phase.ENDED, within)
        return self.observe(handle)

    def output(self, handle: Handle, **how: Any) -> bytes:
        """Return what a workload has written so far."""
        chunks = self.provider.logs(handle, how.get("follow", False), how.get("since"), how.get("tail"))
        return b"".join(chunk.data for chunk in chunks)

    def pods(self, handle: Handle) -> list[dict[str, Any]]:
        """List the pods of a dispatch as the cluster shows them."""
        return self.api.list("pods", f"{names.DISPATCH}={handle.id}")[0]

    def job(self, handle: Handle) -> dict[str, Any] | None:
        """Return the Job of a dispatch as the cluster shows it."""
        return self.api.get("jobs", names.object_name(handle.id))

    def clean(self) -> None:
        """Delete everything of this installation and wait until its processes are gone."""
        selector = installation_selector(self.installation)
        for kind in ("jobs", "pods"):
            for item in self.api.list(kind, selector)[0]:
                with suppress(AgoraError):
                    Cluster(self.api).let_go(item)
                    self.api.delete(kind, item, propagationPolicy="Background", gracePeriodSeconds=2)
        eventually(lambda: not self.emulator.processes(selector))
        self.provider.close()

    def processes(self, handle: Handle) -> list[int]:
        """Return the live processes of a dispatch, seen from the node."""
        return self.emulator.processes(f"{names.DISPATCH}={handle.id}")


class Sink:
    """Gathers what a watch pushes."""

    def __init__(self) -> None:
        self.live: dict[str, Handle] = {}
        self.seen: dict[str, list[Observation]] = {}
        self.asked: list[str] = []
        self.up = 0
        self.over = threading.Event()
        self.error: AgoraError | None = None

    def connected(self) -> None:
        self.up += 1

    def push(self, dispatch_id: str, observation: Observation) -> None:
        self.seen.setdefault(dispatch_id, []).append(observation)

    def stale(self, dispatch_id: str) -> None:
        self.asked.append(dispatch_id)

    def handles(self) -> Mapping[str, Handle]:
        return dict(self.live)

    @property
    def closed(self) -> bool:
        return self.over.is_set()

    def last(self, handle: Handle) -> Observation:
        """Return the last word about a workload."""
        return self.seen.get(handle.id, [Observation(phase=Phase.ABSENT)])[-1]


class CommandLine:
    """The `agora` command, with a state directory of its own.

    Parameters:
        directory: where it runs.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        config = directory / "agora.toml"
        self.environment = {**os.environ, "AGORA_HOME": str(directory / "home"), "AGORA_CONFIG": str(config)}
        self.configure()

    def configure(self, target: str = "c", **settings: str) -> None:
        """Set the configuration, which has one target."""
        lines = [f'default_target = "{target}"', f"[targets.{target}]", 'provider = "k8s"', 'image = "busybox"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += [f"[targets.{target}.defaults]", 'security = "image"']
        (self._directory / "agora.toml").write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it in a process of its own."""
        command = [sys.executable, "-m", "agora", *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=50, check=False, cwd=self._directory
        )

    def dispatch(self, *arguments: str) -> str:
        """Dispatch something and return its id."""
        done = self.run("dispatch", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[0]
