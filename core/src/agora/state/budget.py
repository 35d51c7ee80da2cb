"""What a dispatch has spent: totals by who says so, added up."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agora.errors import InvalidRequest
from agora.model.events import EventType
from agora.model.record import Entry
from agora.model.spec import MAX_AMOUNT, MAX_UNITS, UNIT
from agora.state import facts
from agora.state.draft import Draft
from agora.state.looking import note_once

#: The key of the totals in a worker's event.
KEY = "spent"
#: Who spends without being a process of the workload.
OUTSIDE = "outside"
#: Processes of one workload whose totals are told apart; what further ones say is not counted, and noted.
MAX_SOURCES = 1_000
_UNIT = re.compile(UNIT)


def checked(amounts: Mapping[str, object]) -> dict[str, float]:
    """Return amounts that somebody says were spent.

    Raises:
        InvalidRequest: there are none, or one is no finite number from 0 on.
    """
    good = _amounts(amounts)
    if wrong := amounts.keys() - good.keys():
        raise InvalidRequest(f"spent {min(wrong)[:80]!r}: give a unit, and a number from 0 to {MAX_AMOUNT:g}")
    if not good:
        raise InvalidRequest("say what was spent, like tokens=1200")
    return good


def spent(draft: Draft, fact: facts.Spent) -> bool:
    before = draft.entry.spending.get(OUTSIDE, {})
    return _count(draft, OUTSIDE, {unit: before.get(unit, 0.0) + more for unit, more in fact.amounts.items()})


def worker_said(draft: Draft, fact: facts.WorkerSaid) -> None:
    """Count the totals in an event of a process of the workload."""
    if fact.type is not EventType.PROGRESS or KEY not in fact.data:
        return
    told = fact.data[KEY]
    totals = _amounts(told)
    if totals != told:
        note_once(draft, "refused_spending", why="no number from 0 on")
    if rises(draft.entry, fact):
        _count(draft, fact.source, totals)


def rises(entry: Entry, fact: facts.WorkerSaid) -> bool:
    """Whether an event tells of totals that were not counted yet."""
    before = entry.spending.get(fact.source, {})
    told = _amounts(fact.data.get(KEY)) if fact.type is EventType.PROGRESS else {}
    return any(total > before.get(unit, -1.0) for unit, total in told.items())


def _amounts(told: object) -> dict[str, float]:
    """Return the valid ones of some amounts by unit."""
    if not isinstance(told, Mapping):
        return {}
    return {
        unit: float(amount)
        for unit, amount in told.items()
        if isinstance(unit, str) and _UNIT.fullmatch(unit)
        if isinstance(amount, int | float) and not isinstance(amount, bool) and 0 <= amount <= MAX_AMOUNT
    }


def _count(draft: Draft, source: str, totals: Mapping[str, float]) -> bool:
    entry = draft.entry
    if source not in entry.spending and source != OUTSIDE and len(entry.spending) >= MAX_SOURCES:
        note_once(draft, "refused_spending", why=f"more than {MAX_SOURCES} processes")
        return False
    units = list(dict.fromkeys([*entry.budget, *entry.spent, *totals]))
    if len(units) > MAX_UNITS:
        note_once(draft, "refused_spending", why=f"more than {MAX_UNITS} units")
    before = entry.spending.get(source, {})
    # Totals only grow; an event may come late.
    later = {unit: max(totals[unit], before.get(unit, 0.0)) for unit in units[:MAX_UNITS] if unit in totals}
    spending = {**entry.spending, source: {**before, **later}}
    sums: dict[str, float] = {}
    for one in spending.values():
        for unit, total in one.items():
            sums[unit] = sums.get(unit, 0.0) + total
    # Twelve digits: what is lost in sums of many fractions exceeds no budget.
    draft.set(spending=spending, spent={unit: float(f"{total:.12g}") for unit, total in sums.items()})
    return True
