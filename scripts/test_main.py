"""Run everything that checks Agora, stage after stage, and end with a summary.

All stages run even when one fails, so that one run shows everything; the exit code is 0 only where all of
them passed. Reports go to reports/. AGORA_TEST_REQUIRE=local,docker lists the backends that must be tested:
a listed one that is missing fails, another one that is missing is "not tested"; the last line names it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as ET

import backends

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
REPORTS = ROOT / "reports"
#: Most of what tests do is waiting: twice as many as there are cores.
JOBS = 2 * (os.cpu_count() or 2)
STAGE_SECONDS = 1800  # one stage that takes longer hangs, on a slow and busy machine too
#: The order of the suites: Docker's and Fargate's keep the machine busy, and begin beside one that waits by then.
ORDER = ("docker", "local", "fargate", "nomad", "k8s")
OWN_STAGE = {"wheels": "tests/test_wheels.py", "readme": "tests/test_readme.py"}


@dataclass(frozen=True)
class Stage:
    """One step: its commands all run, `at_once` of them beside each other; `reports` hold the counts."""

    name: str
    about: str
    commands: tuple[tuple[str, ...], ...]
    reports: tuple[Path, ...] = ()
    needs_backends: bool = False
    at_once: int = 1


@dataclass(frozen=True)
class Result:
    """How a stage went."""

    stage: Stage
    ok: bool
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def pytest_stage(name: str, about: str, *arguments: str, needs_backends: bool = False) -> Stage:
    """Return a stage that runs pytest with `arguments` and counts by its JUnit file."""
    report = REPORTS / f"{name}.xml"
    command = ("pytest", "-q", f"--junitxml={report}", *arguments)
    return Stage(name, about, (command,), (report,), needs_backends)


def all_stages(jobs: int, reachable: Iterable[str]) -> list[Stage]:
    """Return every stage in its order; `jobs` is the number of test processes at once."""
    elsewhere = tuple(f"--ignore={path}" for path in OWN_STAGE.values())
    plugin_tests = sorted(path.relative_to(ROOT) for path in ROOT.glob("plugins/*/tests"))
    suites = {name: REPORTS / f"conformance-{name}.json" for name in reachable}
    return [
        Stage("lint", "ruff: rules and format", (("ruff", "check"), ("ruff", "format", "--check"))),
        Stage("types", "mypy, strict", (("mypy",), *(("mypy", str(tests)) for tests in plugin_tests))),
        Stage("layers", "import-linter: who may import whom", (("lint-imports",),)),
        pytest_stage(
            *("tests", "the tests of all packages, at once", "-m", "not serial", *elsewhere),
            *("-n", str(jobs), "--dist=worksteal"),
            needs_backends=True,
        ),
        Stage(
            "serial",
            "the tests that measure time: the long ones beside each other, then the others one by one",
            tuple(
                ("pytest", "-q", f"--junitxml={report}", "-m", f"serial and {which} and not mutants", *elsewhere, *more)
                for which, report, more in (
                    ("beside", REPORTS / "serial-beside.xml", ("-n", str(jobs), "--dist=worksteal")),
                    ("not beside", REPORTS / "serial.xml", ()),
                )
            ),
            (REPORTS / "serial-beside.xml", REPORTS / "serial.xml"),
            needs_backends=True,
        ),
        Stage(
            "conformance",
            "the conformance suite on every reachable backend",
            tuple(
                ("agora-conformance", "run", name, "--profile", "extended", "--report", str(report))
                for name, report in sorted(suites.items(), key=lambda suite: ORDER.index(suite[0]))
            ),
            tuple(suites.values()),
            needs_backends=True,
            at_once=2,
        ),
        pytest_stage(
            *("mutants", "the suite can fail: each planted fault fails what is pinned to it", "-m", "mutants"),
            *("-o", "faulthandler_timeout=0"),  # the first test waits for all of them, that is no hang
        ),
        Stage(
            "packages",
            "every package from its wheel, in an empty environment, and what README and CONTRIBUTING say",
            tuple(("pytest", "-q", f"--junitxml={REPORTS / name}.xml", path) for name, path in OWN_STAGE.items()),
            tuple(REPORTS / f"{name}.xml" for name in OWN_STAGE),
            at_once=2,
        ),
    ]


def start(command: tuple[str, ...], output: IO[str] | None = None) -> subprocess.Popen[bytes]:
    """Start one command of a stage, with its output passed on or kept in a file."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment.get('PATH', os.defpath)}"
    program = (str(BIN / command[0]), *command[1:])
    errors = None if output is None else subprocess.STDOUT
    # A session of its own, so that a stage that hangs ends with all of its test processes.
    return subprocess.Popen(
        program, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
        start_new_session=True,
    )  # fmt: skip


def ended_well(command: tuple[str, ...], process: subprocess.Popen[bytes], seconds: float | None = None) -> bool:
    """Wait for one command's end, as long as a stage may take by default; return whether it succeeded in time."""
    try:
        return process.wait(STAGE_SECONDS if seconds is None else seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"test: {command[0]} did not end within {STAGE_SECONDS} s", flush=True)
        return False
    finally:
        stop(process)


def run_beside(commands: Sequence[tuple[str, ...]], at_once: int) -> list[bool]:
    """Run commands beside each other; what each says is printed in one piece when it has ended."""
    outcomes = [False] * len(commands)
    waiting = list(enumerate(commands))
    running: dict[int, tuple[subprocess.Popen[bytes], IO[str], float]] = {}
    with ExitStack() as opened:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, command = waiting.pop(0)
                output: IO[str] = opened.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
                running[number] = (start(command, output), output, time.monotonic() + STAGE_SECONDS)
                opened.callback(stop, running[number][0])
            time.sleep(0.1)
            for number, (process, output, until) in list(running.items()):
                if process.poll() is None and time.monotonic() < until:
                    continue
                del running[number]
                outcomes[number] = ended_well(commands[number], process, 0.1)
                output.seek(0)
                print(f"$ {' '.join(commands[number])}\n{output.read()}", end="", flush=True)
    return outcomes


