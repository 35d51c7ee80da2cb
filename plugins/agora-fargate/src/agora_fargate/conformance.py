"""The target that `agora-conformance run fargate` tests: an emulated account, or what `--target-config` names."""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from agora.errors import AgoraError, ConfigError
from agora.model.cause import Cause, Via
from agora.model.spec import Spec
from agora_conformance.emulators.ecs import EcsEmulator, Image, Timing
from agora_conformance.target import Backend, ConformanceTarget

from agora_fargate import definition, logs, names, story
from agora_fargate.api import Api
from agora_fargate.config import FargateConfig
from agora_fargate.connect import Connection
from agora_fargate.definitions import Definitions
from agora_fargate.inline import Inline
from agora_fargate.tasks import Tasks
from agora_fargate.testing.gateway import Gateway

#: What the probe runs in; any image with a POSIX shell, `od` and `setsid` does.
IMAGE = "public.ecr.aws/docker/library/busybox:1.36"
#: On the emulator: an image whose own ENTRYPOINT would end with another code than the probe.
ENTRYPOINT_IMAGE = "emulated/entrypoint:1"
LOG_GROUP = "/agora"
ROLE = "arn:aws:iam::123456789012:role/agora-execution"
#: The emulated machinery (network interfaces, pulls, reports) takes this part of its usual time; graces do not.
HURRY = 0.02
NEVER_FORGETS = "ECS has no call that removes the record of a task which is not stopped"


