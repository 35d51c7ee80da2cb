"""An emulated cluster for the tests of a module, and the provider on it for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests of this package share

from agora_conformance.emulators.nomad import NomadEmulator, Timing
from nomad_harness import Hands


@pytest.fixture(autouse=True)
def _no_cluster_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the cluster that somebody has set up for themselves."""
    for name in (
        "ADDR",
        "TOKEN",
        "NAMESPACE",
        "REGION",
        "CACERT",
        "CAPATH",
        "CLIENT_CERT",
        "CLIENT_KEY",
        "SKIP_VERIFY",
    ):
        monkeypatch.delenv(f"NOMAD_{name}", raising=False)


@pytest.fixture(scope="module")
def emulator() -> Iterator[NomadEmulator]:
    """A cluster whose clients are soon missed; its graces are real seconds."""
    with NomadEmulator(timing=Timing(heartbeat=1.0, leader=0.5)) as cluster:
        yield cluster


@pytest.fixture
def hands(emulator: NomadEmulator, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hands]:
    """The provider, for an installation of this test's own."""
    emulator.faults.clear()
    made = Hands(emulator, tmp_path, installation=f"i{abs(hash(request.node.nodeid)):x}")
    yield made
    emulator.faults.clear()
    made.clean()
