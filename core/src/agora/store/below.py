"""A stop, and those of all that is below the dispatch, recorded in one transaction."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from agora.errors import DamagedRecord
from agora.model.cancel import Outcome
from agora.store import rows
from agora.store.applied import Applied, Transaction

if TYPE_CHECKING:
    from agora.state import CancelAsked

logger = logging.getLogger(__name__)

#: Of what had ended below a dispatch so many are told one by one, the newest; of the others the number.
MOST_ENDED = 20
#: The note names so many; a record is written anew at every change.
MOST_NOTED = 50
#: The note's type.
NOTE = "children_asked"


@dataclass(frozen=True)
class Requested:
    """What a request did.

    Parameters:
        first: to the dispatch that it names.
        below: to those below it, what is live first; answered as if each had been asked by itself.
        damaged: those below it whose record cannot be read, and why: for them nothing could be recorded.
        more: how many more below it had ended.
    """

    first: Applied
    below: tuple[Applied, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    more: int = 0


def request(transaction: Transaction, id: str, asked: CancelAsked) -> Requested:
    """Record a stop, that of all below it, and on its record what became of each.

    Parameters:
        transaction: what is written is written together.
        id: the dispatch.
        asked: the request; those below get it in the name of the policy `parent_cancelled`.
    Raises:
        DispatchNotFound: there is no such dispatch.
    """
    from agora.state import Noted, below

    tree = [row for row in rows.queries().tree_below(transaction.connection, id=id) if row[0] != id]
    live = [child for child, _, is_live in tree if is_live]
    # Those below are sent theirs first, which nobody is to do with a claim in hand.
    first = transaction.apply(id, (replace(asked, claim=None) if live else asked,))
    fresh = first.answer in (Outcome.STOPPING, Outcome.CANCELLED)
    hastened = first.answer is Outcome.ALREADY_STOPPING and (asked.force or asked.children is not None)
    if not tree or not (fresh or hastened):
        return Requested(first)
    # What ended is asked like the others, which says so and changes nothing about its end.
    over = {child: Outcome(f"ALREADY_{state.upper()}") for child, state, is_live in tree if not is_live}
    newest = sorted(over, reverse=True)[:MOST_ENDED] if fresh else []
    told: list[Applied] = []
    damaged: dict[str, str] = {}
    for child in [*live, *newest]:
        try:
            told.append(transaction.apply(child, (below(asked, id),)))
        except DamagedRecord as error:
            if child not in over:
                # One that cannot be read keeps nobody from stopping the others.
                logger.error("%s; its stop is not recorded", error)
                damaged[child] = str(error)
    if not fresh:
        return Requested(first, tuple(told), tuple(damaged.items()))
    outcomes = dict.fromkeys(damaged, Outcome.NOT_RECORDED) | {one.entry.id: one.answer for one in told}
    more = len(over.keys() - outcomes.keys())
    noted = transaction.apply(id, (Noted(NOTE, _what_became(outcomes | over)),))
    return Requested(replace(first, entry=noted.entry), tuple(told), tuple(damaged.items()), more)


def _what_became(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Count outcomes, and name some: a parent may have thousands of children."""
    named = {id: outcome.value for id, outcome in islice(outcomes.items(), MOST_NOTED)}
    counts = Counter(outcome.value for outcome in outcomes.values())
    return {"outcomes": dict(counts), "children": named, "more": len(outcomes) - len(named)}
