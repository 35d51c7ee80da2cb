"""Rules of the repository that no tool checks by itself."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import setup_main

ROOT = setup_main.ROOT
PACKAGES = setup_main.package_directories()
SOURCES = sorted(path for package in PACKAGES for path in (package / "src").rglob("*.py"))
IDS = [path.relative_to(ROOT).as_posix() for path in SOURCES]


def project(package: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def test_the_packages_are_found() -> None:
    assert {project(package)["name"] for package in PACKAGES} >= {
        "agora-dispatch",
        "agora-local",
        "agora-conformance",
    }


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_has_its_parts(package: Path) -> None:
    (source,) = (package / "src").iterdir()
    assert (source / "py.typed").is_file()
    assert list((package / "tests").glob("**/test_*.py")), "a package has tests of its own"
    assert (package / "README.md").read_text(encoding="utf-8").startswith(f"# {project(package)['name']}\n")
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project(package)["license"] == "Apache-2.0"
    assert project(package)["requires-python"] == ">=3.11"


def test_all_packages_have_one_version() -> None:
    assert len({project(package)["version"] for package in PACKAGES}) == 1


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_module_stays_small_and_has_a_telling_name(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{lines} lines: split it by what it is about"
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


def test_the_locks_name_no_index() -> None:
    for name in ("dev.txt", "run.txt"):
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert not re.search(r"^\s*-(-index-url|-extra-index-url|-find-links|i |f )", text, re.MULTILINE)
    assert not list(ROOT.glob("uv.lock"))


def test_the_locks_hold_every_requirement_of_the_packages() -> None:
    ours = {project(package)["name"] for package in PACKAGES}
    for name in ("dev.txt", "run.txt"):
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        pinned = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
        wanted = {
            re.split(r"[^A-Za-z0-9._-]", requirement)[0]
            for package in PACKAGES
            for requirement in project(package)["dependencies"]
        }
        assert wanted - ours <= pinned, f"{name} is behind: run scripts/lock"


def test_every_changelog_fragment_will_be_read() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]
    kinds = "|".join(kind["directory"] for kind in settings["type"])
    for path in (ROOT / "changelog.d").iterdir():
        assert path.name == ".gitignore" or re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({kinds})\.md", path.name), path
