"""How a worker ends after SIGTERM: one stage after the other, each with its own time, written as data."""

from __future__ import annotations

import signal
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The stages together take so much of the grace; the rest is for signals that come late and processes that die slowly.
USED = 0.9


class Stage:
    """One stage of the end.

    Parameters:
        name: what it is called in `dispatch.cancelled` and in budgets.
        share: part of the grace that it may take.
        most: seconds that it may take at most, however long the grace is; null where it gets what the others leave.
    """

    __slots__ = ("most", "name", "share")

    def __init__(self, name: str, share: float, most: float | None) -> None:
        self.name = name
        self.share = share
        self.most = most


#: In this order. A stage that overruns is left behind in a thread of its own: it never takes the time of the next.
STAGES = (
    #: Callbacks run and the program leaves the worker's block; it MUST get the most, since only it knows its work.
    Stage("program", 0.40, None),
    #: `dispatch.cancelled`, and whatever was not delivered before, gets out or into the spool.
    Stage("report", 0.12, 3.0),
    #: Subscriptions are released, all of them at once.
    Stage("channels", 0.10, 2.0),
    #: Files of secrets are overwritten and unlinked, the environment is cleared.
    Stage("secrets", 0.05, 1.0),
    #: Children get SIGTERM, and SIGKILL in the last quarter of the stage.
    Stage("children", 0.15, 3.0),
    #: The directory for what is of use to this run alone is removed, when nobody writes into it any more.
    Stage("workspace", 0.03, 1.0),
    #: The interpreter ends; a program that hangs there is ended.
    Stage("exit", 0.05, 1.0),
)


def budgets(grace: float) -> dict[str, float]:
    """Return the seconds of each stage for a grace in seconds; they add up to nine tenths of it."""
    fixed = {stage.name: min(stage.share * grace, stage.most) for stage in STAGES if stage.most is not None}
    left = USED * grace - sum(fixed.values())
    return {stage.name: fixed.get(stage.name, left) for stage in STAGES}


class Run:
    """A piece of work in a thread of its own, which is left behind where it takes too long.

    Parameters:
        work: what to do.
        name: of the thread.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._outcome = "overran"
        self._work = work
        self._thread = threading.Thread(target=self._call, name=f"agora-{name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # No thread is to be had (a limit of processes, say): done here, without a bound, rather than not at all.
            self._call()

    def _call(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - one stage's failure, SystemExit too, is not the next one's
            self._outcome = f"failed: {type(error).__name__}"
        else:
            self._outcome = "done"
        if threading.current_thread() is self._thread:
            take_no_more_signals()

    def wait(self, seconds: float) -> str:
        """Wait for its end.

        Parameters:
            seconds: how long at most.
        Returns:
            `done`, `overran`, or `failed: TYPE` with the type of the exception.
        """
        if self._thread.ident is not None:
            self._thread.join(max(seconds, 0))
        return self._outcome


def take_no_more_signals() -> None:
    """Be no thread that SIGTERM is given to, as the last thing that it does: it is there for a moment still."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def run(works: Sequence[Callable[[], object]], seconds: float, name: str) -> str:
    """Run the pieces of one stage, all at once, so that one that hangs keeps no other from being done.

    Parameters:
        works: what to do.
        seconds: the budget of all of them.
        name: of the threads.
    Returns:
        the worst outcome.
    """
    until = time.monotonic() + seconds
    runs = [Run(work, name) for work in works]
    outcomes = [one.wait(until - time.monotonic()) for one in runs]
    return max(outcomes, default="done", key=lambda outcome: (outcome == "overran", outcome != "done"))
