"""The suite in an account that somebody has configured, here an emulator of which it knows nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agora.errors import PermissionDenied, Unreachable
from agora.model.observation import Phase
from agora_conformance.emulators.ecs import EcsEmulator, Image, Timing
from agora_fargate import names
from agora_fargate.config import FargateConfig
from agora_fargate.connect import Connection
from agora_fargate.testing.gateway import Gateway
from fargate_harness import GROUP, ROLE, Hands, aws_config

pytestmark = pytest.mark.backend("fargate")

#: What needs more than the provider's own requests: a cut of the API, another image, a task of nobody's.
HANDS = ("AWAY-01", "DISP-12", "FOREIGN-02")


@pytest.mark.timeout(400)
def test_a_configured_account_is_tested_whole(tmp_path: Path) -> None:
    images = {"own/entrypoint:1": Image(entrypoint=("sh", "-c", "exit 9"))}
    with EcsEmulator(timing=Timing().hurried(0.02), images=images, log_groups=(GROUP,), throttle=False) as emulator:
        (tmp_path / "account.toml").write_text(
            f'config_file = "{aws_config(tmp_path / "aws-config", emulator)}"\nprofile = "emulated"\n'
            'image = "busybox"\nlog_lag = 0.5\nshare = 8\n'
            f'[defaults]\nsubnets = ["subnet-1"]\nexecution_role = "{ROLE}"\n'
            '[conformance]\nentrypoint_image = "own/entrypoint:1"\n'
        )
        command = [sys.executable, "-m", "agora_conformance", "run", "fargate", "--profile", "extended"]
        command += ["--target-config", str(tmp_path / "account.toml"), "--report", str(tmp_path / "report.json")]
        command += [word for id in HANDS for word in ("--only", id)]
        environment = {**os.environ, "AGORA_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        # As in any account: a variable would lead the suite's clients past the gateway.
        environment["AWS_ENDPOINT_URL_ECS"] = emulator.url
        past = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["id"]: row["status"] for row in report["checks"]} == dict.fromkeys(HANDS, "pass"), done.stdout
    assert report["backend"]["emulated"] is False, "nothing told the suite that it is an emulator"
    assert past.returncode != 0
    assert "AWS_ENDPOINT_URL_ECS would lead the suite past its gateway" in " ".join(past.stderr.split())


def test_the_gateway_signs_anew_and_cuts_one_installation_off(tmp_path: Path) -> None:
    with EcsEmulator(
        timing=Timing().hurried(0.02), log_groups=(GROUP,), throttle=False, keys=("AKIAEMULATOR",)
    ) as emulator:
        config = FargateConfig(config_file=aws_config(tmp_path / "real", emulator), profile="emulated")
        gateway = Gateway(Connection("a test", config))
        way = gateway.config_file(tmp_path / "through")
        assert way.stat().st_mode & 0o077 == 0
        assert "AKIAEMULATOR" not in way.read_text()
        through = {"config_file": str(way), "profile": "gateway"}
        here, there = (Hands(emulator, tmp_path, name, **through) for name in ("here", "there"))
        handle, other = here.start(secrets={"A": "x"}), there.start()
        here.ready(handle)
        gateway.cut(names.agent("here"))
        with pytest.raises(Unreachable) as caught:
            here.stop(handle)
        assert caught.value.sent is True, "nobody can tell"
        assert there.observe(other).phase in (Phase.PENDING, Phase.RUNNING)
        gateway.heal(names.agent("here"))
        here.stop(handle)
        assert here.end(handle).exit_code == 42
        assert emulator.terms(handle.data["task"]) != []
        (tmp_path / "forged").write_text(way.read_text().replace("AKIA", "AKIB"))
        forged = Hands(emulator, tmp_path, config_file=str(tmp_path / "forged"), profile="gateway")
        with pytest.raises(PermissionDenied, match="UnrecognizedClientException"):
            forged.provider.identity()
        for one in (here, there):
            one.clean()
        gateway.close()
