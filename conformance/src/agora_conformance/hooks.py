"""The hooks of one provider instance, called as the contract lets anybody call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from agora.config import TargetConfig, validate_target
from agora.errors import AgoraError, ConfigError
from agora.hookspecs import Check
from agora.model.cause import Cause, Via
from agora.model.observation import Handle, Observation, Owned, Phase, StopReceipt
from agora.model.spec import Spec
from agora.plugins import TargetHooks, load_provider
from agora.provider import Installation, ProviderInfo

from agora_conformance.target import ConformanceTarget
from agora_conformance.verdict import Violation

#: Seconds that a stop may take (contract 3), and that the suite gives any other hook.
STOP_LIMIT = 10.0
CALL_LIMIT = 30.0

T = TypeVar("T")


def nothing_requested() -> None:
    """Be the `check` of a dispatch that nobody wants stopped."""


async def bounded(call: Callable[[], T], limit: float, what: str) -> T:
    """Run a blocking call in a thread, and give it up after `limit` seconds.

    Raises:
        Violation: it did not answer in time, or raised something that is no error of the contract.
    """
    try:
        with anyio.fail_after(limit):
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
    except TimeoutError:
        raise Violation(f"{what} did not answer within {limit:g} s") from None
    except (AgoraError, Violation):
        raise
    except Exception as error:
        raise Violation(f"{what} raised {type(error).__name__}: {error}") from error


class Hooks:
    """One instance of the provider, as one control plane has it.

    Parameters:
        info: the provider.
        target: name of the target.
        config: its table in the configuration.
        installation: the store's mark.
        directory: where the provider may keep files.
    """

    def __init__(
        self, info: ProviderInfo, target: str, config: Mapping[str, Any], installation: str, directory: Path
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.installation = installation
        model = validate_target(TargetConfig(target, info.name, config), info.config_model)
        self._hooks = TargetHooks(target, info.create(target, model, Installation(installation, directory)))

    def has(self, name: str) -> bool:
        """Whether the provider implements the hook."""
        return name in self._hooks.hooks

    async def call(self, name: str, limit: float = CALL_LIMIT, **arguments: Any) -> Any:
        """Call one hook in a thread."""
        return await bounded(lambda: self._hooks.call(name, **arguments), limit, f"the {name} hook")

    async def dispatch(self, id: str, spec: Spec, check: Check = nothing_requested) -> Handle:
        """Start the workload or adopt it."""
        return _typed(await self.call("dispatch", id=id, spec=spec, check=check), Handle, "dispatch")

    async def stop(self, handle: Handle, grace: int, reason: str = "conformance") -> StopReceipt:
        """Stop the workload; ten seconds are the contract's bound."""
        cause = Cause(actor="agora-conformance", via=Via.API, reason=reason)
        receipt = await self.call("stop", STOP_LIMIT, handle=handle, grace=grace, cause=cause)
        return _typed(receipt, StopReceipt, "stop")

    async def observe(self, handle: Handle) -> Observation:
        """Observe one workload."""
        seen: Sequence[Observation] = await self.call("observe", handles=[handle])
        if len(seen) != 1:
            raise Violation(f"observe answered {len(seen)} observations to one handle")
        return _typed(seen[0], Observation, "observe")

    async def find(self, id: str) -> Handle | None:
        """Find a workload by id."""
        found = await self.call("find", id=id)
        return None if found is None else _typed(found, Handle, "find")

    async def owned(self, installation: str | None = None) -> list[Owned]:
        """List the workloads of an installation, by default of this one."""
        return list(await self.call("list_owned", installation=installation or self.installation))

    async def logs(self, handle: Handle, stream: str = "stdout") -> bytes:
        """Read all output so far of one stream."""

        def read() -> bytes:
            chunks = self._hooks.call("logs", handle=handle, follow=False, since=None, tail=None)
            return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)

        return await bounded(read, CALL_LIMIT, "the logs hook")

    async def end(self, handle: Handle, within: float) -> Observation:
        """Wait for proof of death, at most `within` seconds."""
        with anyio.move_on_after(within):
            while True:
                seen = await self.observe(handle)
                if seen.phase is Phase.ENDED and seen.reachable:
                    return seen
                await anyio.sleep(0.1)
        raise Violation(f"no proof of death within {within:g} s")

    async def close(self) -> None:
        """Let the instance go."""
        if self.has("close"):
            await self.call("close")


def check_table(name: str, target: ConformanceTarget, config: Mapping[str, Any]) -> None:
    """See that the provider takes a target's table, as every check will give it.

    Raises:
        ConfigError: it refuses the table.
        ProviderNotInstalled: there is no such provider.
    """
    info = load_provider(target.provider)
    written = TargetConfig(name, target.provider, dict(config), "the file of --target-config")
    validate_target(written, info.config_model)

    async def make() -> None:
        with TemporaryDirectory(prefix="agora-conformance-") as folder, suppress(Violation):
            hooks = await bounded(
                lambda: Hooks(info, name, config, "agora-conformance", Path(folder)), CALL_LIMIT, "the provider"
            )
            await hooks.close()

    try:
        anyio.run(make)
    except ConfigError:
        raise
    except AgoraError:
        return  # that is no fault of the table; the checks will tell


def _typed(value: Any, wanted: type[T], hook: str) -> T:
    if not isinstance(value, wanted):
        raise Violation(f"the {hook} hook returned {type(value).__name__} and no {wanted.__name__}")
    return value
