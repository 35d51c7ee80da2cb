"""Which account a dispatch is in stays as it was, whatever the surroundings of whoever looks after it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agora.errors import ConfigError
from agora_conformance.emulators.ecs import EcsEmulator
from agora_fargate.config import FargateConfig
from agora_fargate.connect import Connection, surroundings
from fargate_harness import ROLE, aws_config, eventually

pytestmark = pytest.mark.backend("fargate")

SLEEP = ("sleep", "600")
TARGET = f"""
default_target = "aws"
[targets.aws]
provider = "fargate"
image = "busybox"
share = 1
[targets.aws.defaults]
subnets = ["subnet-1"]
execution_role = "{ROLE}"
"""


class CommandLine:
    """The `agora` command with one target, in processes and a state directory of its own.

    Parameters:
        directory: where its files are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "agora.toml").write_text(TARGET)
        own = {"AGORA_HOME": str(directory / "home"), "AGORA_CONFIG": str(directory / "agora.toml")}
        self.environment = {**os.environ, **own}

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
        return self.run("dispatch", *arguments, "--", *SLEEP).split()[0]


@pytest.fixture
def agora(tmp_path: Path, emulator: EcsEmulator) -> Iterator[CommandLine]:
    """The `agora` command; the variables lead to the account."""
    made = CommandLine(tmp_path)
    made.environment |= emulator.environment()
    before = dict(made.environment)
    yield made
    made.environment = before
    # What counts is that nothing lives: one may reach its deadline just now, and has ended otherwise then (code 3).
    made.call("cancel", "--all", "--yes")
    eventually(lambda: not emulator.processes())


def url(address: socket.socket) -> str:
    """Return the URL of an address."""
    return f"http://127.0.0.1:{address.getsockname()[1]}"


def test_a_supervisor_that_was_started_in_other_surroundings_keeps_the_deadline(
    agora: CommandLine, emulator: EcsEmulator, nowhere: socket.socket
) -> None:
    account = dict(agora.environment)
    agora.environment |= {"AWS_ENDPOINT_URL": url(nowhere), "AWS_DEFAULT_REGION": "us-east-1"}
    agora.dispatch("--on", "local")
    agora.environment = account
    id = agora.dispatch("--timeout", "2")
    eventually(lambda: emulator.processes(id))
    eventually(lambda: not emulator.processes(id))


def test_a_cancel_from_other_surroundings_reaches_the_account_of_the_dispatch(
    agora: CommandLine, emulator: EcsEmulator, nowhere: socket.socket, tmp_path: Path
) -> None:
    others = dict(agora.environment)
    del others["AWS_ACCESS_KEY_ID"], others["AWS_SECRET_ACCESS_KEY"]
    led = {"AWS_PROFILE": "emulated", "AWS_CONFIG_FILE": str(aws_config(tmp_path / "aws-config", emulator))}
    agora.environment = {name: value for name, value in others.items() if not name.startswith("AWS_ENDPOINT")} | led
    id = agora.dispatch()
    eventually(lambda: emulator.processes(id))
    agora.environment = {**others, "AWS_PROFILE": "nobody", "AWS_ENDPOINT_URL": url(nowhere)}
    agora.run("cancel", id, "--wait")
    assert not emulator.processes(id)


def test_what_could_not_be_sent_is_sent_nowhere_else(
    agora: CommandLine, emulator: EcsEmulator, nowhere: socket.socket
) -> None:
    agora.dispatch("--on", "local")
    agora.environment["AWS_ENDPOINT_URL_ECS"] = url(nowhere)
    id = agora.dispatch()
    nowhere.listen()
    nowhere.accept()[0].close()  # the supervisor, which was started with the endpoint of the account
    assert not emulator.faults.requests(text=id)


# -- what is remembered ------------------------------------------------------------------------------------------

