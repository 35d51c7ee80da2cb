"""The suite can fail: every mutant fails the requirements that are pinned to it, and none of the others."""

from __future__ import annotations

import pytest
from agora_conformance.mutants import MUTANTS
from agora_conformance.mutants.proof import Proof, asked, prove_all
from agora_conformance.pinned import PINNED
from agora_conformance.requirements import REQUIREMENTS

#: Of the requirements that a mutant has to meet, one in so many is checked; `agora-conformance mutants` checks all.
ONE_IN = 4
#: Mutants at the same time: with so few checks of each there are more than without.
AT_ONCE = 10


@pytest.fixture(scope="session")
def proofs() -> dict[str, Proof]:
    """Run the suite on every mutant."""
    return {proof.name: proof for proof in prove_all(at_once=AT_ONCE, one_in=ONE_IN)}


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.timeout(1500)  # the first one waits for all of them
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_fails_what_is_pinned_and_nothing_else(name: str, proofs: dict[str, Proof]) -> None:
    assert proofs[name].unexpected == {}
    assert proofs[name].missed == ()


def test_every_mutant_is_asked_for_all_that_it_fails_and_all_together_for_everything_else_too() -> None:
    ids = {requirement.id for requirement in REQUIREMENTS}
    assert all(asked(name, 1) == ids for name in MUTANTS)
    chosen = {name: asked(name, ONE_IN) for name in MUTANTS}
    assert all(chosen[name] > set(PINNED[name]) for name in MUTANTS)
    to_be_met = [id for name in MUTANTS for id in chosen[name] - set(PINNED[name])]
    assert min(to_be_met.count(id) for id in ids) >= 3
