"""Every package works from its wheel, in an environment that holds nothing but its wheels."""

import os
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import setup_main

ROOT = setup_main.ROOT
PACKAGES = setup_main.package_directories()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a home that is not the user's."""

    venv: Path
    home: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs as a user would, away from the checkout."""
        settings = {
            "PATH": f"{self.venv / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.home),
            "AGORA_HOME": str(self.home / "agora"),
        }
        return subprocess.run(
            [self.venv / "bin" / program, *arguments],
            cwd=self.home,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with our wheels, built by way of the source archives, and what they need."""
    directory = tmp_path_factory.mktemp("wheels")
    command: list[str | Path] = [ROOT / "scripts" / "wheels", "--sdist", "--offline", directory]
    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=500, check=True)
    return directory


def install(directory: Path, wheels: Path, *names: str) -> Environment:
    """Make an environment from the wheels alone."""
    environment = Environment(directory / "venv", directory)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.venv], timeout=150, check=True)
    # This machine's pip settings must not lead to other wheels.
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--python", environment.venv]
    command: list[str | Path] = [*pip, "install", "--no-compile", "--no-index", "--find-links", wheels, *names]
    subprocess.run(command, env=settings, stdin=subprocess.DEVNULL, timeout=300, check=True)
    return environment


@pytest.fixture(scope="module")
def with_local(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment with the core and the local provider."""
    return install(tmp_path_factory.mktemp("local"), wheels, "agora-dispatch", "agora-local")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_wheel_holds_all_of_its_package_and_nothing_else(wheels: Path, package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    assert (wheels / f"{stem}.tar.gz").is_file()
    with zipfile.ZipFile(wheels / f"{stem}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
    source = package / "src"
    expected = {
        path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert expected
    assert {name for name in names if f"{stem}.dist-info" not in name} == expected
    assert f"{stem}.dist-info/licenses/LICENSE" in names


def test_the_command_tells_its_version(with_local: Environment) -> None:
    version = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for done in (with_local.run("agora", "--version"), with_local.run("python", "-m", "agora", "--version")):
        assert done.returncode == 0, done.stderr
        assert version in done.stdout


@pytest.mark.backend("local")
def test_the_core_and_the_local_provider_run_a_workload(with_local: Environment) -> None:
    done = with_local.run("agora", "run", "--", "true")
    assert done.returncode == 0, done.stderr
    witness = with_local.home / "witness"
    done = with_local.run("agora", "run", "--", "sh", "-c", f"echo ran > {witness}; exit 7")
    assert done.returncode == 7, done.stderr
    assert witness.read_text(encoding="utf-8") == "ran\n"


def test_the_core_alone_says_what_to_install(wheels: Path, tmp_path: Path) -> None:
    environment = install(tmp_path, wheels, "agora-dispatch")
    done = environment.run("agora", "run", "--", "true")
    assert done.returncode not in (0, 1), done.stdout
    assert "agora-local" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_conformance_suite_lists_its_targets(wheels: Path, tmp_path: Path) -> None:
    environment = install(tmp_path, wheels, "agora-conformance", "agora-local")
    done = environment.run("agora-conformance", "list")
    assert done.returncode == 0, done.stderr
    assert "local" in done.stdout
