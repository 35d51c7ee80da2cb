"""Facts applied to one stored row, in a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agora.errors import DispatchNotFound, StoreError
from agora.model.events import Event
from agora.model.record import Entry
from agora.store import rows

if TYPE_CHECKING:
    from agora.state import Fact


@dataclass(frozen=True)
class Applied:
    """What a fact did to the stored row.

    Parameters:
        entry: as stored now.
        events: as written.
        answer: what the state machine tells the one who brought the fact.
    """

    entry: Entry
    events: tuple[Event, ...]
    answer: Any

    @property
    def changed(self) -> bool:
        """Whether the fact ended or changed what others may see."""
        return bool(self.events)


@dataclass(frozen=True)
class Transaction:
    """What a write has in hand.

    Parameters:
        connection: in a transaction.
        installation: the source of events.
        now: by the store's clock; one time for all that is written together.
    """

    connection: sqlite3.Connection
    installation: str
    now: datetime

    def apply(self, id: str, facts: Sequence[Fact]) -> Applied:
        """Apply facts to one dispatch, in order; the answer is the last fact's.

        Raises:
            DispatchNotFound: there is no such dispatch.
            DamagedRecord: its record cannot be read.
        """
        # A command that only reads does without the state machine.
        from agora.state import apply

        entry = rows.read(self.connection, id)
        if entry is None:
            raise DispatchNotFound(f"there is no dispatch {id}")
        before = entry
        events: list[Event] = []
        answer: Any = None
        for fact in facts:
            change = apply(entry, fact, self.now)
            entry, answer = change.entry, change.answer
            events += rows.write_events(self.connection, self.installation, change)
        if entry is not before:
            entry = entry.model_copy(update={"version": before.version + 1})
            if not rows.update(self.connection, entry, before.version):
                raise StoreError(f"dispatch {id} was changed at the same time; try again")
        return Applied(entry, tuple(events), answer)
