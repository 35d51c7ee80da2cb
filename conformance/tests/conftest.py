"""What the suite's own tests share: a local target, and mutants that run many at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest
from agora_conformance.mutants import MUTANTS, address_of

#: Mutants at the same time on two cores; nearly all of what they do is waiting.
AT_ONCE = 6
#: Mutants that make the suite wait for a minute or longer.
SLOW = ("hangs-on-stop", "no-native-deadline")


def run_mutant(name: str) -> dict[str, Any]:
    """Run the whole suite on one mutant, in a process of the pool, and return the report."""
    from agora_conformance.discover import load_target
    from agora_conformance.report import Profile
    from agora_conformance.suite import Plan, run

    return run(Plan(name, load_target(address_of(name)), profile=Profile.EXTENDED)).data()


@pytest.fixture(scope="session")
def mutant_reports() -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """Start every mutant, the slow ones first."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(AT_ONCE, mp_context=context) as pool:
        names = sorted(MUTANTS, key=lambda name: (name not in SLOW, name))
        yield {name: pool.submit(run_mutant, name) for name in names}
        pool.shutdown(cancel_futures=True)
