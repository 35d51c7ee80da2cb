"""The record of a dispatch: the public view, and the entry that the store keeps."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from agora.model.base import Model
from agora.model.cause import Cause
from agora.model.observation import Handle, Observation


class State(StrEnum):
    """The states of the contract's section 2."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"

    @property
    def terminal(self) -> bool:
        """Whether this state is for ever."""
        return self in TERMINAL


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.LOST})


#: The note about somebody who cancelled what a policy was stopping, or had cancelled already.
ALSO_CANCELLED = "also_cancelled"


class Note(Model):
    """Something worth knowing about a dispatch that changes nothing of its state.

    Parameters:
        type: `late_result`, `late_worker_event`, `supervisor_missing`, `second_copy`, ...
        at: when it was written.
        data: details.
    """

    type: str
    at: AwareDatetime
    data: dict[str, Any] = Field(default_factory=dict)


class Record(Model):
    """What anybody may know about a dispatch; `--json` prints exactly these keys.

    Flags are null where nothing is known. `confirmed`: proof of death, or that it can never start.
    `forced`: it had to be killed after the grace, known as `evidence` says. `acknowledged`: the worker itself
    reported a clean cancel; false where it said that it did not get done in time. `delivered`: a backend accepted the
    stop. `deadline` is `submitted_at` + `timeout`. `owner`: for whom it was dispatched; only clients of that owner, and
    those without one, may cancel it. `start_at` is there for one that was to start later, alone. `spent`: what is
    known to have been spent, by unit, and `budget`: how much may be.
    """

    id: str
    name: str | None = None
    run: str | None = None
    owner: str | None = None
    target: str
    provider: str
    state: State
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    oom: bool | None = None
    confirmed: bool | None = None
    forced: bool | None = None
    acknowledged: bool | None = None
    evidence: Literal["proven", "inferred"] | None = None
    reachable: bool | None = None
    delivered: bool | None = None
    degraded: tuple[str, ...] = ()
    cause: Cause | None = None
    grace: int
    effective_grace: float | None = None
    timeout: int
    deadline: AwareDatetime | None = None
    budget: dict[str, float] = Field(default_factory=dict)
    spent: dict[str, float] = Field(default_factory=dict)
    start_at: AwareDatetime | None = Field(default=None, exclude_if=lambda moment: moment is None)
    requested_at: AwareDatetime
    submitted_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    stopping_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    native: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def forbids(self, owner: str | None) -> str | None:
        """Say in words why a client that acts for `owner` may not cancel it; null where it may."""
        if owner is None or owner == self.owner:
            return None
        whose = "has no owner" if self.owner is None else f"belongs to {self.owner}"
        return f"it {whose}, and this client acts for {owner}"


class Lease(Model):
    """A claim on a piece of work.

    Parameters:
        owner: who holds it (one process).
        until: when it runs out, by the store's clock.
    """

    owner: str
    until: AwareDatetime


class Quiet(Model):
    """How long nothing was heard of something while somebody listened.

    Parameters:
        seconds: in which somebody listened and heard nothing, since the last sign; time in which nobody did, or in
            which the backend was away, is no part of it.
        counted_at: until when that was counted, by the store's clock; several who listen count the same time once.
    """

    seconds: float = 0
    counted_at: AwareDatetime | None = None


class Attempt(Model):
    """A stop or kill that is being sent and is not answered yet."""

    number: int
    kind: Literal["stop", "kill"]
    lease: Lease


class Failure(Model):
    """Why the last attempt failed, or why a target cannot be asked."""

    type: str
    message: str
    retryable: bool = True


