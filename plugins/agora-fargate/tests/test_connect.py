"""The way to AWS, and what is missing on it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from agora.errors import ConfigError, PermissionDenied, Unreachable
from agora.model.observation import Handle
from agora.provider import Installation
from agora_conformance.emulators.ecs import EcsEmulator
from agora_fargate import PROVIDER, connect
from agora_fargate.config import FargateConfig
from agora_fargate.connect import Connection
from fargate_harness import Hands, aws_config, never

pytestmark = pytest.mark.backend("fargate")


def test_the_sdk_is_imported_only_when_a_hook_needs_it() -> None:
    code = (
        "import sys, pathlib; from agora_fargate import PROVIDER; from agora.provider import Installation\n"
        "PROVIDER.create('t', PROVIDER.config_model(), Installation('i', pathlib.Path('.')))\n"
        "assert not [name for name in sys.modules if name.startswith('boto')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


def test_no_region_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"no AWS region.*AWS_DEFAULT_REGION"):
        Connection("t", FargateConfig())


def test_no_credentials_say_what_to_do_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, emulator: EcsEmulator
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    with pytest.raises(ConfigError, match=r"no AWS credentials.*AWS_ACCESS_KEY_ID.*profile"):
        Connection("t", FargateConfig())
    before = len(emulator.faults.requests())
    defaults = {"subnets": ["subnet-1"], "execution_role": "arn:r"}
    config = FargateConfig.model_validate({"image": "busybox", "defaults": defaults})
    provider = PROVIDER.create("t", config, Installation("i", tmp_path))
    with pytest.raises(ConfigError, match="no AWS credentials"):
        provider.identity()  # type: ignore[attr-defined]
    assert len(emulator.faults.requests()) == before


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        Connection("t", FargateConfig(profile="nobody", region="eu-central-1"))


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECS"])
def test_variables_lead_where_boto3_says(
    name: str, emulator: EcsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in emulator.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, emulator.url)
    provider = PROVIDER.create("t", FargateConfig(), Installation("i", tmp_path))
    arn = provider.identity()  # type: ignore[attr-defined]
    assert arn == "arn:aws:ecs:eu-central-1:123456789012:cluster/default"
    assert Connection("t", FargateConfig()).source == "region eu-central-1, credentials from env"


def test_an_unknown_cluster_is_unreachable_and_not_empty(hands: Hands) -> None:
    bare = Hands(hands.emulator, hands.directory, cluster="nowhere")
    with pytest.raises(Unreachable, match=r"no cluster 'nowhere'") as caught:
        bare.start()
    assert caught.value.sent is False
    with pytest.raises(Unreachable):
        bare.provider.list_owned(bare.installation)


def test_a_service_that_is_not_there_was_sent_nothing(emulator: EcsEmulator, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"  # ours all the while, so that nobody else can listen there
        hands = Hands(emulator, tmp_path, config_file=str(aws_config(tmp_path / "away", emulator, url)))
        with pytest.raises(Unreachable, match="no connection") as caught:
            hands.start()
    assert caught.value.sent is False


def test_a_service_that_never_answers_keeps_nobody_waiting(
    emulator: EcsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "READ_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hands = Hands(emulator, tmp_path, config_file=str(aws_config(tmp_path / "silent", emulator, url)))
        handle = Handle(id="a", backend="b", data={"installation": "i", "task": "t"})
        with pytest.raises(Unreachable, match="no answer") as caught:
            hands.stop(handle)
    assert caught.value.sent is True


def test_a_client_that_is_made_while_the_others_are_closed_hinders_nobody(
    emulator: EcsEmulator, tmp_path: Path
) -> None:
    connection = Hands(emulator, tmp_path).api._connection
    closed = []

    class Slow:
        def close(self) -> None:
            """Take so long that another thread makes its first client meanwhile."""
            closed.append(connection.client("logs"))

    connection._clients["ecs"] = Slow()
    connection.close()
    assert len(closed) == 1
    closed[0].close()


def test_credentials_that_are_refused_name_their_source(tmp_path: Path) -> None:
    with EcsEmulator(keys=("AKIAOTHER",)) as emulator:
        hands = Hands(emulator, tmp_path)
        with pytest.raises(PermissionDenied, match=r"security token.*region eu-central-1, profile 'emulated'"):
            hands.provider.dispatch("a", hands.spec(), never)


def test_the_targets_configuration_is_refused_where_it_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share"):
        FargateConfig(share=0)
    with pytest.raises(TypeError):
        PROVIDER.create("t", Installation("i", tmp_path), Installation("i", tmp_path))  # type: ignore[arg-type]
