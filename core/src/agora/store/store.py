"""The journal: records and events in SQLite, shared by any number of processes."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agora.errors import (
    AmbiguousId,
    DispatchCancelled,
    DispatchConflict,
    DispatchNotFound,
    InvalidRequest,
    StoreError,
)
from agora.model.events import Event, EventType
from agora.model.record import ALSO_CANCELLED, Entry, State
from agora.store import below, rows
from agora.store import home as state_directory
from agora.store.applied import Applied, Transaction
from agora.store.below import Requested
from agora.store.decided import Decided, check_open
from agora.store.pulse import Pulse
from agora.store.rows import Filter
from agora.store.schema import migrate
from agora.store.worker import StoreWorker, out_of_space

if TYPE_CHECKING:
    from agora.state import CancelAsked, Change, Fact

T = TypeVar("T")

logger = logging.getLogger(__name__)

BUSY_SECONDS = 5.0


class Store:
    """One state directory.

    Parameters:
        home: the directory; made where it is missing.
        clock: tells it the time; the machine's by default.
    Raises:
        StoreError: it cannot be made, read or written.
        StoreTooNew: a newer version of Agora wrote it.
    """

    def __init__(self, home: Path, *, clock: Callable[[], datetime] | None = None) -> None:
        self.home = home
        self._clock = clock or partial(datetime.now, UTC)
        self.path = home / state_directory.DATABASE
        state_directory.prepare(home)
        self.installation = state_directory.installation(home)
        self.pulse = Pulse(self._data_version)
        try:
            with closing(self._connect()) as connection:
                migrate(connection)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        state_directory.keep_reserve(home)
        self._writer = StoreWorker(
            self._connect,
            writes=True,
            on_commit=self.pulse.beat,
            on_full=lambda: state_directory.release_reserve(home),
        )
        self._reader = StoreWorker(self._connect, writes=False)
        self.decided = Decided(self._read, self._write, self.now)

    def close(self) -> None:
        """Finish what is queued and let go of the files."""
        self._writer.close()
        self._reader.close()

    def now(self) -> datetime:
        """Return the store's clock; deadlines and claims use no other."""
        return self._clock()

    async def create(self, entry: Entry, *, retries: str | None = None) -> tuple[Entry, tuple[Event, ...], bool]:
        """Write a new dispatch, or find the one that has its id.

        Parameters:
            entry: the dispatch.
            retries: the one that it tries again.
        Returns:
            the stored entry, the events written, and whether it is new.
        Raises:
            DispatchConflict: the id, or the name in its run, is taken by another spec, or the id by another owner.
            InvalidRequest: there is no such parent, or it is being stopped or over; or the run is over.
            DispatchCancelled: somebody has cancelled the one that it tries again.
        """

        def job(connection: sqlite3.Connection) -> tuple[Entry, tuple[Event, ...], bool]:
            stored = rows.read(connection, entry.id)
            if stored is not None:
                if stored.digest != entry.digest or stored.target != entry.target:
                    raise DispatchConflict(f"dispatch {entry.id} exists with another spec or target; use a new id")
                if stored.owner != entry.owner:
                    whose = [f"for {owner}" if owner else "without an owner" for owner in (stored.owner, entry.owner)]
                    raise DispatchConflict(f"dispatch {entry.id} exists {whose[0]}, not {whose[1]}; use a new id")
                return stored, (), False
            if entry.run and entry.name and (taken := self._id_of_name(connection, entry.run, entry.name)):
                raise DispatchConflict(f"run {entry.run!r} already has a dispatch named {entry.name!r}: {taken}")
            if entry.run:
                check_open(connection, entry.run)
            if entry.parent is not None:
                _check_parent(rows.read(connection, entry.parent), entry.parent)
            if retries is not None:
                _check_retried(rows.read(connection, retries))
            change = _created(entry)
            rows.insert(connection, change.entry)
            return change.entry, tuple(rows.write_events(connection, self.installation, change)), True

        return await self._write(job, durable=True, spares=True)

    async def apply(self, id: str, *facts: Fact, durable: bool = False) -> Applied:
        """Apply facts to one dispatch, all in one transaction; the answer is the last fact's.

        Parameters:
            id: the dispatch.
            facts: applied in order.
            durable: commit with synchronous FULL (requests, ends).
        Raises:
            DispatchNotFound: there is no such dispatch.
        """
        return await self._write(lambda connection: self._begun(connection).apply(id, facts), durable=durable)

    async def request(self, id: str, asked: CancelAsked) -> Requested:
        """Record a stop and, in the same transaction, that of all below it; see `below.request`."""
        return await self._write(lambda connection: below.request(self._begun(connection), id, asked), durable=True)

    def _begun(self, connection: sqlite3.Connection) -> Transaction:
        return Transaction(connection, self.installation, self.now())

    async def read(self, id: str) -> Entry:
        """Read one entry.

        Raises:
            DispatchNotFound: there is no such dispatch.
        """
        entry = await self._read(lambda connection: rows.read(connection, id))
        if entry is None:
            raise DispatchNotFound(f"there is no dispatch {id}")
        return entry

    def read_blocking(self, id: str) -> Entry:
        """Read one entry from a worker thread.

        Raises:
            DispatchNotFound: there is no such dispatch.
        """
        entry: Entry | None = self._reader.submit(lambda connection: rows.read(connection, id)).result(BUSY_SECONDS)
        if entry is None:
            raise DispatchNotFound(f"there is no dispatch {id}")
        return entry

    async def read_many(self, ids: Iterable[str]) -> list[Entry]:
        """Read those of the entries that exist and can be read."""
        wanted = list(ids)

        def job(connection: sqlite3.Connection) -> list[Entry]:
            found = (rows.queries().dispatch_row(connection, id=id) for id in wanted)
            return rows.readable(row for row in found if row is not None)

        return await self._read(job)

    async def open_versions(self) -> dict[str, int]:
        """Return the version of every dispatch that somebody has to look after, or to clean up behind."""
        return await self._read(lambda connection: dict(rows.queries().open_versions(connection)))

    async def listed(self, wanted: Filter) -> list[Entry]:
        """Read entries, newest first."""
        return await self._read(lambda connection: rows.listed(connection, wanted))

    async def events(self, id: str, after: int = 0) -> list[Event]:
        """Read events of one dispatch from sequence `after` + 1 on."""
        return await self._read(lambda connection: rows.read_events(connection, id, after))

    async def run_events(self, run: str, after: str | None, most: int) -> tuple[list[Event], str | None]:
        """Read events of a run, from behind an event on; see `rows.read_run_events`."""
        return await self._read(lambda connection: rows.read_run_events(connection, run, after, most))

    async def has_run(self, run: str) -> bool:
        """Return whether any dispatch is of this run."""
        return await self._read(lambda connection: rows.queries().any_of_run(connection, run=run) is not None)

    async def live_of_run(self, run: str) -> set[str]:
        """Return the ids of a run's live dispatches."""
        return await self._read(lambda connection: {id for (id,) in rows.queries().live_of_run(connection, run=run)})

    async def resolve(self, text: str) -> str:
        """Find the one dispatch whose id is, begins or ends with `text`.

        Raises:
            DispatchNotFound: none does.
            AmbiguousId: several do.
        """

        def job(connection: sqlite3.Connection) -> list[str]:
            if rows.read(connection, text) is not None:
                return [text]
            plain = text.replace("%", "").replace("_", "")
            found = rows.queries().candidate_ids(connection, prefix=f"{plain}%", suffix=f"%{plain}")
            return [row[0] for row in found] if text and plain == text else []

        found = await self._read(job)
        if not found:
            raise DispatchNotFound(f"there is no dispatch {text}; `agora ps --all` lists them")
        if len(found) > 1:
            raise AmbiguousId(f"{text} names more than one dispatch: {found[0]}, {found[1]}; give more of the id")
        return found[0]

    async def ended_before(self, before: datetime) -> list[Entry]:
        """Read the entries that nobody looks after any more and that ended earlier."""

        def job(connection: sqlite3.Connection) -> list[Entry]:
            return rows.readable(rows.queries().ended_before(connection, before=before.timestamp()))

        return await self._read(job)

    async def delete(self, id: str) -> None:
        """Remove an ended dispatch and its events."""
        await self._write(lambda connection: rows.delete(connection, id), durable=False)

    @staticmethod
    def _id_of_name(connection: sqlite3.Connection, run: str, name: str) -> str | None:
        found: str | None = rows.queries().id_of_name(connection, run=run, name=name)
        return found

    async def _write(self, job: Callable[[sqlite3.Connection], T], *, durable: bool, spares: bool = False) -> T:
        try:
            result: T = await asyncio.wrap_future(self._writer.submit(job, durable=durable, spares=spares))
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return result

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        try:
            result: T = await asyncio.wrap_future(self._reader.submit(job))
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return result

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.OperationalError as error:
            if not out_of_space(error):
                raise
            state_directory.release_reserve(self.home)
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _use_wal(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    async def _data_version(self) -> int:
        return await self._read(lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0]))

    def _failure(self, error: sqlite3.Error) -> StoreError:
        hint = "" if os.access(self.home, os.W_OK) else " (its directory cannot be written to)"
        return StoreError(f"the store {self.path} cannot be used: {error}{hint}")


def _check_parent(parent: Entry | None, id: str) -> None:
    if parent is None:
        raise InvalidRequest(f"there is no dispatch {id} to be the parent")
    if parent.state is State.STOPPING or parent.state.terminal:
        raise InvalidRequest(f"the parent {id} is {parent.state.value}: nothing is started below it any more")


def _check_retried(before: Entry | None) -> None:
    if before is not None and any(note.type == ALSO_CANCELLED for note in before.notes):
        raise DispatchCancelled(before.public())


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log; of a new store, two that switch at once are told "locked" without SQLite waiting."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _created(entry: Entry) -> Change:
    """The first change of a dispatch: it is requested."""
    from agora.state.draft import Draft

    draft = Draft(entry, entry.requested_at)
    spec = entry.spec
    draft.emit(
        EventType.REQUESTED,
        target=entry.target,
        provider=entry.provider,
        run=entry.run,
        name=entry.name,
        owner=entry.owner,
        labels=dict(entry.labels),
        command=spec.get("command"),
        image=spec.get("image"),
        grace=entry.grace,
        timeout=entry.timeout,
        **({} if entry.start_at is None else {"start_at": entry.start_at.isoformat()}),
    )
    return draft.done()