class Entry(Record):
    """The stored row: the record and what the engine needs to carry it on.

    Parameters:
        installation: the mark.
        spec: `Spec.public()`.
        digest: `Spec.digest()`.
        config: the target's resolved configuration, without secrets.
        handle: set once the provider returned it or it was found.
        seen: any sign of the workload was seen; from then on it is never sent again.
        askable: its worker can be asked to end by itself.
        asked_until: when the stop is sent after it was asked; of no meaning for what was not.
        parent: the dispatch whose cancel cancels this one.
        owned: the process that dispatched it as a member of a group and has not let go of it; when that one dies, it is
            cancelled.
        backend: which backend its target was when a later start was asked for; null where it could not tell.
        submitter: who creates or sends it now.
        first_sent_at: when the first byte may have left.
        unsent: no submit that was answered, or whose sender died, can have reached the backend.
        stop_grace: seconds of grace that the request asks for.
        force: the request asks for a kill without grace.
        requested_stop_at: when the request was recorded.
        stop_by: when whatever is left must be killed, where a supervisor has to see to it (a shortened grace).
        kill_accepted: the early kill of `stop_by` was accepted.
        attempts: attempts begun so far.
        attempt: the one that is unanswered.
        retry_at: when the next attempt is due, after one that failed.
        first_reached: number of the first attempt that may have reached the backend.
        accepted_at: when a stop was first accepted.
        failure: why the last attempt or look failed.
        held: an end seen while an attempt is unanswered.
        away_seconds: time in which a supervisor asked and got no answer, since the last answer.
        away_at: when one last asked so; several at once count the same time once.
        heard: number of the last event of the workload's own processes, by process.
        spending: totals of what was spent, by process of the workload.
        heartbeat_timeout, silence_timeout: as in the spec.
        unheard: how long its worker said nothing; counted only with a `heartbeat_timeout`.
        silent: how long it wrote nothing; counted only with a `silence_timeout`.
        output_at: the time of the newest output that was read for that, by the log's clock, where it has one.
        output_size: else how many bytes of output there were.
        given_up: nobody will try to confirm the end any more.
        holds_secrets: the backend may hold inline secrets of it, which are removed after its end.
        sequence: number of the last event.
        version: number of writes, for the conditional update.
    """

    installation: str
    spec: dict[str, Any]
    digest: str
    config: dict[str, Any] = Field(default_factory=dict)
    handle: Handle | None = None
    seen: bool = False
    askable: bool = False
    asked_until: AwareDatetime | None = None
    parent: str | None = None
    owned: Lease | None = None
    backend: str | None = None
    submitter: Lease | None = None
    first_sent_at: AwareDatetime | None = None
    unsent: bool = False
    stop_grace: int | None = None
    force: bool = False
    requested_stop_at: AwareDatetime | None = None
    stop_by: AwareDatetime | None = None
    kill_accepted: bool = False
    attempts: int = 0
    attempt: Attempt | None = None
    retry_at: AwareDatetime | None = None
    first_reached: int | None = None
    accepted_at: AwareDatetime | None = None
    failure: Failure | None = None
    held: Observation | None = None
    away_seconds: float = 0
    away_at: AwareDatetime | None = None
    heard: dict[str, int] = Field(default_factory=dict)
    spending: dict[str, dict[str, float]] = Field(default_factory=dict)
    heartbeat_timeout: int | None = None
    silence_timeout: int | None = None
    unheard: Quiet = Quiet()
    silent: Quiet = Quiet()
    output_at: AwareDatetime | None = None
    output_size: int | None = None
    given_up: bool = False
    holds_secrets: bool = False
    sequence: int = 0
    version: int = 0

    @property
    def kill_at(self) -> datetime | None:
        """When whatever is left gets SIGKILL, once a stop was accepted."""
        if self.accepted_at is None:
            return None
        grace = self.effective_grace if self.effective_grace is not None else self.stop_grace or self.grace
        native = self.accepted_at + timedelta(seconds=grace)
        return min(native, self.stop_by) if self.stop_by else native

    @property
    def grace_in_force(self) -> float | None:
        """Seconds from the accepted stop to SIGKILL, a kill that was brought forward included; null where not known."""
        if self.accepted_at is None or self.kill_at is None or (self.effective_grace is None and not self.stop_by):
            return self.effective_grace
        return (self.kill_at - self.accepted_at).total_seconds()

    @property
    def exceeded(self) -> str | None:
        """The part of the budget that is exceeded, in words; null where none is."""
        for unit, limit in self.budget.items():
            if (spent := self.spent.get(unit, 0.0)) > limit:
                return f"{limit:.12g} {unit} exceeded: {spent:.12g}"
        return None

    def public(self) -> Record:
        """Return the part that anybody may see."""
        return Record.model_construct(**{name: getattr(self, name) for name in Record.model_fields})

    @property
    def live(self) -> bool:
        """Whether anybody still has to look after it: not ended, or ended without proof."""
        return not self.state.terminal or (self.confirmed is False and not self.given_up)

    @property
    def unsettled(self) -> bool:
        """Whether anything is left to do for it: it is live, or secrets are to be removed behind it."""
        return self.live or self.holds_secrets
