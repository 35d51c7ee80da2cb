"""What a backend says: handles, observations, receipts, owned workloads, log chunks."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from agora.model.base import Model

#: The `reason` of an observation of a workload that runs although this dispatch's own had ended.
SECOND_COPY = "second_copy"


class Phase(StrEnum):
    """Where a workload is, in the backend's own proof.

    `ABSENT` is the right backend's word that it knows no such workload; it is not a proof of death.
    """

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    ABSENT = "absent"


class EndedBy(StrEnum):
    """Who the backend says ended a workload, where nobody of ours asked."""

    DEADLINE = "deadline"
    EXTERNAL = "external"


class Observation(Model):
    """What the backend says now about one workload.

    Parameters:
        phase: `ENDED` only on proof of death, or on proof that it can never start (`never_started`).
        reachable: false where the backend answered but could not look at this workload (its node is away);
            the other fields are then its last word and end nothing.
        exit_code: 0-255; null where the backend lost it, never -1 or a guess. 128 + n for signal n.
        signal: number of the signal that ended it, where the backend tells.
        oom: whether something in the workload was killed for lack of memory; null means not known.
        reason: a short machine word of the provider for the end or the wait (`image_missing`, ...). `second_copy`
            with `RUNNING` tells of a copy that should not be, and that the provider is killing: it is noted on the
            record, also after the end, and changes nothing else.
        message: the backend's own words.
        started_at, ended_at: the backend's clock.
        stop_reached: whether a stop had reached the workload before it ended; false is a proof.
        forced: it had to be killed after the grace.
        evidence: how `forced` is known.
        never_started: proof that it never ran and never will.
        ended_by: the backend's own deadline, or a stop that was not ours, where the backend attributes it.
        effective_grace: seconds of grace in force, where it shows only after the stop.
        native: JSON values for the record's `native` field (pid, container id, ...).
    """

    phase: Phase
    reachable: bool = True
    exit_code: int | None = Field(default=None, ge=0, le=255)
    signal: int | None = Field(default=None, ge=1, le=64)
    oom: bool | None = None
    reason: str | None = None
    message: str | None = None
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    stop_reached: bool | None = None
    forced: bool | None = None
    evidence: Literal["proven", "inferred"] | None = None
    never_started: bool = False
    ended_by: EndedBy | None = None
    effective_grace: float | None = Field(default=None, ge=0)
    native: dict[str, Any] = Field(default_factory=dict)


class Handle(Model):
    """A provider's serialisable reference to one workload.

    Parameters:
        id: the dispatch id.
        backend: proof of which backend holds it (Docker system id, namespace uid, machine id, ...).
        data: the provider's own JSON values; opaque to the core.
        first: what the backend said when it started the workload, if it says so at once; never stored.
    """

    id: str
    backend: str
    data: dict[str, Any] = Field(default_factory=dict)
    first: Observation | None = Field(default=None, exclude=True, repr=False)


class ReceiptKind(StrEnum):
    """A backend's answer to a stop."""

    SIGNALLED = "signalled"
    ALREADY_STOPPING = "already_stopping"
    ALREADY_EXITED = "already_exited"
    NOT_FOUND = "not_found"


class LogChunk(Model):
    """A piece of a workload's output, as bytes; a chunk may end within a line.

    Parameters:
        stream: which stream it was written to.
        data: the bytes.
        at: when the backend received it, where known.
        dropped: bytes that were dropped just before this chunk because of a cap.
    """

    stream: Literal["stdout", "stderr"]
    data: bytes
    at: AwareDatetime | None = None
    dropped: int = 0


class StopReceipt(Model):
    """The answer to one stop or kill.

    Parameters:
        kind: `SIGNALLED` means that the backend accepted the stop, not that a signal arrived.
        observation: the end that was found, with `ALREADY_EXITED`, or that came while the backend answered, with
            `SIGNALLED`.
        effective_grace: seconds of grace in force, where known.
        degraded: names of what was asked and replaced by the nearest possible thing (`grace`, `force`).
        output: the last lines of the workload to its very end, where the backend has them with its answer: the log is
            not read for its last words then.
    """

    kind: ReceiptKind
    observation: Observation | None = None
    effective_grace: float | None = Field(default=None, ge=0)
    degraded: tuple[str, ...] = ()
    output: tuple[LogChunk, ...] | None = Field(default=None, repr=False)


class Owned(Model):
    """One workload that carries our marks.

    Parameters:
        handle: its handle.
        installation: the installation in its mark.
        created_at: when the backend made it.
        spec_digest: `Spec.digest()` in its mark, where the backend keeps one.
        ended: true on proof of death (only its record is left on the backend).
    """

    handle: Handle
    installation: str
    created_at: AwareDatetime
    spec_digest: str | None = None
    ended: bool = False
