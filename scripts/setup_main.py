"""Make .venv: the locked third-party packages, and every package of this repository, editable.

Needs Python 3.11 or later with venv, and a package index. Nothing outside the checkout is touched. Doing it
again is safe and quick: what is up to date stays. Set PYTHON to choose the interpreter.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # started with -I, which leaves this directory out

import engine

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements" / "dev.txt"
STAMP = VENV / "setup.json"


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def package_directories() -> list[Path]:
    """Return every directory that holds one of our packages, the core first."""
    found = [*ROOT.glob("core"), *sorted(ROOT.glob("plugins/*")), *ROOT.glob("conformance")]
    return [directory for directory in found if (directory / "pyproject.toml").is_file()]


def digest(paths: list[Path]) -> str:
    """Return one SHA-256 over the names and the contents of `paths`."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.relative_to(ROOT)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def wanted_stamp() -> dict[str, str | list[str]]:
    """Return what the stamp of an environment that needs no work says.

    Where PYTHON is not set, the environment keeps the interpreter that it was made with.
    """
    directories = package_directories()
    chosen = bool(os.environ.get("PYTHON"))
    return {
        "lock": digest([LOCK, Path(__file__).resolve()]),
        "packages": digest([directory / "pyproject.toml" for directory in directories]),
        "directories": [str(directory.relative_to(ROOT)) for directory in directories],
        "location": str(ROOT),
        "python": sysconfig.get_python_version() if chosen else str(read_stamp().get("python", "")),
    }


def read_stamp() -> dict[str, str | list[str]]:
    """Return the stamp of the last set-up that ran to its end, empty where there is none."""
    try:
        stamp: dict[str, str | list[str]] = json.loads(STAMP.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    # The interpreter goes away when the system's Python is upgraded: the links in .venv then lead nowhere.
    return stamp if PYTHON.exists() else {}


def run(*command: str | Path) -> None:
    """Run one step of the set-up; its own output explains a failure."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise SetupError(f"this step failed with code {done.returncode}: {' '.join(map(str, command))}")


def make_venv() -> None:
    """Make an empty .venv, replacing what is there."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        version = sysconfig.get_python_version()
        raise SetupError(
            f"{sys.executable} has no venv module.\n"
            f"  Debian, Ubuntu: apt-get install python3-venv   (or python{version}-venv)\n"
            "  elsewhere: install the package that holds Python's venv and ensurepip modules"
        )
    # With .venv activated we run on the very interpreter that is about to be replaced: use the one behind it.
    base = Path(sys.executable).resolve() if sys.prefix != sys.base_prefix else sys.executable
    run(base, "-m", "venv", "--clear", VENV)


def compile_sources() -> None:
    """Write bytecode for our own sources: without it every command starts twice as slow.

    A source that does not compile is for the linter to report, not a reason to have no environment.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    sources = [str(directory / "src") for directory in package_directories()]
    subprocess.run([PYTHON, "-m", "compileall", "-qq", *sources], env=environment, check=False)


def set_up(stamp: dict[str, str | list[str]]) -> None:
    """Bring the environment from `stamp` to what is wanted; the new stamp is written last."""
    wanted = wanted_stamp()
    wanted["python"] = wanted["python"] or sysconfig.get_python_version()
    same_base = all(stamp.get(key) == wanted[key] for key in ("lock", "location", "python"))
    gone = set(stamp.get("directories", ())) - set(wanted["directories"])
    pip = (PYTHON, "-m", "pip", "--quiet", "--no-input", "install", "--progress-bar", "off")
    if same_base and not gone:
        write_stamp({**stamp, "packages": "unfinished"})
    else:
        STAMP.unlink(missing_ok=True)
        print("setup: making .venv and installing the locked packages", flush=True)
        wanted["python"] = sysconfig.get_python_version()
        make_venv()
        run(*pip, "--require-hashes", "--requirement", LOCK)
        # A package that cannot be installed must not cost the environment as well.
        write_stamp({**wanted, "packages": "unfinished"})
    print("setup: installing the packages of this repository", flush=True)
    editable = [part for directory in package_directories() for part in ("--editable", directory)]
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", *editable)
    run(PYTHON, "-m", "pip", "check", "--quiet")
    compile_sources()
    write_stamp(wanted)


def write_stamp(stamp: dict[str, str | list[str]]) -> None:
    """Write down what the environment holds."""
    written = STAMP.with_suffix(".new")
    written.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    written.replace(STAMP)


def main() -> int:
    """Set up unless the stamp says that nothing has changed; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/setup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--install-engine",
        action="store_true",
        help="also install and start a Docker Engine for the tests, where none answers (root, Debian or Ubuntu)",
    )
    options = parser.parse_args()
    try:
        if options.install_engine:
            print(f"setup: engine: {engine.install()}", flush=True)
        if read_stamp() == wanted_stamp():
            compile_sources()
            return 0
        with LOCK.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two set-ups at once: the second finds the work done
            stamp = read_stamp()
            if stamp != wanted_stamp():
                set_up(stamp)
    except (SetupError, engine.EngineMissing) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    print("setup: .venv is ready", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
