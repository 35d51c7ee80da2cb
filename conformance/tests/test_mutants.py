"""The suite can fail: every mutant fails exactly the requirements that are pinned to it."""

from __future__ import annotations

import pytest
from agora_conformance.mutants import MUTANTS
from agora_conformance.mutants.proof import Proof


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.timeout(1500)  # the first one waits for all of them
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_fails_exactly_what_is_pinned(name: str, proofs: dict[str, Proof]) -> None:
    assert proofs[name].unexpected == {}
    assert proofs[name].missed == ()
