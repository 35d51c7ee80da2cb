"""The target that `agora-conformance run nomad` tests: an emulated cluster, or the one that `--target-config` names."""

from __future__ import annotations

import atexit
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any
from uuid import uuid4

from agora.errors import AgoraError
from agora_conformance.emulators.nomad import Image, NomadEmulator
from agora_conformance.target import Backend, ConformanceTarget

from agora_nomad import jobspec, names
from agora_nomad.api import Api
from agora_nomad.cluster import quoted
from agora_nomad.config import NomadConfig
from agora_nomad.connect import connect
from agora_nomad.secrets import INSTALLATION

#: What the probe runs in, with the driver docker; any image with a POSIX shell, `od` and `setsid` does.
IMAGE = "busybox:1.36"
#: On the emulator: an image whose own ENTRYPOINT would end with another code than the probe.
ENTRYPOINT_IMAGE = "emulated/entrypoint:1"
#: On a cluster: a public image with a shell that asks for SIGQUIT.
SIGQUIT_IMAGE = "nginx:1.28-alpine"
_SECOND = 10**9


def probe_spec(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run the probe in the target's image, or on the node."""
    return {"command": ["/bin/sh", "-c", script, "probe", *arguments]}


def _with_entrypoint(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    return {**probe_spec(script, arguments), "image": ENTRYPOINT_IMAGE}


def _with_sigint(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run it by a driver that sends SIGINT unless it is told otherwise."""
    return {**probe_spec(script, arguments), "options": {"driver": "raw_exec"}}


def _with_sigquit(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    return {**probe_spec(script, arguments), "image": SIGQUIT_IMAGE}


class Stranger:
    """A job that no provider made."""

    def __init__(self, api: Api, config: NomadConfig) -> None:
        self._api = api
        self._id = f"stranger-{uuid4().hex[:8]}"
        task: dict[str, Any] = {
            "Name": "main",
            "Driver": config.driver,
            "Config": {"command": "sleep", "args": ["600"]},
            "KillTimeout": 2 * _SECOND,
            "KillSignal": "SIGTERM",
        }
        if config.driver == "docker":
            task["Config"] = {"image": config.image or IMAGE, "command": "sleep", "args": ["600"], "init": True}
        group = {"Name": "main", "Tasks": [task]}
        job = {"ID": self._id, "Name": self._id, "Type": "batch", "Datacenters": ["*"], "TaskGroups": [group]}
        api.register(jobspec.registration({**job, "Namespace": api.namespace}))

    def alive(self) -> bool:
        """Whether nobody has stopped it."""
        job = self._api.job(self._id)
        return job is not None and not job["Stop"] and job["Status"] != "dead"

    def remove(self) -> None:
        """Stop it and forget it."""
        self._api.deregister(self._id, purge=True)


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
    def _model(self) -> NomadConfig:
        return NomadConfig.model_validate(dict(self._config))

    def version(self) -> str:
        """Return the version of the agent, where it may be asked."""
        try:
            return str(self.api.agent()["config"]["Version"]["Version"])
        except (AgoraError, KeyError, TypeError):
            return "of an agent that may not be asked"

    def jobs(self, installation: str) -> list[str]:
        """Return the ids of an installation's jobs."""
        filter = f'Meta["{names.INSTALLATION}"] == {quoted(installation)}'
        return [job["ID"] for job in self.api.select("jobs", filter, meta="true")]

    def stranger(self) -> Stranger:
        """Register a job without any mark."""
        return Stranger(self.api, self._model)

    def forget(self, installation: str, dispatch_id: str) -> None:
        """Purge the job: its process goes on for its grace."""
        if not self.api.deregister(names.job_id(dispatch_id), purge=True):
            raise LookupError(f"there is no job of {dispatch_id}")

    def remember(self, installation: str, dispatch_id: str) -> None:
        """Leave it: what was purged cannot be brought back, and ends with its grace."""

    def variables(self, installation: str) -> list[str]:
        """Return the paths of an installation's secrets."""
        paths = [one["Path"] for one in self.api.select("vars", prefix=names.VARIABLES)]
        found = ((path, self.api.variable(path)) for path in paths)
        return [path for path, one in found if one and one["Items"].get(INSTALLATION) == installation]

    def leftovers(self, installation: str) -> Sequence[str]:
        """Name the jobs that carry the mark, ended ones included, and the secrets."""
        jobs = [f"job {id}" for id in self.jobs(installation)]
        return jobs + [f"variable {path}" for path in self.variables(installation)]

    def sweep(self, installation: str) -> None:
        """Remove everything that carries the mark."""
        for id in self.jobs(installation):
            with suppress(AgoraError):
                self.api.deregister(id, purge=True)
        for path in self.variables(installation):
            with suppress(AgoraError):
                self.api.remove_variable(path)


class EmulatedCluster(Mapping[str, Any]):
    """The configuration of a target on an emulator, which starts when it is read for the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._emulator: NomadEmulator | None = None

    def start(self) -> NomadEmulator:
        """Return the emulator, started."""
        with self._lock:
            if self._emulator is None:
                images = {ENTRYPOINT_IMAGE: Image(entrypoint=("sh", "-c", "exit 9"))}
                self._emulator = NomadEmulator(images=images).start()
                atexit.register(self._emulator.close)
            return self._emulator

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Any]:
        return {"address": self.start().url, "image": IMAGE}


class EmulatorEyes(ClusterEyes):
    """What the emulated node shows, and a hand on its API.

    Parameters:
        cluster: the emulator's configuration.
    """

    def __init__(self, cluster: EmulatedCluster) -> None:
        super().__init__(cluster)
        self._cluster = cluster
        self._known: dict[str, set[str]] = defaultdict(set)

    def processes(self, installation: str, dispatch_id: str | None) -> Sequence[int]:
        """Return the processes of the tasks, also of jobs that are no longer on record."""
        emulator = self._cluster.start()
        if dispatch_id is not None:
            self._known[installation].add(names.job_id(dispatch_id))
            return emulator.processes(names.job_id(dispatch_id))
        self._known[installation].update(self.jobs(installation))
        return [pid for id in sorted(self._known[installation]) for pid in emulator.processes(id)]

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Cut the API off for one job: every look at it, every stop, and every stream that would tell of it."""
        faults = self._cluster.start().faults
        faults.cut(None, name=names.job_id(dispatch_id))
        faults.cut_streams()

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Let requests for that job through again."""
        self._cluster.start().faults.mend(names.job_id(dispatch_id))

    def forget(self, installation: str, dispatch_id: str) -> None:
        """Hide the job and all that belongs to it."""
        if not self.processes(installation, dispatch_id):
            raise LookupError(f"{dispatch_id} does not live")
        self._cluster.start().faults.hide(names.job_id(dispatch_id))

    def remember(self, installation: str, dispatch_id: str) -> None:
        """Show again what was hidden."""
        self._cluster.start().faults.show()


def _emulated() -> ConformanceTarget:
    cluster = EmulatedCluster()
    eyes = EmulatorEyes(cluster)
    return ConformanceTarget(
        provider="nomad",
        probe_spec=probe_spec,
        config=cluster,
        overhead=2.0,
        emulated=True,
        eyes=eyes,
        backend=lambda: Backend("Nomad", eyes.version()),
        variants={"entrypoint": _with_entrypoint, "stop_signal": _with_sigint},
        configured=_real,
    )


def _real(config: Mapping[str, Any]) -> ConformanceTarget:
    """Return the target for a cluster that somebody has configured."""
    eyes = ClusterEyes(config)
    # The other drivers send SIGINT unless they are told otherwise.
    docker = config.get("driver", "docker") == "docker"
    return replace(
        TARGET,
        config=config,
        overhead=2.5,
        emulated=False,
        eyes=eyes,
        backend=lambda: Backend("Nomad", eyes.version()),
        variants={"stop_signal": _with_sigquit if docker else probe_spec},
    )


TARGET = _emulated()
