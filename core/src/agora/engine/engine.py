"""The engine: one object that owns every write, and the verbs that a client offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial

import anyio

from agora.config import Settings
from agora.engine.cancel import Canceller
from agora.engine.carry import Carrier
from agora.engine.core import Core
from agora.engine.deliver import Deliverer
from agora.engine.find import Finder
from agora.engine.later import Start
from agora.engine.listen import Listener
from agora.engine.look import Looker, ReconcileReport
from agora.engine.plan import next_step
from agora.engine.reap import Reaped, Reaper, reap_cause
from agora.engine.submit import Submitter
from agora.engine.supervise import Supervisor
from agora.engine.targets import LOOK_SECONDS, Target
from agora.errors import AgoraError, ConfigError, Forbidden
from agora.model.cancel import CancelResult
from agora.model.cause import Cause
from agora.model.record import Entry, Lease
from agora.model.spec import Spec
from agora.state import Children, Spent
from agora.state.budget import checked
from agora.store import Filter, Store


class Engine:
    """Everything that can be done with a state directory.

    Parameters:
        store: the journal.
        settings: the configuration.
        extensions: heard on every event, wrapped around every target, besides the installed ones.
    """

    def __init__(self, store: Store, settings: Settings, extensions: Sequence[object] = ()) -> None:
        self.store = store
        self.settings = settings
        self.core = Core(store, settings, extensions)
        finder = Finder(self.core)
        self.listener = Listener(self.core)
        deliverer = Deliverer(self.core, finder, self.listener)
        self._canceller = Canceller(self.core, deliverer)
        self._submitter = Submitter(self.core, deliverer, finder)
        self._looker = Looker(self.core, self.listener)
        self._carrier = Carrier(self.core, self._looker, self._submitter, deliverer)
        self._reaper = Reaper(self.core)
        self._identified: set[str] = set()

    async def record(
        self,
        spec: Spec,
        target_name: str | None,
        id: str | None,
        *,
        parent: str | None,
        owned: Lease | None,
        owner: str | None,
        start: Start,
        retries: str | None = None,
    ) -> tuple[Entry, Target, bool]:
        """Check and write down a dispatch; nothing is sent yet.

        Parameters:
            parent, owned, owner, start, retries: see `Submitter.record`.
        Returns:
            the entry, its target, and whether it is new.
        Raises:
            InvalidRequest: the spec or the target is wrong; nothing was recorded.
            DispatchConflict: the id or the name is taken by another spec, or the id by another owner.
            DispatchCancelled: somebody has cancelled the one that it tries again.
        """
        target = await self.core.targets.configured(target_name)
        await self._same_backend(target)
        entry, new = await self._submitter.record(
            spec, target, id, parent=parent, owned=owned, owner=owner, start=start, retries=retries
        )
        return entry, target, new

    async def send(self, entry: Entry, spec: Spec, target: Target) -> Entry:
        """Send a dispatch that was just recorded; see `Submitter.send`."""
        return await self._submitter.send(entry, spec, target)

    async def _same_backend(self, target: Target) -> None:
        """Refuse a target whose name stands for another backend in live dispatches.

        Raises:
            ConfigError: names both backends.
        """
        if target.name in self._identified or not target.implements("identity"):
            return
        entries = await self.store.listed(Filter(live=True, target=target.name))
        if others := {entry.handle.backend for entry in entries if entry.handle is not None}:
            identity: str | None = await target.call("identity", seconds=LOOK_SECONDS)
            if identity is not None and (foreign := others - {identity}):
                raise ConfigError(
                    f"target {target.name!r} now means backend {identity}, but live dispatches of that name run on "
                    f"{', '.join(sorted(foreign))}: give the new target another name"
                )
        self._identified.add(target.name)

    async def cancel(
        self,
        id: str,
        cause: Cause,
        grace: int | None = None,
        force: bool = False,
        soft: int | None = None,
        children: Children | None = None,
        owner: str | None = None,
    ) -> tuple[CancelResult, Entry | None]:
        """Cancel; see `Canceller.cancel`."""
        result, after = await self._canceller.cancel(id, cause, grace, force, soft, children, owner)
        await self.core.answered(result)
        return result, after

    async def spend(self, id: str, amounts: Mapping[str, object], owner: str | None) -> Entry:
        """Add to what a dispatch has spent; see `AgoraClient.spend`."""
        added = Spent(checked(amounts))
        entry = await self.store.read(id)
        if (why := entry.forbids(owner)) is not None:
            raise Forbidden(f"dispatch {id} cannot be said to have spent anything: {why}")
        return (await self.core.apply(entry, added)).entry

    async def refresh(self, entries: Sequence[Entry], seconds: float) -> set[str]:
        """Look at live dispatches for at most `seconds`.

        Returns:
            ids that could not be looked at in time.
        """
        live = [entry for entry in entries if entry.live]
        names = await self._looker.look(live, seconds)
        return {entry.id for entry in live if entry.target in names}

    async def reconcile(self) -> ReconcileReport:
        """Make one pass over everything live: look, keep deadlines, carry out recorded requests."""
        before = {entry.id: entry for entry in await self.store.read_many(await self.store.open_versions())}
        away = await self._looker.look(list(before.values()))
        now = self.store.now()
        async with anyio.create_task_group() as tasks:
            for entry in await self.store.read_many(before):
                if next_step(entry, now, self.core.bounds).action is not None:
                    tasks.start_soon(self._carry_out, entry)
        after = await self.store.read_many(before)
        changed = tuple(entry.id for entry in after if entry.state is not before[entry.id].state)
        return ReconcileReport(len(before), changed, tuple(away))

    async def _carry_out(self, entry: Entry) -> None:
        try:
            await self._carrier.carry_out(entry)
        except AgoraError as error:
            await self._looker.failed([entry], error)

    async def supervise(self, *, until_idle: bool, mine: bool = False, defer: float = 0.0) -> None:
        """Supervise until cancelled.

        Parameters:
            until_idle: return when nothing is live any more.
            mine: only what this process waits for.
            defer: seconds by which a waiting client goes first.
        """
        wanted = self._waited_for if mine else None
        await Supervisor(self.core, self._carrier, wanted, defer).run(until_idle)

    def _waited_for(self, id: str) -> bool:
        return self.core.interest[id] > 0

    async def reap(self, actor: str, *, dry_run: bool, installation: str | None) -> list[Reaped]:
        """Stop what carries our mark and no record knows; see `Reaper.reap`."""
        return await self._reaper.reap(reap_cause(actor), dry_run=dry_run, installation=installation)

    async def prune(self, older_than: timedelta, *, dry_run: bool) -> list[str]:
        """Remove ended records; see `Reaper.prune`."""
        return await self._reaper.prune(older_than, dry_run=dry_run)

    async def close(self) -> None:
        """Let targets and store go; what runs goes on."""
        await self.core.targets.close()
        await anyio.to_thread.run_sync(partial(self.store.close), abandon_on_cancel=True)
