"""The members of one group: dispatched together, waited for together, cancelled together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio

from agora.client.asking import Wanted
from agora.client.claims import Claims
from agora.client.opened import Opened
from agora.errors import AgoraError, Forbidden
from agora.model.cause import Cause
from agora.model.record import Entry, Record

if TYPE_CHECKING:
    from agora.client.client import AgoraClient

#: The proof of a member's death is waited for so long after its end, in seconds; after that it is told as it is.
PROOF_SECONDS = 30.0


#: A stop that was accepted ends its dispatch, proven or not, within the grace and 60 s (contract 2). One that no target
#: has accepted is waited for no longer: its member is told as it stands, in seconds beyond the grace.
STOP_SECONDS = 75.0


class Members:
    """An async context manager around one group.

    Parameters:
        client: for cancels and waits.
        parts: the client's.
        wanted: the members.
        owned: whether those that are there already are ours too.
        cancels: whether some are cancelled while the group goes on.
        leaving: the cause with which ours are cancelled when the group is left by an error or a cancellation.
    """

    def __init__(
        self,
        client: AgoraClient,
        parts: Opened,
        wanted: Sequence[Wanted],
        owned: bool,
        cancels: bool,
        leaving: Cause,
    ) -> None:
        self._client = client
        self._store = parts.store
        self._supervision = parts.supervision
        self._targets = parts.engine.core.targets
        self._claims = Claims(client, parts, leaving)
        self._tasks = parts.tasks
        self._owner = parts.owner
        self._wanted = wanted
        self._owned = owned
        self._cancels = cancels or owned
        self._ids: dict[int, str] = {}
        self._ended: set[str] = set()
        self._scope = anyio.CancelScope()
        self._send, self._receive = anyio.create_memory_object_stream[Record | Exception](len(wanted) + 1)

    @property
    def ids(self) -> list[str]:
        """Ids in the order given."""
        return [self._ids[number] for number in sorted(self._ids)]

    def now(self) -> datetime:
        """Return the store's clock."""
        return self._store.now()

    async def __aenter__(self) -> Members:
        failures: list[Exception] = []

        async def begin(number: int, one: Wanted) -> None:
            try:
                await self._begin(number, one)
            except AgoraError as error:
                failures.append(error)

        try:
            for one in self._wanted:
                await self._check(one)
            async with anyio.create_task_group() as tasks:
                for number, one in enumerate(self._wanted):
                    tasks.start_soon(begin, number, one)
            if failures:
                raise failures[0]
            self._supervision.ensure_foreground()
            self._tasks.start_soon(self._look_after)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave(cancel=kind is not None)

    async def _check(self, one: Wanted) -> None:
        """Check what can be checked before anything starts.

        Raises:
            Forbidden: this group could not cancel it, since it belongs to another owner.
        """
        if one.spec is None:
            entry = await self._store.read(str(one.id))
            if self._cancels and (why := entry.forbids(self._owner)) is not None:
                raise Forbidden(f"dispatch {one.id} cannot be a member of a group that may cancel it: {why}")
        else:
            (await self._targets.configured(one.target)).check_spec(one.spec)

    async def _begin(self, number: int, one: Wanted) -> None:
        if one.spec is not None:
            entry = await self._claims.dispatch(
                one.spec, one.target, one.id, one.parent, start=one.start, retries=one.retries
            )
        else:
            entry = await self._store.read(str(one.id))
            if self._owned:
                await self._claims.hold(entry.id)
        self._ids[number] = entry.id

    async def _leave(self, *, cancel: bool = True) -> None:
        self._scope.cancel()
        self._send.close()
        self._receive.close()
        if cancel:
            await self._claims.cancel()

    async def _look_after(self) -> None:
        """Tell every end once, and keep the claim on ours up, until the group is left."""
        # What is closed at the end of it all wakes who waits, also where the client is closed meanwhile.
        with self._send, self._scope, ExitStack() as interest:
            for id in self.ids:
                interest.enter_context(self._supervision.waiting_for(id))
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._claims.keep)
                    await self._tell_ends()
                    tasks.cancel_scope.cancel()
            except* AgoraError as failed:
                self._tell(failed.exceptions[0])

    async def _tell_ends(self) -> None:
        known: dict[str, int] = {}
        async with self._store.pulse.listen() as ear:
            while len(self._ended) < len(self._ids):
                versions = await self._store.open_versions()
                over: list[Entry] = []
                for id in self.ids:
                    if id in self._ended or (id in known and known[id] == versions.get(id)):
                        continue
                    entry = await self._store.read(id)
                    known[id] = entry.version
                    if entry.state.terminal:
                        over.append(entry)
                for entry in sorted(over, key=lambda entry: entry.ended_at or self.now()):
                    self._ended.add(entry.id)
                    self._claims.ended(entry.id)
                    self._tell(entry.public())
                self._supervision.ensure_foreground()
                await ear.wait(1.0)

    def _tell(self, what: Record | Exception) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the group was left meanwhile
            self._send.send_nowait(what)

    async def ended(self) -> AsyncIterator[Record]:
        """Yield every member's record when it has ended, in the order of the ends.

        Raises:
            AgoraError: they cannot be looked after any more.
        """
        for _ in self._wanted:
            try:
                told = await self._receive.receive()
            except anyio.EndOfStream:
                raise AgoraError("the client was closed") from None
            if isinstance(told, Exception):
                raise told
            yield told

    async def proven(self, id: str) -> Record:
        """Wait for a member's end, and a bounded time more for the proof of its death."""
        ended = await self._client.wait(id)
        with anyio.move_on_after(PROOF_SECONDS):
            return await self._client.wait(id, confirmed=True)
        return ended

    async def _stopped(self, id: str) -> Record:
        grace = (await self._store.read(id)).grace
        with anyio.move_on_after(grace + STOP_SECONDS):
            return await self.proven(id)
        return (await self._store.read(id)).public()

    async def cancel(self, ids: Sequence[str], reason: str) -> dict[str, Record]:
        """Cancel some members and wait until each is proven to be over, or cannot be proven to be.

        Returns:
            their records; in `stopping` where the target does not answer.
        """
        records: dict[str, Record] = {}
        failures: list[AgoraError] = []

        async def cancel(id: str) -> None:
            try:
                await self._client.cancel(id, reason=reason)
                records[id] = await self._stopped(id)
            except AgoraError as error:
                failures.append(error)  # one's failure keeps no other from being cancelled

        async with anyio.create_task_group() as tasks:
            for id in ids:
                tasks.start_soon(cancel, id)
        if failures:
            raise failures[0]
        return records

    async def decision(self, key: str) -> dict[str, Any] | None:
        """Return what was decided under a key."""
        return await self._store.decided.decision(key)

    async def decide(self, key: str, decision: dict[str, Any]) -> dict[str, Any]:
        """Write a decision down; return the one that stands."""
        return await self._store.decided.decide(key, decision)
