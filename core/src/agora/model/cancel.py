"""The answer to a cancel, the same at every front door."""

from enum import StrEnum

from agora.model.base import Model
from agora.model.cause import Cause
from agora.model.record import Failure, State


class Outcome(StrEnum):
    """What became of a cancel; the contract's section 4 says when."""

    CANCELLED = "CANCELLED"
    STOPPING = "STOPPING"
    ALREADY_STOPPING = "ALREADY_STOPPING"
    ALREADY_CANCELLED = "ALREADY_CANCELLED"
    ALREADY_SUCCEEDED = "ALREADY_SUCCEEDED"
    ALREADY_FAILED = "ALREADY_FAILED"
    ALREADY_TIMED_OUT = "ALREADY_TIMED_OUT"
    ALREADY_LOST = "ALREADY_LOST"
    NOT_FOUND = "NOT_FOUND"
    FORBIDDEN = "FORBIDDEN"
    NOT_RECORDED = "NOT_RECORDED"


class CancelResult(Model):
    """The answer to a cancel.

    Parameters:
        id: the dispatch.
        outcome: what became of the request.
        state: the stored state; null where there is no such dispatch, or it is not this caller's.
        cause: the cause that stands: the first one recorded.
        delivered: whether a backend accepted the stop.
        degraded: what could not be done as asked and was replaced by the nearest possible thing.
        effective_grace: seconds of grace in force, where known.
        error: why it is not delivered yet, or why it is forbidden.
        children: what became of the dispatches that this one's cancel cancels, theirs included; of those that had
            ended the newest 20.
        more_children: how many more below it had ended.
    """

    id: str
    outcome: Outcome
    state: State | None = None
    cause: Cause | None = None
    delivered: bool | None = None
    degraded: tuple[str, ...] = ()
    effective_grace: float | None = None
    error: Failure | None = None
    children: tuple["CancelResult", ...] = ()
    more_children: int = 0

    @property
    def exit_code(self) -> int:
        """The CLI's exit code for this answer (contract 4)."""
        match self.outcome:
            case Outcome.CANCELLED | Outcome.STOPPING | Outcome.ALREADY_STOPPING | Outcome.ALREADY_CANCELLED:
                below = [child.exit_code for child in self.children]
                undelivered = self.delivered is False and self.outcome is not Outcome.CANCELLED
                return 1 if 1 in below else 7 if undelivered or 7 in below else 0
            case Outcome.NOT_RECORDED:
                return 1
            case Outcome.NOT_FOUND:
                return 4
            case Outcome.FORBIDDEN:
                return 5
            case _:
                return 3
