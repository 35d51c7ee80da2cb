"""Lifecycle events: CloudEvents 1.0 attributes plus `sequence`."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from agora.model.base import Model


class EventType(StrEnum):
    """Every lifecycle event; the guarantees are in the contract's section 5."""

    REQUESTED = "dispatch.requested"
    SUBMITTED = "dispatch.submitted"
    STARTED = "dispatch.started"
    CANCEL_REQUESTED = "dispatch.cancel_requested"
    STOPPING = "dispatch.stopping"
    CANCELLED = "dispatch.cancelled"
    PROGRESS = "dispatch.progress"
    HEARTBEAT = "dispatch.heartbeat"
    TERMINATED = "dispatch.terminated"
    CONFIRMED = "dispatch.confirmed"


class Event(Model):
    """One event of one dispatch.

    Parameters:
        id: unique in its source.
        source: the installation that wrote it.
        subject: the dispatch id.
        time: when it was written, by the store's clock.
        sequence: orders the events of one dispatch, from 1, without gaps.
        data: the event's own fields.
    """

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: EventType
    subject: str
    time: AwareDatetime
    sequence: int = Field(ge=1)
    data: dict[str, Any] = Field(default_factory=dict)
