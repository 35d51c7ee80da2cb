"""A provider on a directory of its own for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests of this package share

from agora_local.launcher import Launcher
from local_harness import Local


@pytest.fixture(autouse=True)
def _own_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the fork server with no provider that an earlier test has left to the garbage collector."""
    monkeypatch.setattr(Launcher, "_shared", {})


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    """A provider with the default configuration."""
    made = Local(tmp_path)
    yield made
    made.clean()


@pytest.fixture(params=["auto", "never"], ids=["cgroup", "walk"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Local]:
    """A provider with a control group per workload where the machine allows it, and one without."""
    made = Local(tmp_path, cgroup=request.param)
    yield made
    made.clean()
