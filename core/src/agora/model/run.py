"""A run: how the program that it is a scope of left it, and what it is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from agora.model.base import Model
from agora.model.cause import Cause
from agora.model.record import State

MAX_ERROR = 200


class RunOutcome(Model):
    """How a run was left; written once, and for ever.

    Parameters:
        run: its name.
        state: `succeeded` when left normally, `cancelled` by a `DispatchCancelled`, `failed` by another exception.
        ended_at: when it was left, by the store's clock.
        dispatch_id, name: the dispatch whose end was raised, and its name; null where that was no dispatch's.
        reason: why that one ended, as `DispatchEnded.reason` has it.
        cause: who asked for its end, if somebody did.
        error: class of the exception; never its message, which may hold a secret.
    """

    run: str
    state: Literal[State.SUCCEEDED, State.CANCELLED, State.FAILED]
    ended_at: AwareDatetime
    dispatch_id: str | None = None
    name: str | None = None
    reason: str | None = None
    cause: Cause | None = None
    error: str | None = Field(default=None, max_length=MAX_ERROR)


class RunSummary(Model):
    """A run as it stands.

    Parameters:
        run: its name.
        outcome: how it was left; null where it is open, or no more than a name that dispatches share.
        states: how many of its dispatches are in each state; states that none is in are left out.
        began_at: when the first of them was requested; null where none is left.
    """

    run: str
    outcome: RunOutcome | None = None
    states: dict[State, int] = Field(default_factory=dict)
    began_at: AwareDatetime | None = None
