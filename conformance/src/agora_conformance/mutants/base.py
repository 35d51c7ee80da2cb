"""A provider with one planted fault: everything goes to the real one, but for what a subclass changes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, ClassVar

from agora.hookspecs import Check, WatchSink, hookimpl
from agora.model.base import Model
from agora.model.capabilities import UNDECLARED, Capabilities
from agora.model.cause import Cause
from agora.model.observation import Handle, LogChunk, Observation, Owned, StopReceipt
from agora.model.spec import Spec
from agora.plugins import TargetHooks, load_provider
from agora.provider import Installation, ProviderInfo

from agora_conformance.discover import load_target
from agora_conformance.target import OVERHEAD_CAP, ConformanceTarget

#: The provider, and the target, that every mutant wraps.
BASE = "local"


@cache
def base_provider() -> ProviderInfo:
    """Return the provider that every mutant wraps."""
    return load_provider(BASE)


class Mutant:
    """A plugin that delegates every hook; subclasses are found by their names in kebab case.

    Parameters:
        inner: the real plugin.
        installation: the store that it works for.
    """

    #: Capability claims that differ from the real ones. The native deadline is left out by default: its check
    #: takes more than a minute, and one mutant is there for it.
    CLAIMS: ClassVar[Mapping[str, Any]] = {"native_deadline": UNDECLARED}

    def __init__(self, inner: object, installation: Installation) -> None:
        self.inner = TargetHooks(BASE, inner)
        self.installation = installation

    # -- what a subclass changes -------------------------------------------------------------------------------

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Change what is said of a workload, by whatever way it is said."""
        return seen

    # -- the hooks ---------------------------------------------------------------------------------------------

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        handle: Handle = self.inner.call("dispatch", id=id, spec=spec, check=check)
        return self._told_handle(handle)

    def _told_handle(self, handle: Handle) -> Handle:
        return handle.model_copy(update={"first": handle.first and self.told(handle.id, handle.first)})

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt: StopReceipt = self.inner.call("stop", handle=handle, grace=grace, cause=cause)
        return receipt

    def _kill(self, handle: Handle) -> StopReceipt:
        receipt: StopReceipt = self.inner.call("kill", handle=handle)
        return receipt

    def _look(self, handle: Handle) -> Observation:
        seen: Observation = self.inner.call("observe", handles=[handle])[0]
        return seen

    @hookimpl
    def check(self, spec: Spec) -> object:
        """Refuse what cannot be honoured."""
        return self.inner.call("check", spec=spec)

    @hookimpl
    def identity(self) -> str | None:
        """Prove which backend this is."""
        name: str | None = self.inner.call("identity")
        return name

    @hookimpl
    def dispatch(self, id: str, spec: Spec, check: Check) -> Handle:
        """Start the workload."""
        return self._start(id, spec, check)

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        """Stop the workload."""
        return self._receipt(handle, self._stop(handle, grace, cause))

    @hookimpl
    def kill(self, handle: Handle) -> StopReceipt:
        """Kill the workload."""
        return self._receipt(handle, self._kill(handle))

    def _receipt(self, handle: Handle, receipt: StopReceipt) -> StopReceipt:
        seen = receipt.observation and self.told(handle.id, receipt.observation)
        return receipt.model_copy(update={"observation": seen})

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Say how the workloads are."""
        return [self.told(handle.id, self._look(handle)) for handle in handles]

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Find a workload."""
        handle: Handle | None = self.inner.call("find", id=id)
        return handle and self._told_handle(handle)

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List the workloads of an installation."""
        owned: Sequence[Owned] = self.inner.call("list_owned", installation=installation)
        return owned

    @hookimpl
    def watch(self, sink: WatchSink) -> object:
        """Push what happens."""
        return self.inner.call("watch", sink=ToldSink(self, sink))

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Read the output."""
        chunks: Iterator[LogChunk] = self.inner.call("logs", handle=handle, follow=follow, since=since, tail=tail)
        return chunks

    @hookimpl
    def release(self, handle: Handle) -> object:
        """Remove what is kept."""
        return self.inner.call("release", handle=handle)

    @hookimpl
    def close(self) -> object:
        """Let go."""
        return self.inner.call("close")


class ToldSink:
    """A sink that hears what a mutant tells."""

    def __init__(self, mutant: Mutant, sink: WatchSink) -> None:
        self._mutant = mutant
        self._sink = sink

    def connected(self) -> None:
        """Pass it on."""
        self._sink.connected()

    def push(self, dispatch_id: str, observation: Observation) -> None:
        """Pass on what the mutant makes of it."""
        self._sink.push(dispatch_id, self._mutant.told(dispatch_id, observation))

    def stale(self, dispatch_id: str) -> None:
        """Pass it on."""
        self._sink.stale(dispatch_id)

    def handles(self) -> Mapping[str, Handle]:
        """Pass it on."""
        return self._sink.handles()

    @property
    def closed(self) -> bool:
        """Whether the watch must return."""
        return self._sink.closed


def name_of(kind: type[Mutant]) -> str:
    """Return a mutant's name: `KillsAtOnce` is `kills-at-once`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def provider_of(kind: type[Mutant]) -> ProviderInfo:
    """Return the provider that makes plugins of this kind."""
    real = base_provider()

    def create(target_name: str, config: Model, installation: Installation) -> object:
        return kind(real.create(target_name, config, installation), installation)

    claims = {**dict(real.capabilities), **kind.CLAIMS}
    return dataclasses.replace(
        real, name=name_of(kind), create=create, capabilities=Capabilities.model_validate(claims)
    )


def target_of(kind: type[Mutant], address: str) -> ConformanceTarget:
    """Return the base's target with this mutant as its provider.

    Parameters:
        address: where the mutant's provider can be imported from.
    """
    # Many mutants run at once on one machine, so they get all the time that a target may ask for.
    return dataclasses.replace(load_target(BASE), provider=address, overhead=OVERHEAD_CAP)
