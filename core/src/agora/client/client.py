"""The async client: every front door uses it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc
from pydantic import ValidationError

from agora import handover
from agora.client.asking import Wanted, age_of, children_of, invalid, owner_of, spec_of, start_of, user_name
from agora.client.combinators import Combinators
from agora.client.handle import DispatchHandle
from agora.client.opened import Opened
from agora.config import Settings, settings_or_problem
from agora.errors import AgoraError
from agora.model.cancel import CancelResult
from agora.model.cause import Cause, Via
from agora.model.record import Record
from agora.model.spec import Spec
from agora.store import Store, default_home

if TYPE_CHECKING:
    from agora.client.members import Members
    from agora.client.run import Run
    from agora.client.targets import TargetStatus
    from agora.engine import Reaped, ReconcileReport
    from agora.plugins import ProviderStatus

    Reaps = list[Reaped]
    Providers = list[ProviderStatus]
    TargetList = list[TargetStatus]

Ids = list[str]

#: Leaving the client waits so long for submits under way, in seconds.
LEAVE_SECONDS = 10.0

NOT_OPEN = "the client is not open: use it as `async with AgoraClient() as client`"


class AgoraClient(Combinators):
    """A client of one state directory; an async context manager, on asyncio.

    Parameters:
        home: the state directory; `AGORA_HOME` or the platform's user state directory by default.
        settings: the configuration; read from files and variables by default.
        actor: who asks, in every cause; the user's name by default.
        via: the front door, in every cause.
        owner: for whom it acts, a plain name: what it dispatches belongs to them, and it may cancel nothing else;
            `AGORA_OWNER` by default. Without one, or where this is empty, it may cancel everything.
        supervisor: false leaves dispatches that outlive the client without anybody, and says so on their records.
        extensions: hook wrappers and listeners besides the installed ones.
    Raises:
        InvalidRequest: the owner is no plain name.
        StoreError: the state directory cannot be used (when entered).
        ConfigError: the configuration is wrong (when it is needed: what runs can be stopped all the same).
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        settings: Settings | None = None,
        actor: str | None = None,
        via: Via = Via.API,
        owner: str | None = None,
        supervisor: bool = True,
        extensions: Sequence[object] = (),
    ) -> None:
        self.home = home or default_home()
        self._settings = settings
        self._actor = actor
        self._via = via
        self._owner = owner_of(owner)
        self._wants_supervisor = supervisor
        self._extensions = tuple(extensions)
        self._parts: Opened | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings or settings_or_problem()
        store = await handover.made(self._store, Store.close)
        self._settings = settings
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        background = self._wants_supervisor and settings.supervisor
        self._parts = Opened(
            store, settings, tasks, extensions=self._extensions, background=background, owner=self._owner
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        parts = self._opened
        with anyio.move_on_after(LEAVE_SECONDS, shield=True):
            await parts.sent()
        parts.tasks.cancel_scope.cancel()
        try:
            with suppress(anyio.get_cancelled_exc_class()):
                await parts.tasks.__aexit__(None, None, None)
        finally:
            with anyio.CancelScope(shield=True):
                await parts.close()
            self._parts = None
        return None

    def _store(self) -> Store:
        return Store(self.home)

    @property
    def _opened(self) -> Opened:
        if self._parts is None:
            raise AgoraError(NOT_OPEN)
        return self._parts

    @property
    def settings(self) -> Settings:
        """The configuration in use."""
        return self._opened.settings

    def _cause(self, reason: str | None) -> Cause:
        actor = self._actor or self._opened.settings.actor or user_name()
        try:
            return Cause(actor=actor, via=self._via, reason=reason)
        except ValidationError as error:
            raise invalid("cause", error) from None

    async def dispatch(
        self,
        spec: Spec | None = None,
        *,
        target: str | None = None,
        id: str | None = None,
        parent: str | None = None,
        start_at: datetime | None = None,
        delay: float | None = None,
        **fields: Any,
    ) -> DispatchHandle:
        """Start a workload, now or later.

        Cancelling the caller does not cancel the dispatch.

        Parameters:
            spec: what to run; or its fields as keyword arguments.
            target: where; the default target if none is named.
            id: the dispatch id and idempotency key; a new one by default.
            parent: a dispatch whose cancel cancels this one too; in a workload of this store, its own by default,
                and none where this is empty.
            start_at: when to start it, with a time zone; it is `pending` until then. A time that has passed is now.
            delay: seconds from now until it starts, instead of `start_at`.
            fields: fields of `Spec`.
        Returns:
            its handle; the same one for the same id and spec. A definite refusal to start is a record in `failed`.
        Raises:
            InvalidRequest: the spec, the target or the configuration is wrong; nothing was recorded.
            DispatchConflict: the id, or the name in its run, is taken by another spec, or the id by another owner or
                another `start_at`.
            StoreError: the store cannot be written; nothing was started.
        """
        start = start_of(start_at, delay)
        entry = await self._opened.dispatcher.dispatch(spec_of(spec, fields), target, id, parent, start=start)
        return DispatchHandle(self, entry.public())

    def run(self, name: str) -> Run:
        """Make the scope of a run: `async with client.run("nightly") as run`; see `Run`.

        Parameters:
            name: of the run; letters, digits and inner dots, dashes and underscores, at most 63 characters.
        Raises:
            InvalidRequest: it cannot be the name of a run.
        """
        from agora.client.run import Run

        return Run(self, name, self._leaving("its run was left"), opened=lambda: self._opened, group=self._members)

    def _members(self, wanted: Sequence[Wanted], owned: bool, cancels: bool = False) -> Members:
        from agora.client.members import Members

        return Members(self, self._opened, wanted, owned, cancels, self._leaving("its group was left"))

    def _leaving(self, reason: str) -> Cause:
        return self._cause(reason).model_copy(update={"policy": "owner_gone"})

    async def cancel(
        self,
        id: str,
        *,
        reason: str | None = None,
        grace: int | None = None,
        force: bool = False,
        soft: int | None = None,
        children_grace: int | None = None,
        children_force: bool = False,
        cause: Cause | None = None,
    ) -> CancelResult:
        """Ask for a stop; best-effort and not synchronous: `wait()` waits for the end.

        Parameters:
            id: the dispatch.
            reason: why.
            grace: seconds until SIGKILL, whole, at least 2; the dispatch's own by default.
            force: kill without grace.
            soft: seconds for which its worker is asked to end by itself, before the stop is sent.
            children_grace: seconds until SIGKILL for those below it, or their own grace where that is shorter.
            children_force: kill those below it without grace. With neither they are stopped with the same `force` and
                `soft`, each with its own grace.
            cause: the whole cause, instead of this client's actor and `reason`.
        Returns:
            what became of it, within 10 s; `FORBIDDEN`, and nothing was done, where it belongs to somebody else.
        Raises:
            InvalidRequest: malformed; nothing was recorded.
            StoreError: the store cannot be reached.
        """
        children = children_of(children_grace, children_force)
        why = cause or self._cause(reason)
        result, after = await self._opened.engine.cancel(id, why, grace, force, soft, children, self._owner)
        if after is not None and after.unsettled:
            await self._opened.supervision.ensure_background(after)
        return result

    async def spend(self, id: str, /, **amounts: float) -> Record:
        """Add to what a dispatch has spent; for what counts outside of the workload.

        Parameters:
            id: the dispatch; one that has ended, too.
            amounts: by unit, how much more: a finite number from 0 on. Calling it again adds again.
        Returns:
            its record. One that has spent more than its budget is cancelled by whoever supervises it.
        Raises:
            InvalidRequest: there are no amounts, or one is none; nothing was added.
            DispatchNotFound: there is no such dispatch.
            Forbidden: it belongs to another owner.
        """
        entry = await self._opened.engine.spend(id, amounts, self._opened.owner)
        if entry.exceeded is not None and entry.unsettled:
            await self._opened.supervision.ensure_background(entry)
        return entry.public()

    async def reconcile(self) -> ReconcileReport:
        """Make one pass over everything live: look, keep deadlines, carry out recorded requests."""
        return await self._opened.engine.reconcile()

    async def supervise(self, *, until_idle: bool = False) -> None:
        """Be the supervisor, in the foreground.

        Parameters:
            until_idle: return when nothing is live any more.
        """
        await self._opened.engine.supervise(until_idle=until_idle)

    async def reap(self, *, dry_run: bool = False, installation: str | None = None) -> Reaps:
        """Stop workloads that carry our mark and that no record knows.

        Parameters:
            dry_run: only say what would be done.
            installation: take those of another, lost installation.
        Raises:
            AgoraError: a target cannot be asked.
        """
        return await self._opened.engine.reap(self._cause(None).actor, dry_run=dry_run, installation=installation)

    async def prune(self, older_than: timedelta, *, dry_run: bool = False) -> Ids:
        """Remove records that ended longer ago, with their logs.

        Parameters:
            older_than: since the end.
            dry_run: only say which.
        Raises:
            InvalidRequest: the age is below 0.
        """
        return await self._opened.engine.prune(age_of(older_than), dry_run=dry_run)

    def providers(self) -> Providers:
        """List the installed providers, broken ones with their error."""
        from agora.plugins import list_providers

        return list_providers()

    def targets(self) -> TargetList:
        """List the configured targets, wrong ones with their error."""
        from agora.client.targets import target_statuses

        return target_statuses(self._opened.settings)
