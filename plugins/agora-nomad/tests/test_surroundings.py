"""Which cluster a dispatch is on stays as it was, whatever the surroundings of whoever looks after it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agora.errors import ConfigError
from agora_conformance.emulators.nomad import NomadEmulator
from agora_nomad import names
from agora_nomad.config import NomadConfig
from agora_nomad.connect import read_settings, surroundings
from nomad_harness import eventually

pytestmark = pytest.mark.backend("nomad")

SLEEP = ("sleep", "600")


class CommandLine:
    """The `agora` command with one target, in processes and a state directory of its own.

    Parameters:
        directory: where its files are.
        cluster: what the target stands for, unless the variables say otherwise.
    """

    def __init__(self, directory: Path, cluster: NomadEmulator) -> None:
        self._directory = directory
        self._cluster = cluster
        config = directory / "agora.toml"
        self._config = config
        self.configure()
        self.environment = {**os.environ, "AGORA_HOME": str(directory / "home"), "AGORA_CONFIG": str(config)}

    def configure(self, **settings: str) -> None:
        """Set the target's configuration."""
        lines = ['default_target = "cluster"', "[targets.cluster]", 'provider = "nomad"', 'driver = "raw_exec"']
        self._config.write_text(
            "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in settings.items())])
        )

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it."""
        return subprocess.run(
            [sys.executable, "-m", "agora", *arguments],
            env=self.environment,
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def run(self, *arguments: str) -> str:
        """Run what has to succeed, and return what it prints."""
        done = self.call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dispatch(self, *arguments: str) -> str:
        """Dispatch something and return its id."""
        return self.run("dispatch", *arguments).split()[0]

    def processes(self, id: str) -> list[int]:
        """Return the live processes of a dispatch, seen from the node."""
        return self._cluster.processes(names.job_id(id))


@pytest.fixture
def agora(tmp_path: Path, emulator: NomadEmulator) -> Iterator[CommandLine]:
    """The `agora` command; the variables lead to the cluster."""
    made = CommandLine(tmp_path, emulator)
    made.environment["NOMAD_ADDR"] = emulator.url
    yield made
    made.environment["NOMAD_ADDR"] = emulator.url
    # What counts is that nothing lives: one may reach its deadline just now, and has ended otherwise then (code 3).
    made.call("cancel", "--all", "--force", "--yes")
    eventually(lambda: not emulator.processes())


def url(address: socket.socket) -> str:
    """Return the URL of an address."""
    return f"http://127.0.0.1:{address.getsockname()[1]}"


def test_a_supervisor_that_was_started_in_other_surroundings_keeps_the_deadline(
    agora: CommandLine, emulator: NomadEmulator, nowhere: socket.socket, tmp_path: Path
) -> None:
    agora.environment["NOMAD_ADDR"] = url(nowhere)
    agora.configure(address=emulator.url)
    first = agora.dispatch("--", *SLEEP)
    agora.environment["NOMAD_ADDR"] = emulator.url
    agora.configure()
    ran = tmp_path / "ran"
    id = agora.dispatch("--timeout", "2", "--", "sh", "-c", f"touch {ran}; exec sleep 600")
    eventually(ran.exists)  # on a busy machine it may be over before anybody looks for its process
    eventually(lambda: not agora.processes(id))
    assert agora.processes(first), "the supervisor was there all the time"


def test_a_cancel_from_other_surroundings_reaches_the_cluster_of_the_dispatch(
    agora: CommandLine, nowhere: socket.socket
) -> None:
    id = agora.dispatch("--", *SLEEP)
    agora.environment |= {"NOMAD_ADDR": url(nowhere), "NOMAD_REGION": "elsewhere", "NOMAD_NAMESPACE": "elsewhere"}
    agora.run("cancel", id, "--wait")
    assert not agora.processes(id)


def test_what_could_not_be_sent_is_sent_nowhere_else(
    agora: CommandLine, emulator: NomadEmulator, nowhere: socket.socket
) -> None:
    agora.dispatch("--on", "local", "--", *SLEEP)
    agora.environment["NOMAD_ADDR"] = url(nowhere)
    id = agora.dispatch("--", *SLEEP)
    nowhere.listen()
    nowhere.accept()[0].close()  # the supervisor, which was started with the address of the cluster
    assert not emulator.faults.requests(name=names.job_id(id))


# -- what is remembered ------------------------------------------------------------------------------------------

TOKEN = "3c1a2b2e-0000-secret-token"


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Every variable that leads to a cluster, and the token."""
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    return {
        "NOMAD_ADDR": "https://a:1",
        "NOMAD_TOKEN": TOKEN,
        "NOMAD_NAMESPACE": "n",
        "NOMAD_REGION": "r",
        "NOMAD_CACERT": "ca.pem",
        "NOMAD_CAPATH": str(tmp_path),
        "NOMAD_CLIENT_CERT": "cert.pem",
        "NOMAD_CLIENT_KEY": "key.pem",
        "NOMAD_TLS_SERVER_NAME": "s",
        "NOMAD_SKIP_VERIFY": "true",
    }


def again(table: dict[str, Any]) -> NomadConfig:
    """Return a configuration as a later process reads it from the store."""
    return NomadConfig.model_validate(json.loads(json.dumps(table)))


def test_all_that_leads_to_the_cluster_is_remembered_but_the_token(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for skip in ("true", "0"):
        variables["NOMAD_SKIP_VERIFY"] = skip
        table = surroundings("t", NomadConfig(), variables)
        assert TOKEN not in json.dumps(table)
        read = read_settings("t", NomadConfig(), variables)
        monkeypatch.chdir("/")
        assert read_settings("t", again(table), {"NOMAD_TOKEN": TOKEN}) == read
        monkeypatch.chdir(tmp_path)


def test_what_is_remembered_is_not_read_from_other_variables(variables: dict[str, str], tmp_path: Path) -> None:
    table = surroundings("t", NomadConfig(), {})
    read = read_settings("t", again(table), {**variables, "NOMAD_CACERT": "/no/such/file"})
    assert read == replace(read_settings("t", NomadConfig(), {}), token=TOKEN, source=read.source)
    assert surroundings("t", again(table), variables) == {}


def test_what_is_configured_stays_as_it_is(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configured = {"address": "http://b:2", "namespace": "m", "ca_cert": tmp_path / "ca.pem", "tls_skip_verify": False}
    config = NomadConfig.model_validate(configured)
    table = surroundings("t", config, variables)
    assert not table.keys() & configured.keys()
    assert table.keys() >= {"region", "client_cert"}
    assert read_settings("t", config, variables).verify == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("address", ["http://me:hidden@nomad:1", "http://:hidden@nomad:1", "nomad:hidden"])
def test_an_address_that_cannot_be_used_is_refused_and_not_told(address: str) -> None:
    with pytest.raises(ConfigError, match="the address must be") as refused:
        surroundings("t", NomadConfig(), {"NOMAD_ADDR": address})
    assert "hidden" not in str(refused.value)


def test_the_provider_tells_its_surroundings_without_a_client(tmp_path: Path) -> None:
    code = (
        "import sys; from agora_nomad import PROVIDER\n"
        "print(PROVIDER.surroundings('t', PROVIDER.config_model())['address'])\n"
        "assert not {'nomad', 'requests', 'urllib3'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "NOMAD_ADDR": "http://127.0.0.1:1"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "http://127.0.0.1:1\n"
