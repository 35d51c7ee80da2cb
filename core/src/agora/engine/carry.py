"""Carrying out the next step of one dispatch; the same code for every supervisor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta

from agora.engine.core import Core, failure_of
from agora.engine.deliver import Deliverer
from agora.engine.look import Looker
from agora.engine.plan import Action, next_step
from agora.engine.submit import Submitter
from agora.engine.targets import LOOK_SECONDS
from agora.errors import AgoraError, Unreachable
from agora.model.cause import Cause, Via
from agora.model.record import Entry
from agora.state import (
    Abandoned,
    CancelAsked,
    CancelTimedOut,
    CreatorGone,
    LostAfter,
    Noted,
    SecretsKept,
    SecretsRemoved,
)

logger = logging.getLogger(__name__)

#: Inline secrets may take so long to remove, in seconds.
REMOVE_SECONDS = 30.0

#: The policies that cancel: the name and the reason in the cause.
_POLICIES: Mapping[Action | None, tuple[str, str]] = {
    Action.TIME_OUT: ("timeout", "timeout of {entry.timeout} s reached"),
    Action.OWNER_GONE: ("owner_gone", "the process that it was dispatched for is gone"),
    Action.BUDGET: ("budget", "budget of {entry.exceeded}"),
    Action.MISSED_HEARTBEATS: ("missed_heartbeats", "no heartbeat for {entry.heartbeat_timeout} s"),
    Action.OUTPUT_SILENCE: ("output_silence", "no output for {entry.silence_timeout} s"),
}


class Carrier:
    """Carries out steps.

    Parameters:
        core: the common ground.
        looker, submitter, deliverer: the parts that do it.
    """

    def __init__(self, core: Core, looker: Looker, submitter: Submitter, deliverer: Deliverer) -> None:
        self._core = core
        self.looker = looker
        self._submitter = submitter
        self._deliverer = deliverer

    async def carry_out(self, entry: Entry) -> bool:
        """Plan again with the stored entry and do what is due.

        Returns:
            whether it was done; otherwise it is due again, later.
        """
        core = self._core
        entry = await core.store.read(entry.id)
        action = next_step(entry, core.store.now(), core.bounds).action
        if action in _POLICIES:
            return await self._by_policy(entry, *_POLICIES[action])
        match action:
            case None:
                return True
            case Action.FIND:
                return await self._find(entry)
            case Action.STOP:
                return await self._deliverer.attempt(entry, "stop") is not None
            case Action.KILL:
                return await self._deliverer.attempt(entry, "kill") is not None
            case Action.SUBMIT:
                await self._submitter.start(entry)
            case Action.CREATOR_GONE:
                await core.apply(entry, CreatorGone(), durable=True)
            case Action.CANCEL_TIMED_OUT:
                await self.looker.look([entry])
                await core.apply(entry, CancelTimedOut(), durable=True)
            case Action.LOSE:
                await core.apply(entry, Noted("stop_not_sent", {"reason": entry.reason}), LostAfter(), durable=True)
            case Action.ABANDON:
                await core.apply(entry, Abandoned())
            case Action.REMOVE_SECRETS | Action.LEAVE_SECRETS as action:
                return await self._secrets(entry, leave=action is Action.LEAVE_SECRETS)
        return True

    async def _find(self, entry: Entry) -> bool:
        try:
            target = await self._core.targets.of(entry)
            after = await self._submitter.find_or_resend(entry, target)
        except AgoraError as error:
            await self.looker.failed([entry], error)
            return False
        return after.handle is not None or after.state.terminal

    async def _secrets(self, entry: Entry, leave: bool) -> bool:
        core = self._core
        if leave:
            logger.error("dispatch %s: its backend may still hold its inline secrets; nobody tries again", entry.id)
            await core.apply(entry, SecretsKept(for_good=True))
            return True
        try:
            target = await core.targets.of(entry)
            if entry.handle is not None and target.implements("identity"):
                backend = await target.call("identity", seconds=LOOK_SECONDS)
                if backend is not None and backend != entry.handle.backend:
                    raise Unreachable(f"target {target.name!r} is another backend now: {backend}")
            await target.call("remove_secrets", seconds=REMOVE_SECONDS, id=entry.id)
        except AgoraError as error:
            await core.apply(entry, SecretsKept(failure_of(error)))
            return False
        await core.apply(entry, SecretsRemoved())
        return True

    async def _by_policy(self, entry: Entry, policy: str, reason: str) -> bool:
        cause = Cause(actor="agora", via=Via.POLICY, policy=policy, reason=reason.format(entry=entry))
        target = None
        try:
            target = await self._core.targets.of(entry)
        except AgoraError as error:
            await self.looker.failed([entry], error)
        asked = CancelAsked(
            cause,
            shorten=target is not None and target.has("shorten"),
            force_kill=target is not None and target.has("force_kill"),
        )
        # Those below it are carried out by whoever supervises them, as every recorded request is.
        after = (await self._core.request(entry, asked)).first.entry
        if not after.state.terminal:
            await self._deliverer.deliver(after, self._core.store.now() + timedelta(seconds=10))
        return True
