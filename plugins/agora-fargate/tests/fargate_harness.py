"""The provider on an emulated account, in the hands of a test."""

from __future__ import annotations

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
from agora_conformance.emulators.ecs import EcsEmulator
from agora_fargate import PROVIDER, names
from agora_fargate.api import Api
from agora_fargate.provider import FargateProvider

GRACEFUL = "trap 'echo got term; exit 42' TERM; echo ready; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
ROLE = "arn:aws:iam::123456789012:role/agora-execution"
GROUP = "/agora"


def never() -> None:
    """A check that never asks to stop."""


def eventually(look: Callable[[], Any], within: float = 50.0) -> Any:
    """Look until something is true."""
    until = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < until, f"not within {within} s"
        time.sleep(0.05)
    return seen


def aws_config(path: Path, emulator: EcsEmulator, url: str | None = None, key: str = "AKIAEMULATOR") -> Path:
    """Write a configuration file of AWS with a profile `emulated`."""
    lines = (
        "[profile emulated]",
        f"region = {emulator.region}",
        f"endpoint_url = {url or emulator.url}",
        f"aws_access_key_id = {key}",
        "aws_secret_access_key = emulator",
    )
    path.write_text("\n".join(lines) + "\n")
    return path


def table(directory: Path, emulator: EcsEmulator, **values: Any) -> dict[str, Any]:
    """Return a target's configuration on an emulator."""
    if "config_file" not in values:
        values["config_file"] = str(aws_config(directory / "aws-config", emulator))
    defaults = {"subnets": ["subnet-1"], "execution_role": ROLE, **values.pop("defaults", {})}
    return {"profile": "emulated", "image": "busybox", "share": 1, "log_lag": 0.1, "defaults": defaults, **values}


class Hands:
    """The provider on an emulator.

    Parameters:
        emulator: the account.
        directory: the installation's directory.
        installation: its mark.
        config: of the target.
    """

    def __init__(
        self, emulator: EcsEmulator, directory: Path, installation: str = "test-installation", **config: Any
    ) -> None:
        self.emulator = emulator
        self.directory = directory
        self.installation = installation
        values = table(directory, emulator, **config)
        made = PROVIDER.create(
            "here", PROVIDER.config_model.model_validate(values), Installation(installation, directory)
        )
        assert isinstance(made, FargateProvider)
        self.provider = made

    @property
    def api(self) -> Api:
        """The provider's way to the account."""
        return self.provider._api

    def spec(self, script: str = GRACEFUL, **fields: Any) -> Spec:
        """Return the spec of a script."""
        return Spec(**{"command": ("sh", "-c", script), "grace": 5, **fields})

    def start(self, script: str = GRACEFUL, id: str | None = None, **fields: Any) -> Handle:
        """Dispatch a script."""
        return self.provider.dispatch(id or new_dispatch_id(), self.spec(script, **fields), never)

    def ready(self, handle: Handle) -> None:
        """Wait until the script says that it is ready."""
        eventually(lambda: b"ready" in self.output(handle))

    def stop(self, handle: Handle, grace: int = 5, reason: str = "a test") -> StopReceipt:
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

    def task(self, handle: Handle) -> dict[str, Any]:
        """Return the task of a dispatch as ECS shows it."""
        found = self.api.call("DescribeTasks", tasks=[handle.data["task"]])["tasks"]
        assert len(found) == 1
        task: dict[str, Any] = found[0]
        return task

    def processes(self, handle: Handle) -> list[int]:
        """Return the live processes of a dispatch, seen from this host."""
        return self.emulator.processes(handle.data["task"])

    def requests(self, action: str, handle: Handle | None = None) -> list[dict[str, Any]]:
        """Return the requests that the account got, of one dispatch where a handle is given."""
        text = "" if handle is None else handle.id
        return [call.body for call in self.emulator.faults.requests(action, text)]

    def secrets(self) -> list[str]:
        """Return the names of the secrets of this installation that are there."""
        return [name for name in self.all_secrets() if name.startswith(names.secret("", self.installation))]

    def all_secrets(self) -> list[str]:
        """Return the names of all secrets of the account."""
        return [one["Name"] for one in self.api.pages("ListSecrets", "SecretList")]

    def own_definitions(self, id: str) -> list[str]:
        """Return the revisions that are there of a dispatch's own task definition."""
        family = names.own_family(id, self.installation)
        return [
            arn
            for status in ("ACTIVE", "INACTIVE")
            for arn in self.api.pages("ListTaskDefinitions", "taskDefinitionArns", familyPrefix=family, status=status)
        ]

    def clean(self) -> None:
        """Stop everything of this installation and wait until its processes are gone."""
        for one in self.provider.list_owned(self.installation):
            if not one.ended:
                with suppress(AgoraError):
                    self.stop(one.handle)
            eventually(lambda one=one: not self.processes(one.handle))  # type: ignore[misc]
        self.provider.close()


class Sink:
    """Gathers what a watch pushes."""

    def __init__(self) -> None:
        self.live: dict[str, Handle] = {}
        self.seen: dict[str, list[Observation]] = {}
        self.asked: list[str] = []
        self.up = 0
        self.over = threading.Event()

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


def stream_of(handle: Handle) -> str:
    """Return the log stream of a workload."""
    return names.log_stream(handle.data["task"])
