"""Reading journals: what happened to a dispatch so far, and what that means in the contract's words."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agora.errors import ProviderError
from agora.model.observation import EndedBy, Handle, Observation, Phase

from agora_local.journal import JOURNAL

Record = dict[str, Any]


class DamagedJournal(ProviderError):
    """A journal holds what no shim wrote."""


@dataclass(frozen=True)
class Story:
    """The records of one journal by kind, the first of each.

    Parameters:
        records: by kind: claim, start, running, refused, stop, kill, exit.
        length: bytes up to the end of the last whole line; the next record goes there.
    """

    records: dict[str, Record] = field(default_factory=dict)
    length: int = 0

    @property
    def claim(self) -> Record | None:
        """Who claimed the dispatch: installation, digest, machine, boot."""
        return self.records.get("claim")

    @property
    def start(self) -> Record | None:
        """The workload's process, unless the program could not be started."""
        return None if "refused" in self.records else self.records.get("start")

    @property
    def exit(self) -> Record | None:
        """How it ended."""
        return self.records.get("exit")

    @property
    def settled(self) -> bool:
        """Whether the start is over: it runs, or it ended."""
        return "running" in self.records or "exit" in self.records


def parse(data: bytes) -> Story:
    """Return the story in a journal's bytes; a last line without its end is being written and does not count."""
    whole, newline, _ = data.rpartition(b"\n")
    records: dict[str, Record] = {}
    for line in whole.split(b"\n"):
        if line:
            record = json.loads(line)
            records.setdefault(record.pop("record"), record)
    return Story(records, len(whole) + len(newline))


def read(directory: Path) -> Story | None:
    """Return the story of a dispatch's directory, or None where there is none."""
    try:
        descriptor = os.open(directory / JOURNAL, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return parse(os.read(descriptor, 65536))
    except (ValueError, KeyError, AttributeError) as error:
        raise DamagedJournal(f"{directory / JOURNAL} is damaged: {error}", sent=False, retryable=False) from error
    finally:
        os.close(descriptor)


def moment(seconds: float) -> datetime:
    """Return seconds since the epoch as a time."""
    return datetime.fromtimestamp(seconds, UTC)


def native(start: Record) -> dict[str, Any]:
    """Return what the record shows of a workload: its own pid and its shim's."""
    return {"pid": start["pid"], "start_time": start["start_time"], "shim": start["shim"]}


def handle(id: str, story: Story) -> Handle:
    """Return the handle of a workload that was started."""
    claim, start = story.claim, story.start
    if claim is None or start is None:
        raise ValueError(f"{id} was not started")
    names = ("pid", "start_time", "shim", "shim_start_time", "namespace")
    return Handle(
        id=id,
        backend=claim["machine"],
        data={"boot_id": claim["boot"]} | {name: start[name] for name in names},
        first=ended(story) if story.exit else running(start),
    )


def running(start: Record, *, reachable: bool = True, reason: str | None = None) -> Observation:
    """Return the observation of a workload that is not known to have ended."""
    return Observation(
        phase=Phase.RUNNING,
        reachable=reachable,
        reason=reason,
        started_at=moment(start["at"]),
        native=native(start),
    )


def ended(story: Story) -> Observation:
    """Return the observation of a workload whose end stands in the journal: leader reaped and tree empty."""
    start, exit_ = story.start, story.exit
    if start is None or exit_ is None:
        raise ValueError("the journal tells of no end")
    asked = exit_["stop_reached"]
    return Observation(
        phase=Phase.ENDED,
        exit_code=exit_["exit_code"],
        signal=exit_["signal"],
        reason=exit_.get("reason"),
        started_at=moment(start["at"]),
        ended_at=moment(exit_["at"]),
        stop_reached=asked,
        forced=exit_["forced"],
        evidence="proven" if exit_["forced"] is not None else None,
        ended_by=EndedBy(exit_["ended_by"]) if exit_["ended_by"] else None,
        native=native(start),
    )
