"""scripts/setup: says what is missing, survives an interruption, and is quick the second time."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import requires
from pathlib import Path

import pytest
import setup_main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = setup_main.ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what scripts/setup reads, without an environment."""
    copy = tmp_path / "check out"  # a path with a space is a path like any other
    shutil.copytree(ROOT / "scripts", copy / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "requirements", copy / "requirements")
    for package in setup_main.package_directories():
        target = copy / package.relative_to(ROOT)
        shutil.copytree(package / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(package / name, target / name)
    return copy


def environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHON"} | changes


def needed(*names: str) -> set[str]:
    """Return the distributions `names` and all that they need, as they are in this environment."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        wanted = [Requirement(line) for line in requires(name) or ()]
        waiting += [
            canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return found


def leave_the_backends_out(checkout: Path) -> None:
    """Keep the packages that need no backend's SDK, and of the lock what these and their installation need."""
    for package in setup_main.package_directories():
        name = package.relative_to(ROOT)
        if name.parent.name == "plugins" and name.name != "agora-local":
            shutil.rmtree(checkout / name)
    keep = needed("agora-dispatch", "agora-local", "agora-conformance", "hatchling", "editables")
    lock = checkout / "requirements" / "dev.txt"
    pins = re.split(r"^(?=[a-z0-9])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lock.write_text("".join(pin for pin in pins if pin.partition("==")[0] in keep), encoding="utf-8")


def set_up(checkout: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "scripts" / "setup", *arguments],
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def only_these_programs(directory: Path, *names: str) -> str:
    """Return a PATH on which only the programs `names` are found."""
    directory.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (directory / name).symlink_to(found)
    return str(directory)


def test_a_python_that_is_too_old_is_named(checkout: Path, tmp_path: Path) -> None:
    path = only_these_programs(tmp_path / "bin", "bash", "dirname", "env", "tail")
    program(tmp_path / "bin" / "python3", '#!/usr/bin/env bash\n[ "$1" = -V ] && echo "Python 3.9.2"\nexit 1\n')
    done = set_up(checkout, PATH=path)
    assert done.returncode == 1
    assert "Python 3.11 or later is needed; python3 is Python 3.9.2." in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_python_at_all(checkout: Path, tmp_path: Path) -> None:
    done = set_up(checkout, PATH=only_these_programs(tmp_path / "bin", "bash", "dirname", "env"))
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr


def test_a_named_python_is_used_or_refused(checkout: Path) -> None:
    done = set_up(checkout, PYTHON="/bin/false")
    assert done.returncode == 1
    assert "PYTHON=/bin/false is not a Python 3.11 or later" in done.stderr


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_the_system_package_is_named_where_venv_is_missing(checkout: Path, tmp_path: Path, module: str) -> None:
    # Debian without python3-venv has the interpreter without these modules.
    without = tmp_path / "without.py"
    without.write_text(
        "import runpy, sys\n"
        f"sys.modules[{module!r}] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n",
        encoding="utf-8",
    )
    python = program(
        tmp_path / "python3",
        "#!/usr/bin/env bash\n"
        f'if [ "$1" = -c ]; then exec "{sys.executable}" "$@"; fi\n'
        f'shift; exec "{sys.executable}" "{without}" "$@"\n',
    )
    done = set_up(checkout, PYTHON=str(python))
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_unknown_flag_is_an_error(checkout: Path) -> None:
    done = set_up(checkout, "--frobnicate")
    assert done.returncode == 2
    assert "unrecognized arguments: --frobnicate" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_lock_that_was_tampered_with_installs_nothing(checkout: Path) -> None:
    lock = checkout / "requirements" / "dev.txt"
    text = lock.read_text(encoding="utf-8")
    first = text.index("--hash=sha256:") + len("--hash=sha256:")
    end = text.index("\nannotated-types==")
    broken = text[:first] + "0" * 64 + text[end:]  # aiosql keeps one hash, and it is a wrong one
    lock.write_text(broken, encoding="utf-8")
    done = set_up(checkout)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (checkout / ".venv" / "setup.json").exists()
    assert not list((checkout / ".venv").glob("lib/python*/site-packages/aiosql*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_interrupted_setup_is_made_good(checkout: Path) -> None:
    leave_the_backends_out(checkout)  # the environment that runs this test was set up with everything
    setup = subprocess.Popen(
        [checkout / "scripts" / "setup"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Killed once the environment exists and before anything of ours is in it.
    deadline = time.monotonic() + 200
    while not (checkout / ".venv" / "bin" / "pip").exists():
        assert setup.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(setup.pid, signal.SIGKILL)
    setup.wait(60)
    assert not (checkout / ".venv" / "setup.json").exists()

    done = set_up(checkout)
    assert done.returncode == 0, done.stderr
    python = checkout / ".venv" / "bin" / "python"
    # The packages come from this checkout, with their bytecode.
    where = subprocess.run(
        [
            python,
            "-c",
            "import agora, agora_local, agora_conformance; print(agora.__file__, agora.__cached__)",
        ],
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    source, bytecode = where.stdout.strip().split(".py ")
    assert Path(source + ".py") == checkout / "core" / "src" / "agora" / "__init__.py"
    assert Path(bytecode).is_file()

    again = set_up(checkout)
    assert (again.returncode, again.stdout) == (0, "")
    project = checkout / "core" / "pyproject.toml"
    project.write_text(project.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    changed = set_up(checkout)
    assert changed.returncode == 0, changed.stderr
    assert "installing the packages of this repository" in changed.stdout
    assert "making .venv" not in changed.stdout


@pytest.mark.serial
def test_the_second_call_is_quick() -> None:
    assert set_up(ROOT).returncode == 0
    took = []
    for _ in range(5):
        begun = time.monotonic()
        done = set_up(ROOT)
        took.append(time.monotonic() - begun)
        assert (done.returncode, done.stdout) == (0, "")
    assert min(took) < 1, took
