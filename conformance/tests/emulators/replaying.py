"""Recordings are replayed beside each other: mostly they wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

#: Recordings at the same time.
AT_ONCE = 12


def batches(names: Sequence[str]) -> pytest.MarkDecorator:
    """Give a test the names in batches, as `names`."""
    cut = [list(names[at : at + AT_ONCE]) for at in range(0, len(names), AT_ONCE)]
    return pytest.mark.parametrize("names", cut, ids=lambda one: one[0])


def all_of_them(runs: dict[str, Coroutine[Any, Any, None]], subtests: pytest.Subtests) -> None:
    """Run everything at the same time; each is a test of its own."""

    async def gather() -> list[BaseException | None]:
        return await asyncio.gather(*runs.values(), return_exceptions=True)

    for name, problem in zip(runs, asyncio.run(gather()), strict=True):
        with subtests.test(name):
            if problem is not None:
                raise problem


async def until_no(problems: Callable[[], list[str]], seen: list[Any], patience: float) -> list[str]:
    """Wait until what was seen poses no problems any more; return those that are left when the patience is over.

    Parameters:
        problems: looks at what was seen.
        seen: grows meanwhile.
        patience: in seconds.
    """
    end, looked = time.monotonic() + patience, -1
    left: list[str] = []
    while True:
        if len(seen) != looked:
            looked, left = len(seen), problems()
        if not left or time.monotonic() > end:
            return left
        await asyncio.sleep(0.005)
