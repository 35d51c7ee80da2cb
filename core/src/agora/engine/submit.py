"""The way in: record, claim, send, store the handle; a missing answer is looked up, never guessed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import anyio

from agora.engine import later
from agora.engine.core import CLAIM_SECONDS, Core, failure_of, was_sent
from agora.engine.deliver import Deliverer
from agora.engine.find import Finder
from agora.engine.inbox import inbox_of
from agora.engine.targets import LOOK_SECONDS, Target
from agora.errors import (
    AgoraError,
    DispatchConflict,
    InvalidRequest,
    PermissionDenied,
    StopRequested,
    StoreError,
    SubmitRefused,
    Unreachable,
    Vetoed,
)
from agora.model.ids import check_dispatch_id, new_dispatch_id
from agora.model.observation import Handle
from agora.model.record import Entry, Lease, State
from agora.model.spec import Spec
from agora.state import (
    ClaimKept,
    NeverSeen,
    ResubmitBegan,
    Started,
    SubmitAborted,
    SubmitBegan,
    SubmitRefusal,
    SubmitUnknown,
)

logger = logging.getLogger(__name__)

#: A start that gives no sign of life for so long is left, and looked for by its mark (one call to a backend, with
#: its own timeouts, stays well below), in seconds.
SILENT_SECONDS = 60.0


@dataclass
class _Signs:
    """When the provider last gave a sign of life: it calls `check()` before each step, and in a pull every second."""

    last: float = field(default_factory=time.monotonic)


class Submitter:
    """Sends dispatches.

    Parameters:
        core: the common ground.
        deliverer: carries out a stop that was requested meanwhile.
        finder: adopts what was started all the same.
    """

    def __init__(self, core: Core, deliverer: Deliverer, finder: Finder) -> None:
        self._core = core
        self._finder = finder
        self._deliverer = deliverer

    async def record(
        self,
        spec: Spec,
        target: Target,
        id: str | None,
        *,
        parent: str | None = None,
        owned: Lease | None = None,
        owner: str | None = None,
        start: later.Start = None,
        retries: str | None = None,
    ) -> tuple[Entry, bool]:
        """Check everything that can be checked, then write the dispatch down.

        Parameters:
            parent: the dispatch whose cancel cancels this one.
            owned: the claim of the process that wants it cancelled when it goes.
            owner: for whom it is dispatched.
            start: when any supervisor is to send it; by its caller, at once, where null.
            retries: the dispatch that it tries again.
        Returns:
            the stored entry, and whether it is new.
        Raises:
            InvalidRequest: the target cannot honour the spec.
            DispatchConflict: the id or the name is taken by another spec, or the id by another owner or start time.
            DispatchCancelled: somebody has cancelled the one that it tries again.
        """
        chosen = new_dispatch_id() if id is None else check_dispatch_id(id)
        cap = self._core.settings.timeout_cap
        if spec.timeout > cap:
            raise InvalidRequest(f"timeout {spec.timeout} s is above this deployment's cap of {cap} s")
        # What is kept for a later start was not asked for: the same request made elsewhere is the same dispatch.
        digest = spec.digest()
        if start is not None:
            spec = later.kept(spec, target)
        target.check_spec(spec)
        if target.implements("check"):
            await target.call("check", seconds=LOOK_SECONDS, spec=spec)
        backend = None if start is None else await later.backend_of(target)
        store = self._core.store
        now = store.now()
        entry = Entry(
            id=chosen,
            name=spec.name,
            run=spec.run,
            owner=owner,
            target=target.name,
            provider=target.config.provider,
            state=State.PENDING,
            grace=spec.grace,
            timeout=spec.timeout,
            heartbeat_timeout=spec.heartbeat_timeout,
            silence_timeout=spec.silence_timeout,
            budget=dict(spec.budget),
            requested_at=now,
            start_at=None if start is None else later.moment(start, now),
            labels=dict(spec.labels),
            installation=store.installation,
            spec=spec.public(),
            digest=digest,
            config=dict(target.config.table),
            askable=target.limits.shares_files,
            parent=parent,
            owned=owned,
            backend=backend,
            submitter=self._core.lease() if start is None else None,
            holds_secrets=bool(spec.secrets) and target.implements("remove_secrets"),
        )
        stored, events, new = await store.create(entry, retries=retries)
        await self._core.tell(stored, events)
        if isinstance(start, datetime) and stored.start_at != start:
            when = "at once" if stored.start_at is None else f"at {stored.start_at.isoformat()}"
            raise DispatchConflict(f"dispatch {chosen} exists and was to start {when}; use a new id")
        return stored, new

    async def send(self, entry: Entry, spec: Spec, target: Target) -> Entry:
        """Claim a pending dispatch and send it.

        Returns:
            the entry as stored afterwards: running, refused, or submitted with the failure that left it unknown.
        Raises:
            DispatchConflict: the backend holds our mark with another spec.
        """
        applied = await self._core.apply(entry, SubmitBegan(self._core.lease()), durable=True)
        if not applied.answer:
            return applied.entry
        return await self._send(applied.entry, spec, target)

    async def start(self, entry: Entry) -> Entry:
        """Claim and send a dispatch whose time has come, unless it was cancelled or somebody else does."""
        core = self._core
        target: Target | AgoraError
        try:
            target = await core.targets.of(entry)
        except AgoraError as error:
            target = error
        applied = await core.apply(entry, SubmitBegan(core.lease()), durable=True)
        if not applied.answer:
            return applied.entry
        if isinstance(target, AgoraError):
            return (await core.apply(entry, SubmitUnknown(core.owner, failure_of(target), sent=False))).entry
        try:
            return await self._send(applied.entry, _stored_spec(entry), target)
        except DispatchConflict:
            return await core.store.read(entry.id)  # it is on the record, where who asked looks for it

    async def _send(self, entry: Entry, spec: Spec, target: Target) -> Entry:
        core, owner = self._core, self._core.owner
        core.whole_specs[entry.id] = spec
        outcome: Handle | AgoraError = Unreachable(
            f"target {target.name!r} gave no sign of starting the dispatch within {SILENT_SECONDS:g} s"
        )
        signs = _Signs()
        sent = spec.with_worker(entry.id, str(inbox_of(core.store.home, entry)) if entry.askable else None)
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as call:
                tasks.start_soon(self._keep_claim, entry, signs, call)
                check = self._check_of(entry.id, signs)
                try:
                    await later.check_backend(entry, target)
                    outcome = await target.call("dispatch", seconds=None, id=entry.id, spec=sent, check=check)
                except AgoraError as error:
                    outcome = error
            tasks.cancel_scope.cancel()
        if isinstance(outcome, AgoraError):
            return await self._unsent(entry, outcome)
        applied = await core.apply(entry, Started(outcome, owner))
        core.whole_specs.pop(entry.id, None)
        if applied.entry.state is State.STOPPING or not applied.answer:
            return await self._deliverer.deliver(applied.entry, core.store.now() + timedelta(seconds=10))
        return applied.entry

    async def _unsent(self, entry: Entry, error: Exception) -> Entry:
        core, owner = self._core, self._core.owner
        if isinstance(error, StopRequested):
            applied = await core.apply(entry, SubmitAborted(owner), durable=True)
            return applied.entry
        if refusal := _refusal(error, owner):
            applied = await core.apply(entry, refusal, durable=True)
            core.whole_specs.pop(entry.id, None)
            if isinstance(error, DispatchConflict):
                raise error
            return applied.entry
        applied = await core.apply(entry, SubmitUnknown(owner, failure_of(error), was_sent(error)))
        return applied.entry

    async def _keep_claim(self, entry: Entry, signs: _Signs, call: anyio.CancelScope) -> None:
        """Keep the claim up while the provider gives signs of life; leave its call where it does not."""
        while True:
            await anyio.sleep(CLAIM_SECONDS / 3)
            if time.monotonic() - signs.last > SILENT_SECONDS:
                call.cancel()
                return
            try:
                await self._core.store.apply(entry.id, ClaimKept(self._core.lease()))
            except StoreError as error:
                logger.warning("dispatch %s: the claim cannot be kept up: %s", entry.id, error)

    def _check_of(self, id: str, signs: _Signs) -> Callable[[], None]:
        owner = self._core.owner

        def check() -> None:
            signs.last = time.monotonic()
            entry = self._core.store.read_blocking(id)
            claim: Lease | None = entry.submitter
            if entry.state is not State.SUBMITTED:
                raise StopRequested(f"dispatch {id} is {entry.state.value}")
            if claim is None or claim.owner != owner:
                raise StopRequested(f"dispatch {id} is not ours to send any more")

        return check

    async def find_or_resend(self, entry: Entry, target: Target) -> Entry:
        """Look for a dispatch whose submit got no answer: adopt it, send it again, or end it (contract 7).

        Raises:
            AgoraError: the target cannot be asked; nothing was changed.
        """
        core = self._core
        if (adopted := await self._finder.adopt(entry, target)) is not None:
            return adopted
        limits = target.limits
        age = (core.store.now() - (entry.first_sent_at or entry.requested_at)).total_seconds()
        if age < limits.settle_time or entry.seen:
            return entry
        spec = self._whole(entry, target)
        in_time = limits.resubmit_within is None or age < limits.resubmit_within
        if entry.state is State.SUBMITTED and spec is not None and in_time:
            applied = await core.apply(entry, ResubmitBegan(core.lease()), durable=True)
            return await self._send(applied.entry, spec, target) if applied.answer else applied.entry
        applied = await core.apply(entry, NeverSeen(limits.absence_proves_never_started), durable=True)
        return applied.entry

    def _whole(self, entry: Entry, target: Target) -> Spec | None:
        """The whole request, if this process holds it."""
        if (spec := self._core.whole_specs.get(entry.id)) is not None:
            return spec
        # Of what starts later, all that its start takes is on record.
        if entry.spec.get("secrets") or not (target.limits.spec_is_whole or entry.start_at is not None):
            return None
        return _stored_spec(entry)


def _stored_spec(entry: Entry) -> Spec:
    return Spec.model_validate({key: value for key, value in entry.spec.items() if key != "secrets"})


def _refusal(error: Exception, owner: str) -> SubmitRefusal | None:
    match error:
        case SubmitRefused():
            return SubmitRefusal(owner, error.reason, str(error), error.exit_code)
        case Vetoed():
            return SubmitRefusal(owner, "vetoed", str(error))
        case DispatchConflict():
            return SubmitRefusal(owner, "conflict", str(error))
        case PermissionDenied():
            return SubmitRefusal(owner, "permission_denied", str(error))
        case InvalidRequest():
            return SubmitRefusal(owner, "submit_refused", str(error))
        case _:
            return None
