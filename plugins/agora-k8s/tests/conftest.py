"""An emulated cluster for the tests of a module, and the provider on it for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests of this package share

from agora_conformance.emulators.k8s import K8sEmulator, Timing
from k8s_harness import Hands


@pytest.fixture(scope="module")
def emulator() -> Iterator[K8sEmulator]:
    """A cluster whose controllers are a little quicker than real ones; its graces are real seconds."""
    timing = Timing(job_batch=0.3, sandbox_stop=0.3, never_started=0.3, node_monitor=0.5, pod_collect=1.0)
    with K8sEmulator(timing=timing) as cluster:
        yield cluster


@pytest.fixture
def hands(emulator: K8sEmulator, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hands]:
    """The provider, for an installation of this test's own."""
    emulator.faults.clear()
    made = Hands(emulator, tmp_path, installation=f"i{abs(hash(request.node.nodeid)):x}")
    yield made
    emulator.faults.clear()
    made.clean()
