"""The command: what it prints, and its exit codes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from agora_conformance import discover
from agora_conformance.cli import main
from agora_conformance.next_steps import NEXT_STEPS, by_reason
from agora_conformance.report import CheckRow
from agora_conformance.requirement import Level, Tier
from agora_conformance.requirements import REQUIREMENTS
from agora_conformance.target import ConformanceTarget
from agora_conformance.verdict import Status
from click.testing import CliRunner, Result


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_list_names_the_local_target() -> None:
    rows = json.loads(call("list", "--json").stdout)
    local = next(row for row in rows if row["name"] == "local")
    assert (local["provider"], local["emulated"], local["error"]) == ("local", False, None)
    assert "local" in call("list").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "no-such-target"], "no conformance target 'no-such-target' is installed"),
        (["run", "local", "--only", "STOP-99"], "is no requirement"),
        (["run", "local", "--only", "CAP-02"], "no requirement of this profile is selected"),
        (["run", "json:dumps"], "cannot be loaded"),
        (["run", "local", "--profile", "all"], "Invalid value"),
        (["run", "local", "--jobs", "0"], "Invalid value"),
        (["new", "Bad_Name"], "is no provider name"),
        (["verify", "no-such-file"], "does not exist"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_an_unknown_key_in_the_configuration_is_wrong_usage(tmp_path: Path) -> None:
    table = tmp_path / "target.toml"
    table.write_text("colour = 'red'\n")
    result = call("run", "local", "--target-config", table, "--only", "DISP-01")
    assert result.exit_code == 2
    assert "colour" in result.output


STRICT = """
from agora.errors import ConfigError, Unreachable
from agora.model.base import Model
from agora.provider import ProviderInfo
from agora_conformance.target import ConformanceTarget


class Config(Model):
    region: str = "home"


def create(target_name, config, installation):
    if config.region != "home":
        raise ConfigError(f"target {target_name!r}: there is no region {config.region!r}")
    raise Unreachable("nobody answers")


