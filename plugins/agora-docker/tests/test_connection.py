"""Reaching the engine: as the docker command would, by settings, over TLS and over ssh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from agora.errors import ConfigError, Unreachable
from agora.model.observation import Phase
from agora_docker.config import DockerConfig
from agora_docker.endpoint import resolve
from agora_docker.transport import command
from docker_harness import GRACEFUL, Docker, engine_socket, provider
from engines import Certificates, PrivateEngine, SshServer, free_port

pytestmark = pytest.mark.backend("docker")


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    monkeypatch.setenv("HOME", str(tmp_path))


def _context(directory: Path, name: str, host: str) -> None:
    place = directory / "docker-config" / "contexts" / "meta" / sha256(name.encode()).hexdigest()
    place.mkdir(parents=True)
    endpoint = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (place / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoint}))


def test_docker_host_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    endpoint = resolve("t", DockerConfig())
    assert (endpoint.url, endpoint.source) == ("tcp://192.0.2.1:2375", "DOCKER_HOST")


def test_without_anything_it_is_the_usual_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert resolve("t", DockerConfig()).url.endswith("///var/run/docker.sock")


@pytest.mark.parametrize("how", ["setting", "variable", "current"])
def test_a_context_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    here = f"unix://{engine_socket()}"
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    _context(tmp_path, "elsewhere", here)
    if how == "variable":
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    # The SDK looks for contexts beside a file of settings, so there has to be one.
    settings = {"currentContext": "elsewhere"} if how == "current" else {}
    (tmp_path / "docker-config" / "config.json").write_text(json.dumps(settings))
    config = DockerConfig(context="elsewhere") if how == "setting" else DockerConfig()
    assert resolve("t", config).url == here


def test_docker_host_comes_before_a_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///there.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    assert resolve("t", DockerConfig()).url == "unix:///there.sock"


def test_a_context_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no context 'missing'"):
        resolve("t", DockerConfig(context="missing"))


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "unix:///x", "context": "y"},
        {"tls_ca": "/ca.pem"},
        {"host": "tcp://h:1", "tls_cert": "/c"},
        {"timeout": 0},
        {"retention": 0},
        {"retention": "always"},
        {"no_such": 1},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="DockerConfig"):
        DockerConfig.model_validate(settings)


def test_nobody_listens(tmp_path: Path) -> None:
    for host in (f"unix://{tmp_path}/none.sock", f"tcp://127.0.0.1:{free_port()}"):
        with pytest.raises(Unreachable) as caught, closing(provider(tmp_path, "test-lost", host=host)) as lost:
            lost.identity()
        assert caught.value.sent is False
        assert "host" in str(caught.value), "it says where the address came from"


def test_no_permission_for_the_socket(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from agora.errors import PermissionDenied\n"
        "from agora.provider import Installation\n"
        "from agora_docker import PROVIDER\n"
        "import agora_docker.provider\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "config = PROVIDER.config_model(host=sys.argv[1])\n"
        "try: PROVIDER.create('t', config, Installation('i', pathlib.Path('/'))).identity()\n"
        "except PermissionDenied as error: print(error.sent, error)\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    arguments = [sys.executable, "-c", program, f"unix://{closed}/docker.sock"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("False no permission to connect"), done.stderr


@pytest.fixture
def tls_engine(tmp_path: Path) -> Iterator[tuple[PrivateEngine, Certificates]]:
    """An engine of its own that wants certificates."""
    certificates = Certificates(tmp_path / "tls")
    engine = PrivateEngine(tmp_path / "engine", tls=certificates)
    with engine:
        yield engine, certificates


@pytest.mark.slow
def test_tls(tls_engine: tuple[PrivateEngine, Certificates], tmp_path: Path) -> None:
    engine, certificates = tls_engine
    settings: dict[str, Any] = {"tls_ca": certificates.ca, "tls_cert": certificates.cert, "tls_key": certificates.key}
    docker = Docker(tmp_path / "home", host=engine.url, **settings)
    try:
        _whole_life(docker)
    finally:
        docker.clean()
    _context(tmp_path, "secured", engine.url)
    (tmp_path / "docker-config" / "config.json").write_text("{}")
    kept = tmp_path / "docker-config" / "contexts" / "tls" / sha256(b"secured").hexdigest() / "docker"
    kept.mkdir(parents=True)
    for path in (certificates.ca, certificates.cert, certificates.key):
        shutil.copy(path, kept / path.name)
    with closing(provider(tmp_path, "test-context", context="secured")) as by_context:
        assert by_context.identity() == docker.outside.facts().id
    without = provider(tmp_path, "test-stranger", host=engine.url, tls_ca=certificates.ca)
    with closing(without), pytest.raises(Unreachable):
        without.identity()


@pytest.mark.slow
def test_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SshServer(tmp_path / "ssh", engine_socket()) as server:
        monkeypatch.setenv("PATH", f"{server.bin}{os.pathsep}{os.environ['PATH']}")
        docker = Docker(tmp_path / "home", host=server.url)
        try:
            _whole_life(docker)
        finally:
            docker.clean()
    late = docker.another()
    with closing(late), pytest.raises(Unreachable):
        late.identity()


def test_the_ssh_command() -> None:
    words = command("ssh://me@there:2222")
    assert words[-5:] == ["--", "there", "docker", "system", "dial-stdio"]
    assert {"-l", "me", "-p", "2222"} <= set(words)


def _whole_life(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    assert docker.look(handle).phase is Phase.RUNNING
    assert docker.stop(handle, 10).effective_grace == 10
    assert docker.end(handle).exit_code == 9
    stubborn = docker.started("sh", "-c", "trap 'echo TERM' TERM; echo READY; while :; do sleep 0.05; done")
    docker.stop(stubborn, 2)
    assert docker.end(stubborn).forced
    for one in (handle, stubborn):
        docker.provider.release(one)
    assert docker.containers() == []
