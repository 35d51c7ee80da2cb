"""scripts/test: what counts as failed, what the last lines say, and that nothing hides a failure."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import backends
import pytest
import test_main
from test_main import Stage

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs scripts/test over the given stages: exit code and printed lines."""
    monkeypatch.setattr(test_main, "REPORTS", tmp_path)
    monkeypatch.delenv("AGORA_TEST_REQUIRE", raising=False)

    def call(stages: list[Stage], *arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(test_main, "all_stages", lambda _jobs, _reachable: stages)
        monkeypatch.setattr(sys, "argv", ["scripts/test", *arguments])
        return test_main.main(), capfd.readouterr().out.splitlines()

    return call


def python_stage(name: str, code: str) -> Stage:
    return Stage(name, "", (("python", "-c", code),))


def pytest_stage(name: str, directory: Path, code: str) -> Stage:
    path = directory / f"test_{name}.py"
    path.write_text(code, encoding="utf-8")
    return test_main.pytest_stage(name, "", str(path), "-p", "no:cacheprovider", needs_backends=True)


def test_all_stages_run_and_one_failure_fails_the_run(run: Run, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    stages = [
        python_stage("bad", "raise SystemExit(3)"),
        python_stage("later", f"open({str(witness)!r}, 'w').close()"),
    ]
    code, lines = run(stages)
    assert code == 1
    assert witness.exists()
    assert lines[-2] == "1 passed, 1 failed"
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["ok"], summary["stages"]["bad"]["ok"], summary["stages"]["later"]["ok"]) == (
        False,
        False,
        True,
    )


def test_commands_beside_each_other_all_count_and_none_hides_another(run: Run, tmp_path: Path) -> None:
    # Each waits for the other's mark: they end only where both run at once.
    code = "import pathlib, sys, time; mine, other = map(pathlib.Path, sys.argv[1:3]); mine.touch()\n"
    code += "while not other.exists(): time.sleep(0.01)\n"
    code += "print('said by', mine.name); sys.exit(int(sys.argv[3]))"
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    commands = (("python", "-c", code, one, two, "0"), ("python", "-c", code, two, one, "3"))
    exit_code, lines = run([Stage("both", "", commands, at_once=2)])
    assert exit_code == 1
    assert {"said by one", "said by two"} <= set(lines)
    assert lines[-2] == "0 passed, 1 failed"


def test_fail_fast_stops_at_the_first_failure(run: Run, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    stages = [
        python_stage("bad", "raise SystemExit(3)"),
        python_stage("later", f"open({str(witness)!r}, 'w').close()"),
    ]
    code, _ = run(stages, "--fail-fast")
    assert code == 1
    assert not witness.exists()


def test_only_the_named_stages_run(run: Run, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    stages = [
        python_stage("good", f"open({str(witness)!r}, 'w').close()"),
        python_stage("bad", "raise SystemExit(3)"),
    ]
    code, lines = run(stages, "good")
    assert code == 0
    assert witness.exists()
    assert lines[-2] == "1 passed, 0 failed"


def test_an_unknown_stage_is_an_error(run: Run) -> None:
    with pytest.raises(SystemExit) as raised:
        run([python_stage("good", "pass")], "godo")
    assert raised.value.code == 2


def test_counts_come_from_the_junit_files(run: Run, tmp_path: Path) -> None:
    code_of_tests = (
        "import pytest\n"
        "def test_one(): pass\n"
        "def test_two(): pass\n"
        "def test_three(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='x')\n"
        "def test_four(): pass\n"
    )
    code, lines = run([pytest_stage("mixed", tmp_path, code_of_tests)])
    assert code == 1
    assert lines[-2] == "2 passed, 1 failed, 1 skipped"
    assert any(line.startswith("1 failed, 2 passed, 1 skipped") for line in lines), "pytest's own closing line"


def test_a_stage_that_finds_no_tests_fails(run: Run, tmp_path: Path) -> None:
    code, lines = run([pytest_stage("empty", tmp_path, "")])
    assert code == 1
    assert lines[-2] == "0 passed, 1 failed"


def test_a_stage_without_its_report_fails(run: Run, tmp_path: Path) -> None:
    report = tmp_path / "silent.json"
    report.write_text('{"checks": [{"status": "pass"}]}', encoding="utf-8")  # left from an earlier run
    code, lines = run([Stage("silent", "", (("python", "-c", "pass"),), (report,))])
    assert code == 1
    assert lines[-2] == "0 passed, 1 failed"


def test_a_conformance_report_counts_what_is_open_as_neither(run: Run, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    checks = [{"status": status} for status in ("pass", "pass", "fail", "error", "inconclusive", "untested")]
    text = json.dumps({"checks": checks})
    write = f"open({str(report)!r}, 'w').write({text!r})"
    code, lines = run([Stage("suite", "", (("python", "-c", f"{write}; raise SystemExit(1)"),), (report,))])
    assert code == 1
    assert lines[-2] == "2 passed, 2 failed, 2 skipped"


def test_a_stage_that_hangs_is_ended_with_all_its_processes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_main, "STAGE_SECONDS", 5)
    pid_file = tmp_path / "pid"
    hang = (
        "import os, pathlib, subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    code, lines = run([python_stage("hang", hang)])
    assert code == 1
    assert "test: python did not end within 5 s" in lines
    process = Path("/proc") / pid_file.read_text(encoding="utf-8")
    deadline = time.monotonic() + 30
    while running(process):
        assert time.monotonic() < deadline, "the child outlives its stage"
        time.sleep(0.02)


def running(process: Path) -> bool:
    """Say whether the process is there and not just waiting for its exit code to be collected."""
    try:
        return (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_last_line_names_what_was_and_was_not_tested(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "known", lambda: ["docker", "local"])
    monkeypatch.setattr(backends, "PROBES", {"local": lambda: None, "docker": lambda: "no socket"})
    stage = pytest_stage("good", tmp_path, "def test_one(): pass\n")
    code, lines = run([stage])
    assert code == 0
    assert lines[-1] == "backends: tested local; not tested: docker"
    assert "backend docker: missing: no socket" in lines

    monkeypatch.setenv("AGORA_TEST_REQUIRE", "local,docker")
    code, lines = run([stage])
    assert code == 1
    assert lines[-2] == "1 passed, 1 failed"
    assert "backend docker: REQUIRED BUT MISSING: no socket" in lines


def test_a_required_backend_without_a_provider_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGORA_TEST_REQUIRE", "local, fortran")
    code, lines = run([python_stage("good", "pass")])
    assert code == 1
    assert "backend fortran: REQUIRED BUT MISSING: there is no plugins/agora-fortran" in lines


def test_stages_that_use_no_backend_claim_none(run: Run) -> None:
    _, lines = run([python_stage("good", "pass")])
    assert lines[-1] == f"backends: tested none; not tested: {', '.join(backends.known())}"


def test_every_provider_has_a_probe() -> None:
    assert set(backends.known()) == set(backends.PROBES)


@pytest.mark.parametrize(("required", "outcome"), [("", "skipped"), ("local", "skipped"), ("local,fortran", "error")])
def test_a_test_of_a_missing_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: str, outcome: str
) -> None:
    test_file = tmp_path / "test_needs.py"
    test_file.write_text(
        "import pytest\n@pytest.mark.backend('fortran')\ndef test_one(): raise AssertionError('it ran')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(test_main, "REPORTS", tmp_path)
    monkeypatch.setenv("AGORA_TEST_REQUIRE", required)
    stage = test_main.pytest_stage(
        *("needs", "", str(test_file), "-p", "no:cacheprovider", "--confcutdir", str(tmp_path)),
        *("-p", "conftest", f"--override-ini=pythonpath={test_main.ROOT} {test_main.ROOT / 'scripts'}"),
    )
    result = test_main.run_stage(stage)
    assert (result.ok, result.passed, result.failed, result.skipped) == {
        "skipped": (True, 0, 0, 1),
        "error": (False, 0, 1, 0),
    }[outcome]
