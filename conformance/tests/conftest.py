"""What the suite's own tests share: one run of all mutants."""

from __future__ import annotations

import pytest
from agora_conformance.mutants.proof import Proof, prove_all


@pytest.fixture(scope="session")
def proofs() -> dict[str, Proof]:
    """Run the suite on every mutant."""
    return {proof.name: proof for proof in prove_all()}
