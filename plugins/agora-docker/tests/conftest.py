"""A provider on an installation of its own for each test, against the engine of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests of this package share

from agora_docker.testing.proxy import Proxy
from docker_harness import CommandLine, Docker, engine_socket


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Docker]:
    """A provider with the default configuration."""
    made = Docker(tmp_path)
    yield made
    made.clean()


@pytest.fixture
def agora(docker: Docker) -> Iterator[CommandLine]:
    """The `agora` command on the engine of this machine."""
    made = CommandLine(docker)
    yield made
    made.run("cancel", "--all", "--force", "--yes")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy in front of the engine, whose connections can be cut."""
    made = Proxy(engine_socket())
    yield made
    made.close()


@pytest.fixture
def cuttable(tmp_path: Path, proxy: Proxy) -> Iterator[Docker]:
    """A provider that talks through the proxy."""
    made = Docker(tmp_path, host=proxy.url)
    yield made
    proxy.heal()
    made.clean()
