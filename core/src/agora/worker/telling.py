"""What a program tells of itself while it runs."""

from __future__ import annotations

from agora.worker.outbox import Outbox
from agora.worker.spending import KEY, Spending


class Telling:
    """The verbs by which a worker tells; each returns at once."""

    _outbox: Outbox
    _spending: Spending

    def progress(
        self, done: float | None = None, total: float | None = None, message: str | None = None, **more: object
    ) -> None:
        """Say how far the program is; returns at once, and the latest word wins where it says so too often.

        Parameters:
            done, total: how much of how much, in a unit of the program's own.
            message: a line for people.
            more: further values that JSON has.
        Raises:
            TypeError, ValueError: the values are no JSON, more than 3,000 bytes, or one is called `spent`.
        """
        if KEY in more:
            raise ValueError(f"{KEY!r} is what `spend` tells; give it another name")
        told = {"done": done, "total": total, "message": message, **more}
        self._outbox.put("dispatch.progress", {name: value for name, value in told.items() if value is not None})

    def spend(self, **amounts: float) -> None:
        """Say what the program has used up since it said so before, as in `spend(tokens=1200, usd=0.02)`.

        The totals of this process are told with its progress; one that is more than the budget of the dispatch is told
        at once, and the dispatch is cancelled.

        Parameters:
            amounts: by unit, 0 or more; 16 units at most, each a name of 24 letters, digits and `_.-` at most.
        Raises:
            ValueError: one is no such unit, or no finite number from 0 on; nothing was added.
        """
        if amounts:
            self._outbox.nudge("dispatch.progress", at_once=self._spending.add(amounts))

    @property
    def spent(self) -> dict[str, float]:
        """What this process has spent, by unit."""
        return self._spending.totals()

    @property
    def budget(self) -> dict[str, float]:
        """What the dispatch may spend, by unit, in all of its processes together."""
        return dict(self._spending.budget)

    def heartbeat(self) -> None:
        """Say that the program gets on; call it from where the work is done."""
        self._outbox.put("dispatch.heartbeat", {})

    @property
    def undelivered(self) -> tuple[bytes, ...]:
        """Events that nobody has taken yet, as JSON."""
        return self._outbox.undelivered
