"""A configuration that is wrong keeps nobody from stopping what runs; it is refused where it is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agora.config import TargetConfig, validate_target
from agora.errors import ConfigError
from agora.model.base import Model
from pydantic import SecretStr


def agora(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agora", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, cwd=folder)


@pytest.mark.timeout(600)
def test_what_runs_is_stopped_from_a_directory_with_a_wrong_file(tmp_path: Path) -> None:
    made = agora(tmp_path, "--json", "dispatch", "--", "sleep", "600")
    record = json.loads(made.stdout)
    pid = record["native"]["pid"]
    assert Path(f"/proc/{pid}").exists()
    (tmp_path / "agora.toml").write_text("colour = 1\n")

    refused = agora(tmp_path, "dispatch", "--", "true")
    assert refused.returncode != 0
    assert "colour" in refused.stderr

    done = agora(tmp_path, "cancel", record["id"], "--reason", "all the same", "--wait")
    assert done.returncode == 0, done.stderr
    assert "colour" in done.stderr  # told, not hidden
    assert not Path(f"/proc/{pid}").exists()
    listed = agora(tmp_path, "--json", "ps", "--all")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == [record["id"]]


def test_a_target_that_cannot_be_asked_keeps_reap_from_no_other(tmp_path: Path) -> None:
    (tmp_path / "agora.toml").write_text('[targets.aaa]\nprovider = "nope"\n')
    done = agora(tmp_path, "--json", "reap", "--dry-run")
    [row] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (row["target"], row["action"]) == ("aaa", "failed")
    assert "not installed" in row["reason"]
    assert done.returncode == 1


class Registry(Model):
    user: str
    password: SecretStr


class Nested(Model):
    registry: Registry | None = None


def test_a_secret_below_the_top_level_is_refused_rather_than_stored() -> None:
    target = TargetConfig("t", "someones", {"registry": {"user": "me", "password": "hunter2"}})
    with pytest.raises(ConfigError, match=r"registry\.password") as caught:
        validate_target(target, Nested)
    assert "hunter2" not in str(caught.value)
