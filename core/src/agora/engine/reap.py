"""Reaping: workloads that carry our mark and that no record knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import anyio.to_thread

from agora.config import TargetConfig
from agora.engine.core import Core
from agora.engine.inbox import forget
from agora.engine.targets import LOOK_SECONDS, STOP_SECONDS, Target
from agora.errors import AgoraError, DispatchNotFound
from agora.model.base import Model
from agora.model.cause import Cause, Via
from agora.model.observation import Owned
from agora.model.record import Entry
from agora.model.spec import DEFAULT_GRACE

logger = logging.getLogger(__name__)


class Reaped(Model):
    """What reap did, or would do, with one workload.

    Parameters:
        target, id, installation: which one.
        age: seconds since the backend made it.
        action: what was done; `kept` with the reason.
        reason: why.
    """

    target: str
    id: str
    installation: str
    age: float
    action: Literal["would stop", "would remove", "stopped", "removed", "kept", "failed"]
    reason: str


class Reaper:
    """Finds and stops orphans.

    Parameters:
        core: the common ground.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def reap(self, cause: Cause, *, dry_run: bool, installation: str | None) -> list[Reaped]:
        """Go through every configured target: list the backend first, read the store after.

        Parameters:
            cause: who asks.
            dry_run: only say what would be done.
            installation: another, lost installation whose workloads to take; ours by default.
        Raises:
            ConfigError: the configuration cannot be read.
        Returns:
            a row a workload; and one without an id, `failed`, for a target that cannot be asked.
        """
        wanted = installation or self._core.store.installation
        found: list[Reaped] = []
        self._core.settings.require()
        for config in self._core.settings.targets.values():
            try:
                found += await self._reap_target(config, wanted, cause, dry_run)
            except AgoraError as error:
                found.append(
                    Reaped(target=config.name, id="", installation=wanted, age=0, action="failed", reason=str(error))
                )
        return found

    async def _reap_target(self, config: TargetConfig, installation: str, cause: Cause, dry_run: bool) -> list[Reaped]:
        target = await self._core.targets.get(config)
        owned: Sequence[Owned] = await target.call("list_owned", seconds=LOOK_SECONDS, installation=installation)
        now = self._core.store.now()
        found = []
        for one in owned:
            age = (now - one.created_at).total_seconds()
            reason = await self._keep_reason(one, age)
            action: str = "kept"
            if reason is None:
                reason = "no record knows it"
                action, reason = await self._take(target, one, cause, reason, dry_run)
            found.append(
                Reaped.model_validate(
                    {
                        "target": target.name,
                        "id": one.handle.id,
                        "installation": one.installation,
                        "age": age,
                        "action": action,
                        "reason": reason,
                    }
                )
            )
        return found

    async def _keep_reason(self, one: Owned, age: float) -> str | None:
        try:
            await self._core.store.read(one.handle.id)
        except DispatchNotFound:
            pass
        else:
            return "the store knows it"
        if one.ended:
            return None
        oldest = self._core.settings.timeout_cap + DEFAULT_GRACE
        return None if age > oldest else f"younger than the timeout cap and grace ({oldest} s)"

    async def _take(self, target: Target, one: Owned, cause: Cause, reason: str, dry_run: bool) -> tuple[str, str]:
        if dry_run:
            return ("would remove" if one.ended else "would stop"), reason
        try:
            if one.ended:
                if target.implements("release"):
                    await target.call("release", seconds=LOOK_SECONDS, handle=one.handle)
                return "removed", reason
            await target.call("stop", seconds=STOP_SECONDS, handle=one.handle, grace=DEFAULT_GRACE, cause=cause)
        except AgoraError as error:
            return "failed", str(error)
        return "stopped", reason

    async def prune(self, older_than: timedelta, *, dry_run: bool) -> list[str]:
        """Remove ended records, what the backend keeps of them, and what was decided about them.

        Parameters:
            older_than: since the end.
            dry_run: only say which.
        Returns:
            ids of what was, or would be, removed; a record whose target cannot be asked stays.
        """
        store = self._core.store
        before = store.now() - older_than
        old = await store.ended_before(before)
        removed = [entry.id for entry in old if dry_run or await self._remove(entry)]
        if not dry_run:
            await store.decided.forget(before)
        return removed

    async def _remove(self, entry: Entry) -> bool:
        if entry.handle is not None:
            try:
                target = await self._core.targets.of(entry)
                if target.implements("release"):
                    await target.call("release", seconds=LOOK_SECONDS, handle=entry.handle)
            except AgoraError as error:
                logger.warning("dispatch %s: kept, since its target cannot be asked: %s", entry.id, error)
                return False
        if entry.askable:
            await anyio.to_thread.run_sync(forget, self._core.store.home, entry)
        await self._core.store.delete(entry.id)
        return True


def reap_cause(actor: str) -> Cause:
    """The cause of a stop by reap."""
    return Cause(actor=actor, via=Via.POLICY, policy="reap", reason="no record knows it")
