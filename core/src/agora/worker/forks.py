"""Forks of a program with a worker: each is a program of its own, with the SIGTERM that the worker took over."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agora.worker.base import BaseWorker

#: The worker of this process that has SIGTERM, if there is one.
ENTERED: list[BaseWorker] = []

#: What was blocked before a fork, while one is made.
_MASKS: list[set[int | signal.Signals]] = []


def _before() -> None:
    """Keep SIGTERM from a fork until it is no worker any more: its handler would tell the worker that it came from."""
    if ENTERED:
        _MASKS.append(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}))


def _after() -> None:
    if _MASKS:
        signal.pthread_sigmask(signal.SIG_SETMASK, _MASKS.pop())


def _after_in_child() -> None:
    try:
        for worker in reversed(ENTERED.copy()):
            worker.forget_in_fork()
    finally:
        _after()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