def probe_spec(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run the probe in the target's image."""
    return {"command": ["sh", "-c", script, "probe", *arguments]}


def _with_entrypoint(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    return {**probe_spec(script, arguments), "image": ENTRYPOINT_IMAGE}


class Stranger:
    """A task that no provider started.

    Parameters:
        tasks: the cluster.
        config: the target.
    """

    def __init__(self, tasks: Tasks, config: FargateConfig) -> None:
        self._tasks = tasks
        spec = Spec(command=("sleep", "600"), grace=2)
        revision = Definitions(tasks.api).ensure(definition.task_definition(spec, config, tasks.api.region))
        mark = names.Mark(f"stranger-{uuid4().hex[:8]}", "nobody", "none", 2)
        request = definition.run_request(mark, spec, config)
        request["overrides"] = {"containerOverrides": [{"name": names.CONTAINER, "command": ["600"]}]}
        answer = tasks.api.call("RunTask", cluster=tasks.cluster, taskDefinition=revision, **request)
        self._arn: str = answer["tasks"][0]["taskArn"]

    def alive(self) -> bool:
        """Whether nobody has stopped it."""
        task = self._tasks.describe([self._arn]).get(self._arn)
        return task is not None and not story.is_stopping(task)

    def remove(self) -> None:
        """Stop it."""
        self._tasks.api.call("StopTask", cluster=self._tasks.cluster, task=self._arn, reason="the check is over")


class AccountEyes:
    """What the API shows beside the provider.

    Parameters:
        config: the target's table in the configuration.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @cached_property
    def _model(self) -> FargateConfig:
        return FargateConfig.model_validate(dict(self._config))

    @cached_property
    def tasks(self) -> Tasks:
        """A connection of its own."""
        api = Api(Connection("the conformance suite", self._model), self._model.share)
        return Tasks(api, self._model.cluster)

    @property
    def inline(self) -> Inline:
        """Its inline secrets."""
        return Inline(self.tasks.api, Definitions(self.tasks.api))

    def version(self) -> str:
        """Return what the cluster runs on: ECS itself tells no version."""
        return f"cluster {self._model.cluster} in {self.tasks.api.region}"

    def stranger(self) -> Stranger:
        """Start a task without any mark."""
        return Stranger(self.tasks, self._model)

    def _all(self, installation: str) -> dict[str, names.Item]:
        arns = [*self.tasks.running(), *self.tasks.stopped()]
        mine = [arn for arn, mark in self.tasks.marks(arns).items() if mark.installation == installation]
        return self.tasks.describe(mine)

    def leftovers(self, installation: str) -> Sequence[str]:
        """Name what is there of tasks that have not stopped, logs and secrets; ECS forgets a stopped task by itself."""
        found = []
        for arn, task in self._all(installation).items():
            if task["lastStatus"] != story.STOPPED:
                found.append(f"task {arn}")
            if logs.Stream(self.tasks.api, self._model.log_group, names.log_stream(arn)).page(limit=1).forward:
                found.append(f"log stream {names.log_stream(arn)}")
        return found + [f"secret {names.secret(id, installation)}" for id in self._secrets(installation)]

    def _secrets(self, installation: str) -> list[str]:
        """Return the dispatches whose inline secrets are there; their list alone may tell it minutes late."""
        listed = self.inline.left(installation)
        own = {
            str(task["startedBy"])
            for task in self._all(installation).values()
            if names.is_own_family(story.family(task))
        }
        return [id for id in sorted(own | listed.keys()) if self.inline.is_there(id, installation)]

    def sweep(self, installation: str) -> None:
        """Stop every task that carries the mark, and delete its log and its secrets."""
        cause = Cause(actor="agora-conformance", via=Via.API, reason="swept")
        for arn, task in self._all(installation).items():
            with suppress(AgoraError):
                if not story.is_stopping(task):
                    reason = names.reason(task["startedBy"], cause)
                    self.tasks.api.call("StopTask", cluster=self.tasks.cluster, task=arn, reason=reason)
                logs.remove(self.tasks.api, self._model.log_group, names.log_stream(arn))
        for id in self._secrets(installation):
            with suppress(AgoraError):
                self.inline.remove(id, installation)


class EmulatedAccount(Mapping[str, Any]):
    """The configuration of a target on an emulator, which starts when it is read for the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._emulator: EcsEmulator | None = None
        self._table: dict[str, Any] = {}

    def start(self) -> EcsEmulator:
        """Return the emulator, started."""
        with self._lock:
            if self._emulator is None:
                images = {ENTRYPOINT_IMAGE: Image(entrypoint=("sh", "-c", "exit 9"))}
                timing = Timing().hurried(HURRY)
                self._emulator = EcsEmulator(
                    timing=timing, images=images, log_groups=(LOG_GROUP,), throttle=False
                ).start()
                atexit.register(self._emulator.close)
                folder = tempfile.TemporaryDirectory(prefix="agora-fargate-")
                atexit.register(folder.cleanup)
                self._table = configuration(Path(folder.name) / "aws-config", self._emulator)
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


class EmulatorEyes(AccountEyes):
    """What the emulated hosts show, and a hand on the API.

    Parameters:
        account: the emulator's configuration.
    """

    def __init__(self, account: EmulatedAccount) -> None:
        super().__init__(account)
        self._account = account

    def processes(self, installation: str, dispatch_id: str | None) -> Sequence[int]:
        """Return the processes of the containers."""
        emulator = self._account.start()
        if dispatch_id is not None:
            return emulator.processes(dispatch_id)
        ids = {str(call.body.get("startedBy")) for call in emulator.faults.requests("RunTask", installation)}
        return [pid for id in sorted(ids) for pid in emulator.processes(id)]

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Cut ECS off for one installation: every look and every stop."""
        if not self.tasks.started_by(dispatch_id):
            raise LookupError(f"{dispatch_id} has no task")
        self._account.start().faults.cut(None, service="ecs", text=names.agent(installation))

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Let that installation in again."""
        self._account.start().faults.mend(names.agent(installation))


class GatewayEyes(AccountEyes):
    """What the API of a real account shows, and a hand on the way to it.

    Parameters:
        config: the target's table, as somebody wrote it.
        gateway: all requests of the suite's clients go through it.
    """

    def __init__(self, config: Mapping[str, Any], gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Cut ECS off for one installation: every look and every stop."""
        if not self.tasks.started_by(dispatch_id):
            raise LookupError(f"{dispatch_id} has no task")
        self._gateway.cut(names.agent(installation))

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Let that installation in again."""
        self._gateway.heal(names.agent(installation))


def configuration(path: Path, emulator: EcsEmulator) -> dict[str, Any]:
    """Return a target's table for an emulator.

    Parameters:
        path: where to write the configuration file of AWS that leads there.
        emulator: where to.
    """
    lines = [
        "[profile emulated]",
        f"region = {emulator.region}",
        f"endpoint_url = {emulator.url}",
        "aws_access_key_id = AKIAEMULATOR",
        "aws_secret_access_key = emulator",
    ]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "config_file": str(path),
        "profile": "emulated",
        "image": IMAGE,
        "log_group": LOG_GROUP,
        "log_lag": 0.2,
        # Probes are looked at far more often than anybody would: as in an account with higher rates.
        "share": 8,
        "defaults": {"subnets": ["subnet-1"], "execution_role": ROLE},
    }


def _emulated() -> ConformanceTarget:
    account = EmulatedAccount()
    eyes = EmulatorEyes(account)
    return ConformanceTarget(
        provider="fargate",
        probe_spec=probe_spec,
        config=account,
        overhead=2.0,
        emulated=True,
        eyes=eyes,
        backend=lambda: Backend("Amazon ECS on AWS Fargate", eyes.version()),
        variants={"entrypoint": _with_entrypoint},
        never_forgets=NEVER_FORGETS,
        configured=_real,
    )


def _real(table: Mapping[str, Any]) -> ConformanceTarget:
    """Return the target for an account that somebody has configured.

    Parameters:
        table: the target's table, and in `[conformance]` an `entrypoint_image`: one whose own ENTRYPOINT would end
            with another code than the probe.
    """
    config = dict(table)
    images = config.pop("conformance", {})
    if elsewhere := sorted(name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")):
        raise ConfigError(
            f"{elsewhere[0]} would lead the suite past its gateway: put `endpoint_url` into the profile instead, and "
            "name that as `profile`"
        )
    gateway = Gateway(Connection("the conformance suite", FargateConfig.model_validate(config)))
    folder = tempfile.TemporaryDirectory(prefix="agora-fargate-")
    atexit.register(folder.cleanup)
    way = {"config_file": str(gateway.config_file(Path(folder.name) / "aws-config")), "profile": "gateway"}
    rest = {name: value for name, value in config.items() if name not in ("region", "endpoints")}
    eyes = GatewayEyes(config, gateway)

    def with_entrypoint(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
        return {**probe_spec(script, arguments), "image": images["entrypoint_image"]}

    return replace(
        TARGET,
        config={**rest, **way},
        overhead=3.0,
        emulated=False,
        eyes=eyes,
        backend=lambda: Backend("Amazon ECS on AWS Fargate", eyes.version()),
        variants={"entrypoint": with_entrypoint} if "entrypoint_image" in images else {},
    )


TARGET = _emulated()
