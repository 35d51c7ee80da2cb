"""Dispatching: in tasks of the client's own, so that a caller who leaves leaves a whole dispatch."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial

import anyio
import anyio.abc

from agora.client.supervision import Supervision
from agora.engine import Engine
from agora.engine.later import Start
from agora.engine.targets import Target
from agora.errors import DispatchNotFound
from agora.model.record import Entry, Lease, State
from agora.model.spec import Spec

logger = logging.getLogger(__name__)

#: A member of a group is cancelled when its owner has given no sign for so long, in seconds.
OWNER_SECONDS = 30.0


class Sends:
    """Counts submits under way, so that leaving can wait for them."""

    def __init__(self) -> None:
        self._under_way = 0
        self._none = anyio.Event()
        self._none.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """One submit."""
        self._under_way += 1
        if self._none.is_set():
            self._none = anyio.Event()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._none.set()

    async def wait(self) -> None:
        """Wait until none is under way."""
        while self._under_way:
            await self._none.wait()


class Dispatcher:
    """Dispatches on behalf of one client.

    Parameters:
        engine: the engine.
        supervision: who looks after what is sent.
        tasks: where sends run.
        owner: for whom.
    """

    def __init__(self, engine: Engine, supervision: Supervision, tasks: anyio.abc.TaskGroup, owner: str | None) -> None:
        self._engine = engine
        self._owner = owner
        self._supervision = supervision
        self._tasks = tasks
        self._sends = Sends()

    async def wait(self) -> None:
        """Wait until no send is under way."""
        await self._sends.wait()

    def ownership(self) -> Lease:
        """Return a claim on a member of a group that begins now."""
        core = self._engine.core
        return Lease(owner=core.owner, until=core.store.now() + timedelta(seconds=OWNER_SECONDS))

    async def dispatch(
        self, spec: Spec, target: str | None, id: str | None, parent: str | None, *, start: Start = None,
        owned: set[str] | None = None, retries: str | None = None,
    ) -> Entry:  # fmt: skip
        """Start a workload; see `AgoraClient.dispatch`.

        Parameters:
            start: when any supervisor is to send it; here and now where null.
            owned: where its id goes as soon as it is on record, for who cancels it when they leave; it is cancelled
                when this process dies.
            retries: the dispatch that it tries again.
        """
        engine = self._engine
        if "timeout" not in spec.model_fields_set:
            spec = spec.model_copy(update={"timeout": min(spec.timeout, engine.settings.timeout_cap)})
        spec = spec.for_owner(self._owner)
        above = await self._parent() if parent is None else parent
        claim = None if owned is None else self.ownership()

        async def record() -> tuple[Entry, Target, bool]:
            recorded = await engine.record(
                spec, target, id, parent=above or None, owned=claim, owner=self._owner, start=start, retries=retries
            )
            if owned is not None:
                owned.add(recorded[0].id)
            return recorded

        async def put_off() -> Entry:
            entry, _, _ = await record()
            await self._supervision.take_over(entry)
            return entry

        if start is not None:
            return await self._apart(put_off)
        entry, where, new = await record()
        if new:
            return await self._apart(partial(self._send, entry, spec, where))
        if entry.unsettled:
            await self._supervision.ensure_background(entry)
        return entry

    async def _parent(self) -> str | None:
        """Return the dispatch of this store that this process runs in, while it runs."""
        store = self._engine.store
        id = os.environ.get("AGORA_DISPATCH_ID")
        if not id or os.environ.get("AGORA_DISPATCH_INSTALLATION") != store.installation:
            return None
        with suppress(DispatchNotFound):
            await store.read(id)
            return id
        return None

    async def _send(self, entry: Entry, spec: Spec, target: Target) -> Entry:
        try:
            entry = await self._engine.send(entry, spec, target)
        finally:
            await self._supervision.take_over(entry)
        if entry.state is State.SUBMITTED and entry.failure is not None:
            logger.warning("dispatch %s is not started yet and tried again: %s", entry.id, entry.failure.message)
        return entry

    async def _apart(self, work: Callable[[], Awaitable[Entry]]) -> Entry:
        """Do it in a task of the client's own: a cancelled caller leaves neither a half-sent nor a lone dispatch."""
        done = anyio.Event()
        outcome: list[Entry | Exception] = []

        async def carry_out() -> None:
            with self._sends.one():
                try:
                    outcome.append(await work())
                except Exception as error:  # noqa: BLE001 - handed to the caller below
                    outcome.append(error)
                finally:
                    done.set()

        self._tasks.start_soon(carry_out)
        await done.wait()
        if isinstance(result := outcome[0], Exception):
            raise result
        return result
