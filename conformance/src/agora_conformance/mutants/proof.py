"""Prove that the suite can fail: run it on every mutant and compare with what is pinned."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from agora_conformance.discover import load_target
from agora_conformance.mutants import MUTANTS, address_of
from agora_conformance.pinned import PINNED
from agora_conformance.report import Profile
from agora_conformance.requirements import REQUIREMENTS
from agora_conformance.suite import JOBS, Plan, run
from agora_conformance.verdict import Status

#: Mutants at the same time; nearly all of what they do is waiting.
AT_ONCE = 6
#: Mutants that make the suite wait for a minute or longer; they start first.
SLOW = ("hangs-on-stop", "no-native-deadline")
#: Checks at the same time on these: what they wait for costs nothing.
SLOW_JOBS = 2 * JOBS


@dataclass(frozen=True)
class Proof:
    """What the suite said of one mutant.

    Parameters:
        name: the mutant.
        unexpected: what did not pass, and why, though it is not pinned; or what did not simply fail.
        missed: what is pinned and passed.
        seconds: how long the run took.
    """

    name: str
    unexpected: dict[str, str]
    missed: tuple[str, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the mutant failed exactly what is pinned."""
        return not self.unexpected and not self.missed


def asked(name: str, one_in: int) -> frozenset[str]:
    """Return the requirements to check on a mutant: all that are pinned, and one in so many of the others.

    Each mutant begins with another one, so that all of them together are asked for every requirement several times.
    """
    others = [requirement.id for requirement in REQUIREMENTS if requirement.id not in PINNED[name]]
    return frozenset((*PINNED[name], *others[sorted(MUTANTS).index(name) % one_in :: one_in]))


def prove(name: str, one_in: int = 1) -> Proof:
    """Run the suite on one mutant.

    Parameters:
        name: the mutant.
        one_in: of the requirements that are not pinned to it, check one in so many.
    """
    jobs = SLOW_JOBS if name in SLOW else JOBS
    only = asked(name, one_in)
    report = run(Plan(name, load_target(address_of(name)), profile=Profile.EXTENDED, only=only, jobs=jobs))
    pinned = PINNED[name]
    failed = {row.id for row in report.checks if row.status is Status.FAIL}
    unexpected = {
        row.id: f"{row.status.value}: {row.message}"
        for row in report.checks
        if row.status not in (Status.PASS, Status.INAPPLICABLE)
        if row.status is not Status.FAIL or row.id not in pinned
    }
    return Proof(name, unexpected, tuple(one for one in pinned if one not in failed), report.seconds)


def prove_all(names: Sequence[str] = (), at_once: int = AT_ONCE, one_in: int = 1) -> Iterator[Proof]:
    """Run the suite on many mutants, several at a time, each in a process of its own.

    Parameters:
        names: which; all by default.
        at_once: how many at a time.
        one_in: as for `prove`.
    """
    ordered = sorted(names or MUTANTS, key=lambda name: (name not in SLOW, name))
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(prove, name, one_in) for name in ordered]):
            yield done.result()
