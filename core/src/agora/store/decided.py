"""What programs decided: by the keys of their groups, and how they left their runs; the first word stands."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from agora.errors import DamagedRecord, InvalidRequest
from agora.model.record import State
from agora.model.run import RunOutcome, RunSummary
from agora.store.rows import damaged, queries

T = TypeVar("T")

logger = logging.getLogger(__name__)

Read = Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]


class Write(Protocol):
    """Runs a job in a transaction."""

    def __call__(self, job: Callable[[sqlite3.Connection], T], *, durable: bool) -> Awaitable[T]:
        """Return what the job returns, once it is committed."""


class Decided:
    """The decisions and the outcomes of one store.

    Parameters:
        read, write: run a job on its connection.
        now: its clock.
    """

    def __init__(self, read: Read, write: Write, now: Callable[[], datetime]) -> None:
        self._read = read
        self._write = write
        self._now = now

    async def decision(self, key: str) -> dict[str, Any] | None:
        """Return what was decided under a key, or null."""
        body = await self._read(lambda connection: queries().read_decision(connection, id=key))
        return None if body is None else json.loads(body)

    async def decide(self, key: str, decision: dict[str, Any]) -> dict[str, Any]:
        """Write a decision down, unless one was; the first one stands for ever.

        Returns:
            the decision that stands.
        """

        def job(connection: sqlite3.Connection) -> str:
            body = json.dumps(decision)
            queries().insert_decision(connection, id=key, decided_at=self._now().timestamp(), body=body)
            stands: str = queries().read_decision(connection, id=key)
            return stands

        stands: dict[str, Any] = json.loads(await self._write(job, durable=True))
        return stands

    async def outcome(self, run: str) -> RunOutcome | None:
        """Return how a run was left, or null.

        Raises:
            DamagedRecord: what is written cannot be read.
        """
        body = await self._read(lambda connection: queries().read_outcome(connection, run=run))
        return None if body is None else _outcome(run, body)

    async def seal(self, outcome: RunOutcome) -> RunOutcome:
        """Write down how a run was left, unless that was done; from then on it takes no new dispatches.

        Returns:
            the outcome that stands.
        Raises:
            DamagedRecord: the one that stands cannot be read.
        """
        run, ended_at = outcome.run, outcome.ended_at.timestamp()

        def job(connection: sqlite3.Connection) -> str:
            queries().insert_outcome(connection, run=run, ended_at=ended_at, body=outcome.model_dump_json())
            stands: str = queries().read_outcome(connection, run=run)
            return stands

        return _outcome(run, await self._write(job, durable=True))

    async def runs(self, run: str | None = None, most: int | None = None) -> list[RunSummary]:
        """Return every run, or the one of that name; the newest first, and at most so many."""

        def job(connection: sqlite3.Connection) -> tuple[list[Any], list[Any]]:
            members = list(queries().count_members(connection, run=run))
            return members, list(queries().list_outcomes(connection, run=run))

        members, outcomes = await self._read(job)
        found: dict[str, RunSummary] = {}
        for name, body in outcomes:
            try:
                found[name] = RunSummary(run=name, outcome=_outcome(name, body))
            except DamagedRecord as error:
                # One that cannot be read keeps nobody from the others.
                logger.error("%s; it is shown as open", error)
        for name, state, count, first in members:
            one = found.get(name) or RunSummary(run=name)
            began = datetime.fromtimestamp(first, UTC)
            found[name] = one.model_copy(
                update={
                    "states": {**one.states, State(state): count},
                    "began_at": began if one.began_at is None else min(began, one.began_at),
                }
            )
        return sorted(found.values(), key=_age, reverse=True)[:most]

    async def forget(self, before: datetime) -> None:
        """Remove decisions and outcomes that are older, where no dispatch of that key or run is left."""

        def job(connection: sqlite3.Connection) -> None:
            queries().delete_decisions(connection, before=before.timestamp())
            queries().delete_outcomes(connection, before=before.timestamp())

        await self._write(job, durable=False)


def check_open(connection: sqlite3.Connection, run: str) -> None:
    """See that a run takes new dispatches.

    Raises:
        InvalidRequest: it is over.
    """
    if (body := queries().read_outcome(connection, run=run)) is not None:
        how = _outcome(run, body).state.value
        raise InvalidRequest(f"run {run!r} is over ({how}) and takes no new dispatches: give the run another name")


def _outcome(run: str, body: str) -> RunOutcome:
    try:
        return RunOutcome.model_validate_json(body)
    except ValidationError as error:
        raise damaged(f"the outcome of run {run!r}", error) from None


def _age(one: RunSummary) -> tuple[datetime, str]:
    ended = None if one.outcome is None else one.outcome.ended_at
    return one.began_at or ended or datetime.min.replace(tzinfo=UTC), one.run
