"""Build a wheel of every package of this repository.

The directory can then be given to pip:  pip install --find-links dist agora-dispatch agora-local
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import setup_main

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path) -> None:
    """Run one step; where it fails its output is the explanation and we end with its code."""
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        sys.exit(f"wheels: this step failed with code {done.returncode}: {' '.join(map(str, command))}")


def main() -> None:
    """Build into the directory that the command line names."""
    parser = argparse.ArgumentParser(
        prog="scripts/wheels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument("--sdist", action="store_true", help="build source archives too, and the wheels from them")
    parser.add_argument(
        "--offline",
        action="store_true",
        help="add the locked third-party wheels for this Python: then pip needs no index (--no-index)",
    )
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for old in [*options.directory.glob("*.whl"), *options.directory.glob("*.tar.gz")]:
        old.unlink()
    only_wheel = () if options.sdist else ("--wheel",)
    for package in setup_main.package_directories():
        build = (sys.executable, "-m", "build", "--no-isolation", *only_wheel)
        run(*build, "--outdir", options.directory, package)
    if options.offline:
        download = (sys.executable, "-m", "pip", "--quiet", "download", "--progress-bar", "off")
        run(
            *(*download, "--no-deps", "--only-binary", ":all:", "--require-hashes"),
            *("--dest", options.directory, "--requirement", ROOT / "requirements" / "run.txt"),
        )
    print(f"wheels: in {options.directory}", flush=True)


if __name__ == "__main__":
    main()