SECRET = "a-secret-access-key"
SERVICES = ("ecs", "logs", "secretsmanager", "sqs")
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAVARIABLE", "AWS_SECRET_ACCESS_KEY": SECRET}
FILE = f"""
[default]
region = eu-west-1
aws_access_key_id = AKIADEFAULT
aws_secret_access_key = {SECRET}
[profile one]
region = eu-west-2
services = own
endpoint_url = http://all:1
aws_access_key_id = AKIAONE
aws_secret_access_key = {SECRET}
[services own]
logs =
    endpoint_url = http://logs:1
secrets_manager =
    endpoint_url = http://secrets:1
[profile broken]
region = eu-west-2
services = nowhere
"""
#: What another process may have instead.
OTHERS = {
    "AWS_PROFILE": "other",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": "http://other:1",
    "AWS_ENDPOINT_URL_LOGS": "http://other:2",
    "AWS_SHARED_CREDENTIALS_FILE": "/no/such/file",
    "AWS_CONFIG_FILE": "/no/such/file",
}


def way(table: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Return the key, the region and the endpoints that a configuration leads to in these surroundings."""
    connection = Connection("t", FargateConfig.model_validate(table))
    try:
        endpoints = [connection.client(service).meta.endpoint_url for service in SERVICES]
        return connection.credentials.access_key, connection.region, endpoints
    finally:
        connection.close()


def led(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Change the surroundings."""
    for name in (*KEYS, *OTHERS, "AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("AWS_CONFIG_FILE", {}),
        ("AWS_SHARED_CREDENTIALS_FILE", {"AWS_PROFILE": "one"}),
        (
            "AWS_CONFIG_FILE",
            {
                "AWS_PROFILE": "one",
                "AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://here:1",
                "AWS_DEFAULT_REGION": "eu-west-3",
            },
        ),
        ("AWS_CONFIG_FILE", {"AWS_PROFILE": "one", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}),
    ],
)
def test_a_profile_and_what_it_leads_to_is_remembered(
    name: str, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = FILE if name == "AWS_CONFIG_FILE" else FILE.replace("[profile ", "[").replace("services = own\n", "")
    (tmp_path / "aws").write_text(text)
    led(monkeypatch, **{"AWS_CONFIG_FILE": "none", name: "aws"}, **variables)
    found = way({})
    table = json.loads(json.dumps(surroundings("t", FargateConfig())))
    assert SECRET not in json.dumps(table)
    monkeypatch.chdir("/")
    led(monkeypatch, **OTHERS, **KEYS)
    assert way(table) == found
    assert surroundings("t", FargateConfig.model_validate(table)) == {}


def test_credentials_of_variables_stay_with_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aws").write_text(FILE)
    led(monkeypatch, AWS_CONFIG_FILE=str(tmp_path / "aws"), AWS_PROFILE="one", **KEYS)
    _, region, endpoints = way({})
    table = surroundings("t", FargateConfig())
    assert table.keys() == {"region", "endpoints"}
    led(monkeypatch, AWS_ENDPOINT_URL="http://other:1", AWS_ACCESS_KEY_ID="AKIAOTHER", AWS_SECRET_ACCESS_KEY=SECRET)
    assert way(table) == ("AKIAOTHER", region, endpoints)


def test_what_is_configured_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aws").write_text(FILE)
    led(monkeypatch, **OTHERS, **KEYS)
    own = {
        "region": "eu-west-3",
        "profile": "one",
        "config_file": str(tmp_path / "aws"),
        "endpoints": {"ecs": "http://e:1"},
    }
    assert surroundings("t", FargateConfig.model_validate(own)) == {"credentials_file": "/no/such/file"}
    key, region, endpoints = way(own)
    assert (key, region, endpoints[0]) == ("AKIAONE", "eu-west-3", "http://e:1")
    assert all(url.endswith(".eu-west-3.amazonaws.com") for url in endpoints[1:])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_CONFIG_FILE": "none"}, "no AWS region"),
        ({"AWS_PROFILE": "nobody"}, "nobody"),
        ({"AWS_PROFILE": "broken"}, "'nowhere'"),
        ({"AWS_ENDPOINT_URL_LOGS": "http://other:2", "AWS_ENDPOINT_URL": "http://me:hidden@here:1"}, "password in the"),
    ],
)
def test_surroundings_that_cannot_be_used_are_refused(
    variables: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aws").write_text(FILE)
    led(monkeypatch, **{"AWS_CONFIG_FILE": str(tmp_path / "aws"), **variables})
    with pytest.raises(ConfigError, match=words) as refused:
        surroundings("t", FargateConfig())
    assert "hidden" not in str(refused.value)
