"""A run: the scope of a program in which it dispatches, waits and cancels by names, and that has an outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import anyio

from agora.client.asking import Wanted, spec_of, start_of
from agora.client.claims import Claims
from agora.client.handle import DispatchHandle
from agora.client.opened import Opened
from agora.errors import AgoraError, DispatchCancelled, DispatchEnded, InvalidRequest
from agora.model.cancel import CancelResult
from agora.model.cause import Cause
from agora.model.ids import member_id
from agora.model.record import Record, State
from agora.model.run import MAX_ERROR, RunOutcome
from agora.model.spec import Spec
from agora.store import Filter

if TYPE_CHECKING:
    from agora.client.client import AgoraClient
    from agora.client.members import Members

logger = logging.getLogger(__name__)

#: An exception is written down within this time, or the run stays open, in seconds.
SEAL_SECONDS = 5.0


class How(TypedDict, total=False):
    """How to cancel: what `AgoraClient.cancel` takes beside the id."""

    reason: str | None
    grace: int | None
    force: bool
    soft: int | None
    children_grace: int | None
    children_force: bool
    cause: Cause | None


class Run:
    """An async context manager around one run.

    The same program run again after a crash adopts what it dispatched under the same names, starts nothing twice, and
    is told the same ends. Left normally, it waits for its members; left by an exception or a cancellation, it cancels
    them with the policy `owner_gone`, as the death of this process does after 30 s. Then its outcome is written down,
    once and for ever, unless it was left by a cancellation, which leaves it open.

    Parameters:
        client: for the verbs.
        name: of the run.
        leaving: the cause with which members are cancelled.
        opened: returns the client's parts.
        group: makes a group of members that are there.
    Raises:
        InvalidRequest: it cannot be the name of a run.
    """

    def __init__(
        self,
        client: AgoraClient,
        name: str,
        leaving: Cause,
        *,
        opened: Callable[[], Opened],
        group: Callable[[Sequence[Wanted], bool], Members],
    ) -> None:
        spec_of(None, {"run": name})
        self.name = name
        self._client = client
        self._leaving = leaving
        self._opened = opened
        self._group = group
        self._scope: anyio.CancelScope | None = None
        self._claims: Claims | None = None
        self._outcome: RunOutcome | None = None

    @property
    def outcome(self) -> RunOutcome | None:
        """How it was left, now or in an earlier process; null while it is open."""
        return self._outcome

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise AgoraError(f"this scope of run {self.name!r} was entered already: make another one")
        parts = self._opened()
        self._scope = anyio.CancelScope()
        self._claims = Claims(self._client, parts, self._leaving)
        self._outcome = await parts.store.decided.outcome(self.name)
        if self._outcome is None:
            # What the process before has left behind lives until its claims run out, unless we take them over.
            for entry in await parts.store.listed(Filter(live=True, run=self.name)):
                if entry.owned is not None and not entry.forbids(parts.owner):
                    await self._claims.hold(entry.id)
        parts.tasks.start_soon(self._keep, self._claims, self._scope)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        claims = self._entered
        try:
            if error is None:
                await self._wait_for(claims)
                await self._seal(RunOutcome(run=self.name, state=State.SUCCEEDED, ended_at=self._opened().store.now()))
            elif isinstance(error, Exception):
                await self._failed(error)
        finally:
            self._claims = None
            if self._scope is not None:
                self._scope.cancel()
            await claims.cancel()

    async def _wait_for(self, claims: Claims) -> None:
        async with self._group([Wanted(id) for id in claims.held], False) as group:
            async for record in group.ended():
                claims.ended(record.id)

    async def _failed(self, error: Exception) -> None:
        """Write down that an exception leaves it; that it could not be is told, and keeps nobody from the exception."""
        try:
            with anyio.fail_after(SEAL_SECONDS, shield=True):
                await self._seal(_outcome_of(self.name, error, self._opened()))
        except (AgoraError, TimeoutError) as unwritten:
            logger.warning("run %s stays open: its outcome could not be written down: %s", self.name, unwritten)

    async def _seal(self, outcome: RunOutcome) -> None:
        self._outcome = await self._opened().store.decided.seal(outcome)

    async def _keep(self, claims: Claims, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    await claims.keep()
                except AgoraError as error:
                    logger.warning("run %s: the claims on its members cannot be kept up: %s", self.name, error)

    @property
    def _entered(self) -> Claims:
        if self._claims is None:
            raise AgoraError(f"run {self.name!r} is not open: use it as `async with client.run(...) as run`")
        return self._claims

    async def dispatch(
        self,
        name: str,
        spec: Spec | None = None,
        *,
        target: str | None = None,
        parent: str | None = None,
        start_at: datetime | None = None,
        delay: float | None = None,
        **fields: Any,
    ) -> DispatchHandle:
        """Start a member, or adopt the one that has this name.

        Parameters:
            name: of the member; its id is made of it and of the run's name.
            spec, target, parent, start_at, delay, fields: as `AgoraClient.dispatch` takes them.
        Returns:
            its handle.
        Raises:
            InvalidRequest: malformed; or it is new, and the run is over.
            DispatchConflict: the member of this name was dispatched with another spec or target, or another `start_at`.
            StoreError: the store cannot be written; nothing was started.
        """
        claims = self._entered
        spec, start = spec_of(spec, fields), start_of(start_at, delay)
        named = spec_of(None, {"run": self.name, "name": name})
        if spec.run not in (None, self.name) or spec.name not in (None, name):
            raise InvalidRequest(f"the spec of {name!r} names another run or another name")
        spec = spec.model_copy(update={"run": named.run, "name": named.name})
        id = member_id(self.name, name)
        if self._outcome is None:
            entry = await claims.dispatch(spec, target, id, parent, start=start)
            return DispatchHandle(self._client, entry.public())
        return await self._client.dispatch(spec, target=target, id=id, parent=parent, start_at=start_at, delay=delay)

    async def wait(self, name: str, *, timeout: float | None = None, confirmed: bool = False) -> Record:
        """Wait for a member's end; see `AgoraClient.wait`."""
        return await self._client.wait(member_id(self.name, name), timeout=timeout, confirmed=confirmed)

    async def result(self, name: str, *, timeout: float | None = None) -> Record:
        """Wait for a member's success; see `AgoraClient.result`."""
        return await self._client.result(member_id(self.name, name), timeout=timeout)

    async def cancel(self, name: str, **how: Unpack[How]) -> CancelResult:
        """Cancel one member; see `AgoraClient.cancel`."""
        return await self._client.cancel(member_id(self.name, name), **how)

    async def cancel_all(self, **how: Unpack[How]) -> list[CancelResult]:
        """Cancel everything live of this run, also what was dispatched into it from elsewhere.

        Parameters:
            how: as `AgoraClient.cancel` takes them.
        Returns:
            what became of each; `FORBIDDEN` for what belongs to another owner.
        Raises:
            ExceptionGroup: of what `AgoraClient.cancel` raises, where some could not be asked; the others were.
        """
        results: dict[str, CancelResult] = {}
        failures: list[Exception] = []

        async def cancel(id: str) -> None:
            try:
                results[id] = await self._client.cancel(id, **how)
            except AgoraError as error:
                failures.append(error)

        live = [record.id for record in await self._client.list(run=self.name, live=True) if not record.state.terminal]
        async with anyio.create_task_group() as tasks:
            for id in live:
                tasks.start_soon(cancel, id)
        if failures:
            raise ExceptionGroup(f"some of run {self.name!r} could not be cancelled", failures)
        return [results[id] for id in live]


def _outcome_of(run: str, error: Exception, parts: Opened) -> RunOutcome:
    """Say how an exception leaves a run; of a group what is no cancel counts first."""
    leaves = _leaves(error)
    first = next((one for one in leaves if not isinstance(one, DispatchCancelled)), leaves[0])
    kind = type(first)
    known = kind.__module__ in ("builtins", AgoraError.__module__)
    words = kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"
    outcome = RunOutcome(
        run=run,
        state=State.CANCELLED if isinstance(first, DispatchCancelled) else State.FAILED,
        ended_at=parts.store.now(),
        error=words[:MAX_ERROR],
    )
    if not isinstance(first, DispatchEnded):
        return outcome
    told = {"dispatch_id": first.dispatch_id, "name": first.name, "reason": first.reason, "cause": first.cause}
    return outcome.model_copy(update=told)


def _leaves(error: Exception) -> list[Exception]:
    if isinstance(error, ExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
