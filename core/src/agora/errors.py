"""Every error that Agora raises, each with a message that says the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agora.model.cause import Cause
    from agora.model.record import Record


class AgoraError(Exception):
    """Base of all errors of Agora."""


class InvalidRequest(AgoraError):
    """The request is malformed; nothing was recorded and nothing was started."""


class ConfigError(InvalidRequest):
    """A configuration file, variable or flag is wrong; names the full key and where it stands."""


class UnknownTarget(ConfigError):
    """No target of that name is configured."""


class ProviderNotInstalled(ConfigError):
    """The provider of a target is not installed, or cannot be loaded."""


class DispatchNotFound(AgoraError):
    """No dispatch of that id is in the store."""


class AmbiguousId(InvalidRequest):
    """More than one dispatch has that prefix or suffix."""


class DispatchConflict(AgoraError):
    """The id is taken by a dispatch with another spec, in the store or on the backend."""


class Forbidden(AgoraError):
    """What a group, or a budget, could cancel belongs to another owner; nothing was started or changed."""


class StoreError(AgoraError):
    """The store cannot be read or written."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of Agora."""


class DamagedRecord(StoreError):
    """The record of one dispatch cannot be read; the others can."""


class Vetoed(AgoraError):
    """An extension refused the call; the message is its reason."""


class StopRequested(AgoraError):
    """A stop was requested while a provider was still starting the workload; raised by `check()`."""


class ProviderError(AgoraError):
    """A backend failed in a way that is neither unreachable nor a refusal.

    Parameters:
        message: the backend's own words where there are any.
        sent: false only where it is certain that no byte reached the backend.
        retryable: whether the same call may succeed later.
    """

    def __init__(self, message: str, *, sent: bool = True, retryable: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        self.retryable = retryable


class Unreachable(ProviderError):
    """The backend, or the right one, did not answer; it says nothing about any workload."""


class PermissionDenied(ProviderError):
    """The backend refused the credentials; names where they came from."""


class SubmitRefused(ProviderError):
    """A definite refusal to start: nothing runs and nothing will.

    Parameters:
        message: the backend's own words.
        reason: a short machine word (`image_missing`, `program_not_found`, ...).
        exit_code: the code that the platform gives such a failure, if it does.
    """

    def __init__(self, message: str, *, reason: str = "submit_refused", exit_code: int | None = None) -> None:
        super().__init__(message, retryable=False)
        self.reason = reason
        self.exit_code = exit_code


class DispatchEnded(AgoraError):
    """Base of what `result()` raises for an end that is no success.

    Parameters:
        record: the record as stored.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(self._describe())

    def __reduce__(self) -> tuple[type[DispatchEnded], tuple[Record]]:
        """Cross to other processes with the record."""
        return type(self), (self.record,)

    @property
    def dispatch_id(self) -> str:
        """The dispatch."""
        return self.record.id

    @property
    def run(self) -> str | None:
        """The run that it is in."""
        return self.record.run

    @property
    def name(self) -> str | None:
        """Its name in the run."""
        return self.record.name

    @property
    def cause(self) -> Cause | None:
        """The cause of the stop, if somebody asked for one."""
        return self.record.cause

    @property
    def reason(self) -> str | None:
        """Why it ended, in the words of whoever asked for it; else the reason of the record, which may be null."""
        return (self.record.cause.reason if self.record.cause else None) or self.record.reason

    def _describe(self) -> str:
        words = [f"dispatch {self.record.id} {self.record.state.value}"]
        if self.record.reason:
            words.append(f"({self.record.reason})")
        if self.record.exit_code is not None:
            words.append(f"with exit code {self.record.exit_code}")
        if self.record.cause is not None:
            words.append(f"by {self.record.cause.summary(200)}")
        return " ".join(words)


class DispatchCancelled(DispatchEnded):
    """The dispatch was cancelled."""


class DispatchFailed(DispatchEnded):
    """The workload failed, could not start, or was stopped by somebody else."""


class DispatchTimedOut(DispatchEnded):
    """The dispatch reached its deadline."""


class DispatchLost(DispatchEnded):
    """The workload is gone from the backend, or the backend itself, and nobody knows how it ended."""


class NoneSucceeded(AgoraError):
    """Every member of a race ended, none with success.

    Parameters:
        records: of all members, in the order given.
    """

    def __init__(self, records: tuple[Record, ...]) -> None:
        self.records = records
        ends = ", ".join(f"{record.id} {record.state.value}" for record in records)
        super().__init__(f"no member succeeded: {ends}")
