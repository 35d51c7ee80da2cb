"""An emulated account for the tests of a module, and the provider on it for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests of this package share

from agora_conformance.emulators.ecs import EcsEmulator, Timing
from fargate_harness import GROUP, Hands


@pytest.fixture(scope="module")
def emulator() -> Iterator[EcsEmulator]:
    """An account whose machinery is quick; its graces are real seconds."""
    with EcsEmulator(timing=Timing().hurried(0.005), log_groups=(GROUP,), throttle=False) as account:
        yield account


@pytest.fixture(autouse=True)
def no_aws_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no variable or file of the machine point anywhere else."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECS", "AWS_REGION", "AWS_DEFAULT_REGION",
                 "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
                 "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture
def hands(emulator: EcsEmulator, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hands]:
    """The provider, for an installation of this test's own."""
    emulator.faults.clear()
    made = Hands(emulator, tmp_path, installation=f"i{abs(hash(request.node.nodeid)):x}")
    yield made
    emulator.faults.clear()
    made.clean()
