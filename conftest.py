"""What holds for every test of every package."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import backends  # from scripts/, by the pythonpath setting
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine and what else it does than of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell that starts the suite with `&` has it ignore Ctrl-C, which every process that a test starts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test away from the user's state and settings, and from those of other tests."""
    for name in [name for name in os.environ if name.startswith("AGORA_") and name != "AGORA_TEST_REQUIRE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGORA_HOME", str(tmp_path / "agora-home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg-config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))


@pytest.fixture
def nowhere() -> Iterator[socket.socket]:
    """An address of this machine that nobody listens at, until the test does."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        kept.settimeout(50)
        yield kept


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of the tests that need a backend."""
    config.addinivalue_line("markers", "backend(name): needs that backend; see scripts/backends.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose backend is missing though required; report it as not tested otherwise."""
    for marker in item.iter_markers("backend"):
        (name,) = marker.args
        reason = backends.missing_reason(name)
        if reason is None:
            continue
        if name in backends.required():
            pytest.fail(f"the required backend {name} is missing: {reason}", pytrace=False)
        pytest.skip(f"not tested: backend {name}: {reason}")
