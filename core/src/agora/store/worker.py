"""One thread, one SQLite connection: jobs go in, futures come out; writes that wait together commit together."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

MAX_BATCH = 64


def out_of_space(error: sqlite3.Error) -> bool:
    """Whether a full disk may be the reason; SQLite calls one an I/O error where its shared memory cannot grow."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


CLOSE_SECONDS = 10.0


@dataclass
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    durable: bool
    spares: bool
    future: Future[Any] = field(default_factory=Future)


class StoreWorker:
    """Runs jobs on a connection of its own.

    Parameters:
        connect: opens the connection; called on the worker's thread.
        writes: whether jobs run in a transaction; otherwise each sees the newest committed state.
        on_commit: called on the worker's thread after each commit.
        on_full: called when the disk is full, before the writes are tried once more.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        writes: bool,
        on_commit: Callable[[], None] = lambda: None,
        on_full: Callable[[], object] = lambda: None,
    ) -> None:
        self._connect = connect
        self._writes = writes
        self._on_commit = on_commit
        self._on_full = on_full
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._synchronous = ""
        self._thread = threading.Thread(target=self._run, name="agora-store", daemon=True)
        self._thread.start()

    def submit(
        self, run: Callable[[sqlite3.Connection], Any], *, durable: bool = False, spares: bool = False
    ) -> Future[Any]:
        """Queue a job.

        Parameters:
            run: gets the connection; must not commit.
            durable: commit with synchronous FULL, so that it survives a power cut.
            spares: fail when the disk is full, rather than take the space that is kept for requests and ends.
        """
        job = _Job(run, durable, spares)
        with self._closing:
            if self._closed:
                # Nobody would ever look at it.
                job.future.set_exception(sqlite3.ProgrammingError("it was closed"))
            else:
                self._queue.put(job)
        return job.future

    def close(self) -> None:
        """Finish what is queued, then end the thread; a disk that hangs is waited for at most 10 s."""
        with self._closing:
            self._closed = True
            self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._queue.get()) is not None:
            batch = [job]
            stop = False
            while self._writes and len(batch) < MAX_BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    stop = True
                    break
                batch.append(following)
            batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
            try:
                if connection is None:
                    connection = self._connect()
                self._serve(connection, batch)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for the jobs
                for one in batch:
                    if not one.future.done():
                        one.future.set_exception(error)
            if stop:
                break
        if connection is not None:
            connection.close()

    def _serve(self, connection: sqlite3.Connection, batch: list[_Job]) -> None:
        if not self._writes:
            for job in batch:
                try:
                    job.future.set_result(job.run(connection))
                except Exception as error:  # noqa: BLE001 - handed to whoever waits for the job
                    job.future.set_exception(error)
            return
        try:
            results = self._commit(connection, batch)
        except sqlite3.OperationalError as error:
            if not out_of_space(error):
                raise
            for job in batch:
                if job.spares:
                    job.future.set_exception(error)
            batch = [job for job in batch if not job.spares]
            if not batch:
                return
            self._on_full()
            results = self._commit(connection, batch)
        self._on_commit()
        for job, (result, failure) in zip(batch, results, strict=True):
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)

    def _commit(self, connection: sqlite3.Connection, batch: list[_Job]) -> list[tuple[Any, Exception | None]]:
        synchronous = "FULL" if any(job.durable for job in batch) else "NORMAL"
        if synchronous != self._synchronous:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        results: list[tuple[Any, Exception | None]] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in batch:
                connection.execute("SAVEPOINT job")
                try:
                    results.append((job.run(connection), None))
                    connection.execute("RELEASE job")
                except sqlite3.OperationalError:
                    raise
                except Exception as error:  # noqa: BLE001 - handed to whoever waits for the job
                    connection.execute("ROLLBACK TO job")
                    connection.execute("RELEASE job")
                    results.append((None, error))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results
