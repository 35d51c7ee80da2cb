"""What the suite's own tests share: one run of all mutants, and modules beside the tests of the emulators."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "emulators"))  # what the tests of the emulators share

import pytest
from agora_conformance.mutants.proof import Proof, prove_all


@pytest.fixture(scope="session")
def proofs() -> dict[str, Proof]:
    """Run the suite on every mutant."""
    return {proof.name: proof for proof in prove_all()}
