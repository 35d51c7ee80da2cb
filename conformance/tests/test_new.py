"""A new provider's package: it is listed, and fails until it is filled in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agora_conformance.new import BadName, write


@pytest.mark.timeout(600)
def test_a_new_package_is_listed_and_fails(tmp_path: Path) -> None:
    package = write("my-cloud", tmp_path)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, package], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agora_conformance", *arguments]
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)

    rows = json.loads(suite("list", "--json").stdout)
    mine = next(row for row in rows if row["name"] == "my-cloud")
    assert (mine["provider"], mine["error"]) == ("my-cloud", None)
    done = suite("run", "my-cloud", "--only", "DISP-01", "--only", "STOP-10")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "dispatch is not written yet" in done.stderr
    own = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests")]
    assert subprocess.run(own, check=False, env=environment, cwd=package, timeout=300).returncode == 0


def test_it_has_the_pieces_of_the_local_provider(tmp_path: Path) -> None:
    package = write("mine", tmp_path)
    local = Path(__file__).parents[2] / "plugins" / "agora-local"
    own = {str(path.relative_to(package)).replace("agora_mine", "agora_local") for path in package.rglob("*.*")}
    modules = {f"src/agora_local/{name}" for name in ("__init__.py", "config.py", "provider.py", "conformance.py")}
    assert {"pyproject.toml", "README.md", "src/agora_local/py.typed", *modules} <= own
    assert all((local / name).exists() for name in own if not name.startswith("tests/"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write("mine", tmp_path)
    with pytest.raises(FileExistsError):
        write("mine", tmp_path)


@pytest.mark.parametrize("name", ["", "Mine", "my_cloud", "-x", "x-", "a/b", "1a"])
def test_a_bad_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        write(name, tmp_path)
    assert not list(tmp_path.iterdir())
