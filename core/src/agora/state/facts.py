"""Everything that can happen to a dispatch, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from agora.model.cause import Cause
from agora.model.events import EventType
from agora.model.observation import Handle, Observation, StopReceipt
from agora.model.record import Failure, Lease


@dataclass(frozen=True)
class SubmitBegan:
    """A submitter claims a pending dispatch whose time has come; written before the first byte leaves."""

    claim: Lease


@dataclass(frozen=True)
class ResubmitBegan:
    """A process that holds the whole request sends a never seen dispatch again, with the same key."""

    claim: Lease


@dataclass(frozen=True)
class ClaimKept:
    """The submitter is still at it."""

    claim: Lease


@dataclass(frozen=True)
class OwnerKept:
    """The process that dispatched it as a member of a group is still there, or another one took over."""

    claim: Lease


@dataclass(frozen=True)
class Started:
    """The provider returned, or found, the workload's handle; `handle.first` may say more."""

    handle: Handle
    owner: str | None = None


@dataclass(frozen=True)
class SubmitRefusal:
    """The backend refused definitely: nothing runs and nothing will."""

    owner: str
    reason: str
    message: str
    exit_code: int | None = None


@dataclass(frozen=True)
class SubmitAborted:
    """The provider saw the stop request, removed what it had made, and starts nothing."""

    owner: str


@dataclass(frozen=True)
class SubmitUnknown:
    """The submit got no answer: it may or may not run.

    Parameters:
        sent: false only where it is certain that no byte of it reached the backend.
    """

    owner: str
    failure: Failure
    sent: bool = True


@dataclass(frozen=True)
class Seen:
    """The backend said something about the workload (any phase but absent).

    Parameters:
        observation: what it said.
        seconds: where it could not look at this workload, since when the asker knew that, in seconds.
    """

    observation: Observation
    seconds: float = 0.0


@dataclass(frozen=True)
class Absent:
    """The right backend, after the settle time, does not know a workload that was seen before."""

    proves_death: bool


@dataclass(frozen=True)
class NeverSeen:
    """No mark of it is on the backend, no claim is alive, the settle time is over."""

    proves_never_started: bool


@dataclass(frozen=True)
class CreatorGone:
    """The lease of the creator of a pending dispatch has run out; one that is to start later has none."""


@dataclass(frozen=True)
class Children:
    """How those below a dispatch are stopped with it, where that was said.

    Parameters:
        grace: seconds of grace at most; where its own is shorter, that; null for its own.
        force: kill without grace.
    """

    grace: int | None = None
    force: bool = False


@dataclass(frozen=True)
class CancelAsked:
    """Somebody, or a policy, asks for a stop.

    Parameters:
        shorten: the target can bring the kill forward.
        force_kill: the target can kill without grace.
        claim: of whoever sends the stop at once; where this is the first request, it begins the first attempt.
        soft: seconds for which a running worker is asked to end by itself, before the stop is sent; null for none.
        most: seconds of grace at most, where this is the first request: its own, or else so long.
        children: how those below are stopped; null for the same force and time to end by itself, with their own grace.
    """

    cause: Cause
    grace: int | None = None
    force: bool = False
    shorten: bool = True
    force_kill: bool = True
    claim: Lease | None = None
    soft: int | None = None
    most: int | None = None
    children: Children | None = None


@dataclass(frozen=True)
class AttemptBegan:
    """A sender claims the next stop (or the kill at a shortened deadline); written before it is sent."""

    kind: Literal["stop", "kill"]
    lease: Lease


@dataclass(frozen=True)
class AttemptAnswered:
    """A sender tells what its attempt brought: a receipt, or a failure.

    Parameters:
        sent: false only where it is certain that no byte reached the backend.
        shorten: the target can bring the kill forward.
        proves_death: absence on this backend proves death (with `NOT_FOUND`).
    """

    number: int
    receipt: StopReceipt | None = None
    failure: Failure | None = None
    sent: bool = True
    shorten: bool = False
    proves_death: bool = False


@dataclass(frozen=True)
class LookFailed:
    """A supervisor asked and got no answer, `seconds` after it had asked before."""

    failure: Failure
    seconds: float = 0.0


@dataclass(frozen=True)
class CancelTimedOut:
    """The cancel timeout has passed since the first accepted stop."""


@dataclass(frozen=True)
class LostAfter:
    """The target did not answer for its `lost_after`; a stop was sent or could not be."""


@dataclass(frozen=True)
class Abandoned:
    """Nobody will try to confirm this end any more."""


@dataclass(frozen=True)
class SecretsRemoved:
    """The backend holds no inline secrets of an ended dispatch any more."""


@dataclass(frozen=True)
class SecretsKept:
    """Inline secrets of an ended dispatch could not be removed.

    Parameters:
        failure: why.
        for_good: nobody will try again.
    """

    failure: Failure | None = None
    for_good: bool = False


@dataclass(frozen=True)
class WorkerSaid:
    """The worker sent an event of its own.

    Parameters:
        source: which process of the workload said it, so that what is read twice is told once; empty where unknown.
        number: counts its events, from 1.
    """

    type: EventType
    data: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    number: int = 0


@dataclass(frozen=True)
class Spent:
    """Somebody outside of the workload says what it has spent more.

    Parameters:
        amounts: by unit, as `budget.checked` returns them.
    """

    amounts: Mapping[str, float]


@dataclass(frozen=True)
class Listened:
    """A supervisor read all that the workload had to say up to now.

    Parameters:
        seconds: since it had done so before without a gap; 0 the first time, and after a failure.
        output: there was output that had not been read before.
        output_at: the time of the newest output, by the log's clock, where it has one.
        output_size: else how many bytes of output there are.
    """

    seconds: float = 0.0
    output: bool = False
    output_at: datetime | None = None
    output_size: int | None = None


@dataclass(frozen=True)
class Noted:
    """Something worth a note."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)


Fact = (
    SubmitBegan
    | ResubmitBegan
    | ClaimKept
    | OwnerKept
    | Started
    | SubmitRefusal
    | SubmitAborted
    | SubmitUnknown
    | Seen
    | Absent
    | NeverSeen
    | CreatorGone
    | CancelAsked
    | AttemptBegan
    | AttemptAnswered
    | LookFailed
    | CancelTimedOut
    | LostAfter
    | Abandoned
    | SecretsRemoved
    | SecretsKept
    | WorkerSaid
    | Spent
    | Listened
    | Noted
)