PROVIDER = ProviderInfo(name="strict", create=create, config_model=Config)
TARGET = ConformanceTarget(provider="strict_of_a_test:PROVIDER", probe_spec=lambda script, arguments: {})
"""


def test_a_table_that_only_the_provider_can_refuse_is_wrong_usage_and_an_absent_backend_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strict_of_a_test.py").write_text(STRICT)
    monkeypatch.syspath_prepend(tmp_path)
    table = tmp_path / "target.toml"
    run = ("run", "strict_of_a_test:TARGET", "--target-config", table, "--only", "DISP-01")
    table.write_text("region = 'moon'\n")
    refused = call(*run)
    assert refused.exit_code == 2
    assert "there is no region 'moon'" in refused.output
    assert "DISP-01" not in refused.output
    table.write_text("region = 'home'\n")
    tested = call(*run)
    assert tested.exit_code == 1
    assert "nobody answers" in tested.output


def row(id: str, status: Status, message: str | None) -> CheckRow:
    return CheckRow(
        id=id, slug=f"slug-of-{id.lower()}", level=Level.MUST, tier=Tier.CORE, status=status, message=message, seconds=0
    )


def test_what_says_the_same_is_told_once_the_gravest_first_and_with_the_next_step() -> None:
    deaf, strangers = (
        "the provider has no logs, so the probe cannot be heard",
        "the target has no way to start an unmarked workload",
    )
    rows = [
        row("A-1", Status.UNTESTED, deaf), row("A-2", Status.PASS, None), row("A-3", Status.FAIL, "not written yet"),
        row("A-4", Status.UNTESTED, deaf), row("A-5", Status.UNTESTED, strangers),
        row("A-6", Status.FAIL, "not written yet"),
    ]  # fmt: skip
    found = [(status, why, [one.id for one in together]) for status, why, together in by_reason(rows)]
    assert found == [
        (Status.FAIL, "not written yet", ["A-3", "A-6"]),
        (Status.UNTESTED, f"{deaf}: write the hook `logs` of the provider", ["A-1", "A-4"]),
        (Status.UNTESTED, f"{strangers}: give its `eyes` the method `stranger`", ["A-5"]),
    ]


def test_every_reason_for_not_testing_has_a_next_step() -> None:
    package = Path(discover.__file__).parent
    raised = {
        node.args[0].value
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Untested"
        if isinstance(node.args[0], ast.Constant)
    }
    assert raised == set(NEXT_STEPS)


@dataclass
class Point:
    """An entry point of some distribution."""

    name: str
    value: str
    owner: str
    found: object = None

    @property
    def dist(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.owner, version="1")

    def load(self) -> object:
        return self.found


def test_a_copied_target_that_still_names_the_original_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = ConformanceTarget(provider="local", config={}, probe_spec=lambda script, arguments: {}, overhead=1.0)
    points = {
        "agora.conformance": [Point("copyq", "copyq.conformance:TARGET", "agora-copyq", copied)],
        "agora.providers": [Point("local", "agora_local:PROVIDER", "agora-local")],
    }
    monkeypatch.setattr(
        discover, "entry_points",
        lambda group, name=None: [point for point in points[group] if name in (None, point.name)],
    )  # fmt: skip
    with pytest.raises(discover.Unusable, match=r"of agora-copyq tests the provider 'local', which agora-local brings"):
        discover.load_target("copyq")
    [listed] = discover.list_targets()
    assert listed.error is not None
    points["agora.providers"][0].owner = "Agora-CopyQ"
    assert discover.load_target("copyq") is copied


def test_an_unknown_id_in_the_baseline_is_wrong_usage(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline"
    baseline.write_text("# known\nSTOP-01  # why\nSTOP-99\n")
    result = call("run", "local", "--baseline", baseline)
    assert result.exit_code == 2
    assert "STOP-99" in result.output


def test_a_filtered_run_reports_and_is_no_success(tmp_path: Path) -> None:
    report, junit = tmp_path / "report.json", tmp_path / "junit.xml"
    result = call("run", "local", "--only", "DISP-03", "--report", report, "--junit", junit)
    assert result.exit_code == 3, result.output
    data = json.loads(report.read_text())
    assert data["result"]["core"] == "filtered"
    assert data["backend"]["name"] == "Linux"
    assert data["backend"]["emulated"] is False
    assert [(row["id"], row["status"]) for row in data["checks"]] == [("DISP-03", "pass")]
    assert data["leftovers"] == []
    assert ET.parse(junit).getroot().find("testsuite") is not None
    refused = call("verify", report)
    assert refused.exit_code == 1
    assert "filtered" in refused.output
    assert call("badge", report).exit_code == 1
    assert call("matrix", report).exit_code == 1


def test_warnings_of_what_checks_do_on_purpose_stay_off_the_terminal(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["run", "local", "--profile", "extended", "--only", "WORK-04", "--report", str(report)]
    # In a process of its own: here pytest has set up logging.
    done = subprocess.run(
        [sys.executable, "-m", "agora_conformance", *arguments], check=False, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 3, done.stderr
    assert [row["status"] for row in json.loads(report.read_text())["checks"]] == ["pass"]
    assert "its output has a mark" not in done.stderr
    assert "WORK-04" in done.stderr


def test_a_mutant_fails_with_exit_code_1(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    target = "agora_conformance.mutants:LOSES_ARGUMENTS"
    result = call("run", target, "--only", "DISP-04", "--report", report)
    assert result.exit_code == 1, result.output
    row = json.loads(report.read_text())["checks"][0]
    assert row["status"] == "fail"
    assert "27 arrived" in row["message"]


def test_a_baseline_forgives_a_known_failure_of_a_run(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline"
    baseline.write_text("DISP-04\n")
    result = call("run", "agora_conformance.mutants:LOSES_ARGUMENTS", "--only", "DISP-04", "--baseline", baseline)
    assert result.exit_code == 3
    assert "fail (baseline)" in result.output


def test_requirements_lists_them_all(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert call("requirements", "--output", page).exit_code == 0
    text = page.read_text()
    assert all(f"| {requirement.id} |" in text for requirement in REQUIREMENTS)


def test_schema_is_that_of_a_report() -> None:
    assert json.loads(call("schema").stdout)["title"] == "Report"
