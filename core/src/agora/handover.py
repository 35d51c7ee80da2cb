"""What is made in a worker thread for somebody who may be cancelled meanwhile: it is handed over, or let go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def made(make: Callable[[], T], let_go: Callable[[T], object]) -> T:
    """Make something that holds threads, files or connections.

    Parameters:
        make: makes it, in a worker thread, which is left behind where the caller is cancelled.
        let_go: closes what came about for nobody; in a worker thread, too.
    Returns:
        what was made.
    Raises:
        Exception: what `make` raises.
    """
    offered: Future[T] = Future()

    def work() -> None:
        one = make()
        try:
            offered.set_result(one)
        except InvalidStateError:
            _close(let_go, one)

    try:
        await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except BaseException:
        if not offered.cancel():
            # It was there already when its caller was cancelled.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_close, let_go, offered.result(), abandon_on_cancel=True)
        raise
    return offered.result()


def _close(let_go: Callable[[T], object], one: T) -> None:
    try:
        let_go(one)
    except Exception:
        logger.exception("%r, which nobody waits for any more, could not be closed", one)