def run_commands(stage: Stage) -> list[bool]:
    """Run the commands of a stage, as many at once as it says; return whether each succeeded."""
    if stage.at_once == 1:
        outcomes = []
        for command in stage.commands:
            print(f"$ {' '.join(command)}", flush=True)
            outcomes.append(ended_well(command, start(command)))
        return outcomes
    return run_beside(stage.commands, stage.at_once)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a stage: an interrupt lets pytest clean up, 20 s later it is killed."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def counts(report: Path) -> tuple[int, int, int]:
    """Return passed, failed and skipped of a JUnit file or of a conformance report.

    Raises OSError, ET.ParseError, ValueError or KeyError where the stage has not written a whole one.
    """
    if report.suffix == ".json":
        checks = [check["status"] for check in json.loads(report.read_text(encoding="utf-8"))["checks"]]
        passed, unmet = checks.count("pass"), checks.count("fail") + checks.count("error")
        return passed, unmet, len(checks) - passed - unmet
    # Our own pytest wrote the file a moment ago: it is trusted.
    suites = list(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314

    def total(kind: str) -> int:
        return sum(int(suite.get(kind, "0")) for suite in suites)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    return total("tests") - failed - skipped, failed, skipped


def run_stage(stage: Stage) -> Result:
    """Run all commands of a stage; one that fails without a failed test counts as one failure."""
    print(f"\n== {stage.name}: {stage.about}", flush=True)
    for report in stage.reports:
        report.unlink(missing_ok=True)
    begun = time.monotonic()
    outcomes = run_commands(stage)
    ok = all(outcomes)
    seconds = time.monotonic() - begun
    totals = [] if stage.reports else [(int(ok and bool(outcomes)), 0, 0)]
    for report in stage.reports:
        try:
            totals.append(counts(report))
        except (OSError, ET.ParseError, ValueError, KeyError) as error:
            print(f"test: there is no whole report in {report}: {error!r}", flush=True)
            ok = False
    passed, failed, skipped = (sum(column) for column in zip((0, 0, 0), *totals, strict=True))
    if not ok and not failed:
        failed = 1
    print(f"-- {stage.name}: {'ok' if ok else 'FAILED'}, {seconds:.1f} s", flush=True)
    return Result(stage, ok, seconds, passed, failed, skipped)


def check_backends() -> tuple[list[str], dict[str, str]]:
    """Return the reachable backends, and for each other one why it is missing."""
    reasons = {name: backends.missing_reason(name) for name in {*backends.known(), *backends.required()}}
    missing = {name: reason for name, reason in sorted(reasons.items()) if reason is not None}
    return sorted(set(reasons) - set(missing)), missing


def summarise(results: list[Result], reachable: list[str], missing: dict[str, str]) -> bool:
    """Print the closing lines, write reports/summary.json, and return whether everything passed."""
    required_missing = [name for name in backends.required() if name in missing]
    used = any(result.stage.needs_backends for result in results)
    tested = reachable if used else []
    untested = sorted({*missing, *reachable} - set(tested))
    passed, failed, skipped = (
        sum(getattr(result, kind) for result in results) for kind in ("passed", "failed", "skipped")
    )
    failed += len(required_missing)
    ok = not required_missing and all(result.ok for result in results)
    seconds = sum(result.seconds for result in results)

    print("\n== summary")
    for result in results:
        print(f"{result.stage.name:12} {result.seconds:7.1f} s  {'ok' if result.ok else 'FAILED'}")
    print(f"{'all':12} {seconds:7.1f} s  {'ok' if ok else 'FAILED'}")
    for name, reason in missing.items():
        print(f"backend {name}: {'REQUIRED BUT MISSING' if name in required_missing else 'missing'}: {reason}")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    print(
        f"backends: tested {', '.join(tested) or 'none'}; not tested: {', '.join(untested) or 'none'}",
        flush=True,
    )

    summary = {"ok": ok, "seconds": round(seconds, 1), "passed": passed, "failed": failed, "skipped": skipped}
    stages = {result.stage.name: {"ok": result.ok, "seconds": round(result.seconds, 1)} for result in results}
    text = json.dumps(summary | {"stages": stages, "tested": tested, "not_tested": untested}, indent=2)
    (REPORTS / "summary.json").write_text(text + "\n", encoding="utf-8")
    return ok


def main() -> int:
    """Run the stages that the command line names, all of them by default; return the exit code."""
    reachable, missing = check_backends()
    listing = "\n".join(f"  {stage.name:12} {stage.about}" for stage in all_stages(2, reachable))
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description=__doc__,
        epilog=f"stages:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", nargs="*", help="run these stages only, in their usual order")
    parser.add_argument("--fail-fast", action="store_true", help="stop after the first stage that fails")
    parser.add_argument("--jobs", type=int, default=JOBS, metavar="N", help=f"test processes at once (default: {JOBS})")
    options = parser.parse_args()
    stages = all_stages(options.jobs, reachable)
    unknown = set(options.stage) - {stage.name for stage in stages}
    if unknown:
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; see scripts/test --help")

    REPORTS.mkdir(exist_ok=True)
    results: list[Result] = []
    for stage in stages:
        if not options.stage or stage.name in options.stage:
            results.append(run_stage(stage))
            if options.fail_fast and not results[-1].ok:
                break
    return 0 if summarise(results, reachable, missing) else 1


if __name__ == "__main__":
    sys.exit(main())
