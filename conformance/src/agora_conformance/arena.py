"""What a check works with: a fresh state directory, clients, hooks, probes, eyes; cleaned up afterwards."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import anyio.to_thread
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.errors import AgoraError
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle
from agora.model.spec import Spec
from agora.provider import ProviderInfo
from anyio.abc import TaskGroup, TaskStatus

from agora_conformance import child
from agora_conformance.hooks import Hooks
from agora_conformance.probe import CALM_BEAT, script
from agora_conformance.requirement import Requirement
from agora_conformance.target import ConformanceTarget, SeesLeftovers, SeesProcesses, Sweeps
from agora_conformance.verdict import Inapplicable, Verdict, Violation
from agora_conformance.witness import PAUSE, HookProbe, Probe

T = TypeVar("T")

#: Grace of a probe where the grace itself is not what is looked at.
GRACE = 3


@dataclass(frozen=True)
class Setting:
    """What all checks of a run share.

    Parameters:
        name: name of the target.
        target: what its author declared.
        info: its provider.
        config: its table in the configuration.
        folder: where the checks may keep files.
        shared: what several checks look at and one has made, under `lock`.
    """

    name: str
    target: ConformanceTarget
    info: ProviderInfo
    config: Mapping[str, Any]
    folder: Path
    shared: dict[str, Any] = field(default_factory=dict)
    lock: anyio.Lock = field(default_factory=anyio.Lock)


async def eventually(look: Callable[[], Awaitable[T | None]], within: float, what: str) -> T:
    """Look again and again until something truthy is seen, and return it.

    Raises:
        Violation: nothing was seen within `within` seconds; the message is `what`.
    """
    with anyio.move_on_after(within):
        while True:
            if seen := await look():
                return seen
            await anyio.sleep(PAUSE)
    raise Violation(f"{what} (within {within:g} s)")


class Arena:
    """The surroundings of one check.

    Parameters:
        setting: the run.
        requirement: what is checked.
        group: where its clients live.
        calm: set once the others may be busy, by a check that brackets a time and goes on.
    """

    def __init__(self, setting: Setting, requirement: Requirement, group: TaskGroup, calm: anyio.Event) -> None:
        self.setting = setting
        self.target = setting.target
        self.info = setting.info
        self.limits = setting.info.limits
        self.overhead = setting.target.overhead
        self.requirement = requirement
        self.measured: dict[str, Any] = {}
        self.leftovers: list[str] = []
        self._folder = setting.folder / requirement.id
        self._group = group
        self._over = anyio.Event()
        self.calm = calm
        self._clients: dict[str, AgoraClient] = {}
        self._hooks: list[Hooks] = []
        self._started: list[Probe | HookProbe] = []

    # -- clients and hooks -------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """A configuration with this one target."""
        name = self.setting.name
        return Settings(
            default_target=name,
            targets={name: TargetConfig(name, self.target.provider, self.setting.config, "the conformance run")},
        )

    def home(self, name: str = "home") -> Path:
        """Return a state directory of this check; the same name is the same directory."""
        path = self._folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def installation(self, name: str = "home") -> str:
        """Return the id of a state directory."""
        return (self.home(name) / "installation").read_text(encoding="utf-8").strip()

    async def client(self, name: str = "home") -> AgoraClient:
        """Return the client of a state directory; it stays open until the check is over."""
        if name not in self._clients:
            self._clients[name] = await self._group.start(self._host, name)
        return self._clients[name]

    async def _host(self, name: str, *, task_status: TaskStatus[AgoraClient]) -> None:
        """Hold a client open in a task of its own: a check may ask for one within any scope."""
        client = AgoraClient(self.home(name), settings=self.settings, actor="suite", supervisor=False)
        # Shielded: whatever ends the check, its workloads are ended through this client.
        with anyio.CancelScope(shield=True):
            async with client:
                task_status.started(client)
                await self._over.wait()

    def hooks(self, installation: str | None = None, name: str = "hooks") -> Hooks:
        """Make an instance of the provider for an installation, a new one by default."""
        hooks = Hooks(
            self.info,
            self.setting.name,
            self.setting.config,
            installation or f"conformance-{uuid4().hex[:12]}",
            self.home(name),
        )
        self._hooks.append(hooks)
        return hooks

    # -- workloads ---------------------------------------------------------------------------------------------

    def spec(self, *arguments: str | int, variant: str | None = None, beat: float = CALM_BEAT, **fields: Any) -> Spec:
        """Return the spec of a probe: `spec("exit", 42, 100, grace=3)`, with a heartbeat every `beat` seconds."""
        make = self.target.probe_spec if variant is None else self.target.variants[variant]
        made = dict(make(script(), [str(argument) for argument in (round(100 * beat), *arguments)]))
        made |= {"grace": GRACE, "timeout": 600, **fields}
        if "env" in fields:
            made["env"] = {**make(script(), []).get("env", {}), **fields["env"]}
        return Spec.model_validate(made)

    async def start(self, *arguments: str | int, ready: bool = True, name: str = "home", **fields: Any) -> Probe:
        """Dispatch a probe through the client and wait until it says READY."""
        client = await self.client(name)
        handle = await client.dispatch(self.spec(*arguments, **fields))
        probe = self.adopt(handle.id, name)
        if ready:
            await probe.ready()
        return probe

    def adopt(self, dispatch_id: str, name: str = "home") -> Probe:
        """Return the probe of a dispatch that somebody else started."""
        probe = Probe(self, self._clients[name], dispatch_id, name)
        self._started.append(probe)
        return probe

    async def start_raw(
        self, hooks: Hooks, *arguments: str | int, ready: bool = True, id: str | None = None, **fields: Any
    ) -> HookProbe:
        """Dispatch a probe through the hooks and wait until it says READY."""
        handle = await hooks.dispatch(id or new_dispatch_id(), self.spec(*arguments, **fields))
        probe = self.hook_probe(hooks, handle)
        if ready:
            await probe.ready()
        return probe

    def hook_probe(self, hooks: Hooks, handle: Handle) -> HookProbe:
        """Return the probe of a handle."""
        probe = HookProbe(self, hooks, handle)
        self._started.append(probe)
        return probe

    # -- other processes ---------------------------------------------------------------------------------------

    async def child(self, **what: Any) -> int:
        """Dispatch or cancel in a control plane of its own; see `agora_conformance.child.run`."""
        errors = self._folder / "child.stderr"
        order = {
            "home": str(self.home()),
            "target": {
                "name": self.setting.name,
                "provider": self.target.provider,
                "config": dict(self.setting.config),
            },
            "fault": None,
            "spec": None,
            "stderr": str(errors),
            **what,
        }
        code = await anyio.to_thread.run_sync(child.run, order)
        if errors.exists():
            self.measured["stderr"] = errors.read_text(encoding="utf-8")[-2000:]
        return code

    async def command(self, *arguments: str) -> tuple[int, bytes]:
        """Run the `agora` command in a process that knows the state directory and nothing else."""
        environment = {**os.environ, "AGORA_HOME": str(self.home())}
        with anyio.fail_after(child.LIMIT):
            done = await anyio.run_process(
                [sys.executable, "-m", "agora", *arguments], check=False, env=environment, cwd=self._folder
            )
        if done.returncode:
            self.measured["stderr"] = done.stderr.decode(errors="replace")[-2000:]
        return done.returncode, done.stdout

    # -- eyes --------------------------------------------------------------------------------------------------

    async def processes(self, installation: str, dispatch_id: str | None = None) -> list[int] | None:
        """Return the live processes that the target's eyes see; None where it has no eye for them."""
        eyes = self.target.eyes
        if not isinstance(eyes, SeesProcesses):
            return None
        return list(await anyio.to_thread.run_sync(eyes.processes, installation, dispatch_id))

    def accepts(self, field: str) -> None:
        """Raise `Inapplicable` where the provider declares that it refuses this field of the spec."""
        if field in self.limits.refused_fields:
            raise Inapplicable(f"the provider refuses {field}")

    # -- the end -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End what still runs and name what could not be ended."""
        with anyio.move_on_after(60, shield=True):
            for probe in self._started:
                with contextlib.suppress(AgoraError, Verdict, TimeoutError):
                    await probe.finish()
            for client in self._clients.values():
                with contextlib.suppress(AgoraError):
                    await client.reconcile()  # a record stays until inline secrets of it are removed
                    await client.prune(timedelta(0))  # what is left after that was left behind
            for hooks in self._hooks:
                with contextlib.suppress(AgoraError, Verdict):
                    await hooks.close()
            self._over.set()
            for installation in self._installations():
                await anyio.to_thread.run_sync(self._look_back, installation)

    def _installations(self) -> set[str]:
        files = [home / "installation" for home in self._folder.glob("*")]
        known = {file.read_text(encoding="utf-8").strip() for file in files if file.is_file()}
        return known | {hooks.installation for hooks in self._hooks}

    def _look_back(self, installation: str) -> None:
        eyes = self.target.eyes
        found = []
        if isinstance(eyes, SeesProcesses):
            found += [f"process {pid}" for pid in eyes.processes(installation, None)]
        if isinstance(eyes, SeesLeftovers):
            found += eyes.leftovers(installation)
        self.leftovers += found
        if isinstance(eyes, Sweeps) and (found or not isinstance(eyes, SeesProcesses)):
            eyes.sweep(installation)
