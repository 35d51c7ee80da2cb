"""What a program has used up, in units of its own, and whether that is more than its budget."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The key of the totals in the data of an event.
KEY = "spent"
#: Units of one program, characters of a unit's name, and the largest total. With the 12 digits of a total, these fit
#: into one marked line beside the largest data of a program's own.
MOST_UNITS, LONGEST_UNIT, MOST = 16, 24, 1e15
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


class Spending:
    """Adds up.

    Parameters:
        budget: the limits, by unit.
    """

    def __init__(self, budget: Mapping[str, float]) -> None:
        self.budget = dict(budget)
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}

    def add(self, amounts: Mapping[str, float]) -> bool:
        """Add amounts, all of them or none.

        Parameters:
            amounts: by unit.
        Returns:
            whether a total is more than its limit that was not before.
        Raises:
            ValueError: no name of a unit, no finite number from 0 on, or too much of either.
        """
        added = {unit: _amount(unit, amount) for unit, amount in amounts.items()}
        with self._lock:
            sums = {**self._sums, **{unit: self._sums.get(unit, 0.0) + amount for unit, amount in added.items()}}
            if len(sums) > MOST_UNITS:
                raise ValueError(f"more than {MOST_UNITS} units")
            if any(total > MOST for total in sums.values()):
                raise ValueError(f"a total is more than {MOST:g}")
            before, self._sums = self._sums, sums
        return any(
            rounded(sums.get(unit, 0.0)) > limit >= rounded(before.get(unit, 0.0))
            for unit, limit in self.budget.items()
        )

    def totals(self) -> dict[str, float]:
        """Return what was spent up to now."""
        with self._lock:
            return {unit: rounded(total) for unit, total in self._sums.items()}

    def told(self) -> dict[str, object]:
        """Return what an event says of it; nothing, where nothing was spent."""
        totals = self.totals()
        return {KEY: totals} if totals else {}


def rounded(total: float) -> float:
    """Return a total with 12 digits: what is lost in sums of many fractions exceeds no budget."""
    return float(f"{total:.12g}")


def is_unit(name: str) -> bool:
    """Whether a unit may be called so."""
    return 0 < len(name) <= LONGEST_UNIT and name[0].isalnum() and _LETTERS.issuperset(name)


def _amount(unit: str, amount: object) -> float:
    if not is_unit(unit):
        raise ValueError(f"{unit[:80]!r} is no unit: up to {LONGEST_UNIT} letters, digits and _ . -")
    # A bool has it, as a number has; text has not.
    convert = None if isinstance(amount, bool) else getattr(amount, "__float__", None)
    try:
        value: float = convert() if convert is not None else float("nan")
    except (OverflowError, TypeError, ValueError):
        value = float("nan")
    if not 0 <= value <= MOST:
        raise ValueError(f"{unit}: {str(amount)[:80]} is no number from 0 to {MOST:g}")
    return value
