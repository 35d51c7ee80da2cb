"""The pytest plugin: `pytest --agora-conformance NAME` runs the suite, one test a requirement; inert otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; nothing else happens without them."""
    group = parser.getgroup("agora-conformance", "conformance of an Agora provider")
    group.addoption("--agora-conformance", metavar="NAME", help="run the suite on this target, and nothing else")
    group.addoption("--agora-profile", choices=["core", "extended"], default="core", help="what to cover")
    group.addoption("--agora-report", type=Path, metavar="F", help="write the report to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Switch the suite on where it is asked for."""
    if name := config.getoption("--agora-conformance"):
        from agora_conformance.pytest_suite import SuiteInPytest

        config.pluginmanager.register(SuiteInPytest(config, name), "agora-conformance-suite")
