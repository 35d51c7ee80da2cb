"""The pytest plugin: inert, until a target is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    return tmp_path


def test_it_is_inert_without_its_option(folder: Path) -> None:
    done = run_pytest(folder)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_it_collects_the_requirements_and_nothing_else(folder: Path) -> None:
    done = run_pytest(folder, "--agora-conformance", "local", "--collect-only", "-q")
    assert done.returncode == 0, done.stdout
    assert "STOP-03-alive-within-grace" in done.stdout
    assert "test_own" not in done.stdout
    assert "CAP-02" not in done.stdout


@pytest.mark.timeout(400)
def test_selected_requirements_run_and_are_reported(folder: Path) -> None:
    arguments = ["--agora-conformance", "local", "--agora-report", "report.json", "-k", "DISP-03 or DISP-12"]
    done = run_pytest(folder, *arguments)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert report["result"]["core"] == "filtered"
    assert {row["id"]: row["status"] for row in report["checks"]} == {"DISP-03": "pass", "DISP-12": "inapplicable"}


@pytest.mark.timeout(400)
def test_a_failed_requirement_is_a_failed_test_that_says_what_was_seen(folder: Path) -> None:
    target = "agora_conformance.mutants:LOSES_ARGUMENTS"
    done = run_pytest(folder, "--agora-conformance", target, "-k", "DISP-04")
    assert done.returncode == 1, done.stdout
    assert "27 arrived" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("arguments", [["no-such-target"], ["local", "-n1"]])
def test_wrong_usage_is_told(folder: Path, arguments: list[str]) -> None:
    done = run_pytest(folder, "--agora-conformance", *arguments)
    assert done.returncode == 4, done.stdout
    assert "ERROR" in done.stderr
