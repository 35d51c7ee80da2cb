"""Reaching the engine: as the docker command would, by settings, over TLS and over ssh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from agora.errors import ConfigError, ProviderError, Unreachable
from agora.model.observation import Phase, ReceiptKind
from agora_docker.config import DockerConfig
from agora_docker.endpoint import resolve
from agora_docker.testing.proxy import Proxy
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


def test_a_user_without_a_home_gets_the_usual_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONFIG", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nobody knows the user
    assert resolve("t", DockerConfig()).url == "unix:///var/run/docker.sock"


@pytest.mark.parametrize("how", ["setting", "variable", "current"])
def test_a_context_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    here = f"unix://{engine_socket()}"
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    _context(tmp_path, "elsewhere", here)
    if how == "variable":
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    if how == "current":
        (tmp_path / "docker-config" / "config.json").write_text(json.dumps({"currentContext": "elsewhere"}))
    config = DockerConfig(context="elsewhere") if how == "setting" else DockerConfig()
    assert resolve("t", config).url == here


def test_docker_host_comes_before_a_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///there.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    assert resolve("t", DockerConfig()).url == "unix:///there.sock"


def test_a_context_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with pytest.raises(ConfigError, match="no context 'missing'"):
        resolve("t", DockerConfig(context="missing"))
    (tmp_path / "docker-config").mkdir()
    (tmp_path / "docker-config" / "config.json").write_text('{"currentContext": "missing"}')
    with pytest.raises(ConfigError, match="no context 'missing'"):
        resolve("t", DockerConfig())


@pytest.mark.parametrize(
    ("meta", "files", "words"),
    [
        ("{", [], "names no engine"),
        ({"Name": "odd"}, [], "names no engine"),
        ({"Name": "odd", "Endpoints": {"kubernetes": {"Host": "x"}}}, [], "names no engine"),
        (None, ["ca.pem", "cert.pem"], "only one of cert.pem and key.pem"),
    ],
)
def test_a_context_that_is_broken_leads_nowhere_else(
    tmp_path: Path, meta: object, files: list[str], words: str
) -> None:
    """Neither to the usual socket nor to its engine without TLS."""
    _context(tmp_path, "odd", "tcp://192.0.2.1:2376")
    key = sha256(b"odd").hexdigest()
    if meta is not None:
        path = tmp_path / "docker-config" / "contexts" / "meta" / key / "meta.json"
        path.write_text(meta if isinstance(meta, str) else json.dumps(meta))
    kept = tmp_path / "docker-config" / "contexts" / "tls" / key / "docker"
    kept.mkdir(parents=True)
    for name in files:
        (kept / name).write_text("x")
    with pytest.raises(ConfigError, match=words):
        resolve("t", DockerConfig(context="odd"))


def test_a_context_with_an_authority_alone_is_secured(tmp_path: Path) -> None:
    _context(tmp_path, "half", "tcp://192.0.2.1:2376")
    kept = tmp_path / "docker-config" / "contexts" / "tls" / sha256(b"half").hexdigest() / "docker"
    kept.mkdir(parents=True)
    shutil.copy(Certificates(tmp_path / "tls").ca, kept / "ca.pem")
    endpoint = resolve("t", DockerConfig(context="half"))
    assert endpoint.tls is not None
    assert (endpoint.tls.ca_cert, endpoint.tls.verify) == (str(kept / "ca.pem"), True)


def test_settings_of_docker_that_cannot_be_read_lead_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    (tmp_path / "docker-config").mkdir()
    (tmp_path / "docker-config" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json"):
        resolve("t", DockerConfig())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("unix://", "no socket"),
        ("unix:///", "no socket"),
        ("tcp://", "Invalid bind address"),
        ("tcp://engine", "port"),
        ("tcp://engine:port", "port"),
        ("tcp://engine:99999", "Port out of range"),
        ("ssh://", "no host"),
        ("ssh://me@:22", "no host"),
        ("ssh://me:s3cret@engine", "password"),
        ("ftp://engine:1", "begins with ftp://"),
        ("engine", "port"),
    ],
)
def test_addresses_that_make_no_sense(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, words: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    for config in ({}, {"host": url}):
        with pytest.raises(ConfigError, match=words) as caught:
            provider(tmp_path, "test-odd", **config).identity()
        assert ("there.host" if config else "DOCKER_HOST") in str(caught.value), "it says where the address came from"
        assert "s3cret" not in str(caught.value)


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.host: /no/ca\.pem, needed for TLS"):
        resolve("t", DockerConfig(host="tcp://192.0.2.1:2376", tls_ca=Path("/no/ca.pem")))
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2376")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"DOCKER_HOST: .*ca\.pem, needed for TLS"):
        resolve("t", DockerConfig())


def test_certificates_that_are_none(tmp_path: Path) -> None:
    good = Certificates(tmp_path / "tls")
    bad = tmp_path / "bad.pem"
    bad.write_text("x")
    locked = tmp_path / "locked.pem"
    words = ("openssl", "pkey", "-in", good.key, "-aes256", "-passout", "pass:secret", "-out", locked)
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    for ca, cert, key in ((bad, good.cert, good.key), (good.ca, bad, good.key), (good.ca, good.cert, locked)):
        config = DockerConfig(host="tcp://192.0.2.1:2376", tls_ca=ca, tls_cert=cert, tls_key=key)
        with pytest.raises(ConfigError, match=r"t\.host: TLS cannot be had with .*\.pem"):
            resolve("t", config)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer as a proxy in between does."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_what_answers_is_no_engine(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"tcp://127.0.0.1:{server.server_port}"
        with closing(provider(tmp_path, "test-page", host=host)) as made:
            with pytest.raises(Unreachable, match="does not answer as a Docker Engine") as caught:
                made.identity()
            assert caught.value.sent is False
        server.shutdown()


def test_ssh_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'Warning: something' >&2\necho 'Host key verification failed.' >&2\nexit 255\n")
    ssh.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    words = r"ssh://engine\.example .*: Host key verification failed\.$"
    made = provider(tmp_path, "test-key", host="ssh://engine.example")
    with closing(made), pytest.raises(Unreachable, match=words):
        made.identity()


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
        assert "is an engine running there?" in str(caught.value)


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
    assert "the group of the socket" in done.stdout, "it says what to do"


def test_an_engine_that_another_version_replaced(cuttable: Docker, proxy: Proxy) -> None:
    """What was agreed on with the one before may be too old for it."""
    handle = cuttable.started(*GRACEFUL)
    engine = cuttable.provider._engine
    engine._version = "1.99"
    with pytest.raises(ProviderError, match="is too new"):
        cuttable.look(handle)
    proxy.cut()
    for _ in range(2):
        with pytest.raises(Unreachable):
            cuttable.look(handle)
    proxy.heal()
    assert cuttable.look(handle).phase is Phase.RUNNING
    assert cuttable.stop(handle, 10).kind is ReceiptKind.SIGNALLED


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
    kept = tmp_path / "docker-config" / "contexts" / "tls" / sha256(b"secured").hexdigest() / "docker"
    kept.mkdir(parents=True)
    for path in (certificates.ca, certificates.cert, certificates.key):
        shutil.copy(path, kept / path.name)
    with closing(provider(tmp_path, "test-context", context="secured")) as by_context:
        assert by_context.identity() == docker.outside.facts().id
    settings["tls_ca"] = Certificates(tmp_path / "another").ca
    with closing(provider(tmp_path, "test-another", host=engine.url, **settings)) as another:
        with pytest.raises(Unreachable, match="certificate") as caught:
            another.identity()
        assert caught.value.sent is False
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
