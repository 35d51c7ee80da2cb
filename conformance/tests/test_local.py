"""The local provider conforms, its report can be believed, and its run stays within two minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from agora_conformance.cli import main


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_local_provider_conforms(tmp_path: Path) -> None:
    report, badge, matrix = (tmp_path / name for name in ("report.json", "badge.svg", "matrix.md"))
    began = time.monotonic()
    arguments = ["run", "local", "--profile", "extended", "--report", str(report)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert time.monotonic() - began < 120
    data = json.loads(report.read_text())
    assert data["result"]["core"] == data["result"]["extended"] == "success"
    assert data["leftovers"] == []
    assert CliRunner().invoke(main, ["verify", str(report)]).exit_code == 0
    assert CliRunner().invoke(main, ["badge", str(report), "--output", str(badge)]).exit_code == 0
    assert "extended, real Linux" in badge.read_text()
    assert CliRunner().invoke(main, ["matrix", str(report), "--output", str(matrix)]).exit_code == 0
    assert "| CAP-02 | logs | ✓ |" in matrix.read_text()
