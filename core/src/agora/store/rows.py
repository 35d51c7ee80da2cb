"""Entries and events as rows."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import aiosql
from pydantic import ValidationError

from agora.errors import DamagedRecord, InvalidRequest
from agora.model.events import Event
from agora.model.record import Entry, State

if TYPE_CHECKING:
    from agora.state import Change

logger = logging.getLogger(__name__)


@cache
def queries() -> Any:
    """Load the SQL, once a process."""
    text = (resources.files("agora.store") / "queries.sql").read_text()
    return aiosql.from_str(text, "sqlite3")


@dataclass(frozen=True)
class Filter:
    """Which dispatches to list.

    Parameters:
        labels: all of them must match.
        before: only those requested earlier.
        most: at most so many, newest first.
    """

    states: Collection[State] | None = None
    live: bool | None = None
    run: str | None = None
    name: str | None = None
    target: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    before: datetime | None = None
    most: int | None = None


def _columns(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "state": entry.state.value,
        "live": int(entry.live),
        "holds_secrets": int(entry.holds_secrets),
        "target": entry.target,
        "run": entry.run,
        "name": entry.name,
        "owner": entry.owner,
        "parent": entry.parent,
        "requested_at": entry.requested_at.timestamp(),
        "ended_at": None if entry.ended_at is None else entry.ended_at.timestamp(),
        "version": entry.version,
        "body": entry.model_dump_json(exclude_defaults=True),
    }


def insert(connection: sqlite3.Connection, entry: Entry) -> None:
    """Write a new entry and its labels."""
    queries().insert_dispatch(connection, **_columns(entry))
    for label, content in entry.labels.items():
        queries().insert_label(connection, dispatch_id=entry.id, label=label, content=content)


def update(connection: sqlite3.Connection, entry: Entry, previous: int) -> bool:
    """Write an entry if its version is still `previous`; returns whether it was."""
    columns = _columns(entry)
    for name in ("target", "run", "name", "owner", "parent", "requested_at"):
        del columns[name]
    return bool(queries().update_dispatch(connection, previous=previous, **columns) == 1)


def read(connection: sqlite3.Connection, id: str) -> Entry | None:
    """Read one entry."""
    body = queries().read_dispatch(connection, id=id)
    return None if body is None else _entry(body, f"dispatch {id}")


def _entry(body: str, what: str) -> Entry:
    try:
        return Entry.model_validate_json(body)
    except ValidationError as error:
        raise damaged(f"the record of {what}", error) from None


def damaged(what: str, error: ValidationError) -> DamagedRecord:
    """Say what cannot be read and where, without any of its values."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return DamagedRecord(f"{what} cannot be read: {where}: {first['msg']}")


def readable(rows: Iterable[tuple[str, str]]) -> list[Entry]:
    """Read entries from rows of id and body; one that is damaged is told once and keeps nobody from the others."""
    entries = []
    for id, body in rows:
        try:
            entries.append(_entry(body, f"dispatch {id}"))
        except DamagedRecord as error:
            _tell_once(str(error))
    return entries


@cache
def _tell_once(words: str) -> None:
    logger.error("%s; it is left out", words)


def listed(connection: sqlite3.Connection, wanted: Filter) -> list[Entry]:
    """Read entries, newest first."""
    labels = list(wanted.labels.items())
    first = labels[0] if labels else (None, None)
    conditions: dict[str, Any] = {
        "states": None if wanted.states is None else "," + ",".join(s.value for s in wanted.states) + ",",
        "run": wanted.run,
        "name": wanted.name,
        "target": wanted.target,
        "owner": wanted.owner,
        "before": None if wanted.before is None else wanted.before.timestamp(),
        "label": first[0],
        "content": first[1],
        "most": wanted.most if wanted.most is not None and len(labels) < 2 else 2**31 - 1,
    }
    if wanted.live:  # these have an index of their own, so that a long past costs nothing
        rows = queries().list_live(connection, **conditions)
    else:
        live = None if wanted.live is None else 0
        rows = queries().list_dispatches(connection, live=live, **conditions)
    matching = [entry for entry in readable(rows) if all(entry.labels.get(k) == v for k, v in labels[1:])]
    return matching[: wanted.most]


def write_events(connection: sqlite3.Connection, installation: str, change: Change) -> list[Event]:
    """Write the events of a change, in the transaction of the state that they report."""
    events = []
    for draft in change.events:
        event = Event(
            id=f"{change.entry.id}/{draft.sequence}",
            source=f"/agora/{installation}",
            type=draft.type,
            subject=change.entry.id,
            time=draft.time,
            sequence=draft.sequence,
            data=draft.data,
        )
        queries().insert_event(
            connection,
            dispatch_id=event.subject,
            sequence=event.sequence,
            type=event.type.value,
            body=event.model_dump_json(),
        )
        events.append(event)
    return events


def read_events(connection: sqlite3.Connection, id: str, after: int) -> list[Event]:
    """Read the events of one dispatch from sequence `after` + 1 on."""
    rows = queries().read_events(connection, dispatch_id=id, after=after)
    return [Event.model_validate_json(row[0]) for row in rows]


def read_run_events(
    connection: sqlite3.Connection, run: str, after: str | None, most: int
) -> tuple[list[Event], str | None]:
    """Read events of all dispatches of a run, in the order in which they were committed.

    Parameters:
        after: id of the event behind which to begin; a place is told by an event, since numbers of rows are used again.
        most: at most so many.
    Returns:
        the events, and the id of the event behind which to go on.
    Raises:
        InvalidRequest: there is no event `after`, or no longer.
    """
    row = queries().row_before_run(connection, run=run) if after is None else _row_of_event(connection, after)
    newest = queries().newest_event(connection)
    if row is None or newest is None:
        return [], after
    upto, *last = newest
    found = list(queries().read_run_events(connection, run=run, after=row, upto=upto, most=most))
    subject, sequence = found[-1][:2] if len(found) == most else last
    return [Event.model_validate_json(body) for _, _, body in found], f"{subject}/{sequence}"


def _row_of_event(connection: sqlite3.Connection, id: str) -> int:
    subject, _, number = id.rpartition("/")
    sequence = int(number) if number.isdecimal() and len(number) < 10 else 0
    row: int | None = queries().row_of_event(connection, dispatch_id=subject, sequence=sequence)
    if row is None:
        raise InvalidRequest(f"there is no event {id!r}; the id of an event is that of its dispatch, / and its number")
    return row


def delete(connection: sqlite3.Connection, id: str) -> None:
    """Remove a dispatch, its labels and its events."""
    for name in ("delete_events", "delete_labels", "delete_dispatch"):
        getattr(queries(), name)(connection, id=id)
