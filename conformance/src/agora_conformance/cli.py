"""The command `agora-conformance`."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from agora_conformance.report import CheckRow, Report

USAGE, UNDECIDED = 2, 3


class _Usage(click.ClickException):
    exit_code = USAGE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agora-conformance")
def main() -> None:
    """Prove what an Agora provider does when a workload is dispatched and stopped."""


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(*, as_json: bool) -> None:
    """List the declared targets."""
    from agora_conformance.discover import list_targets

    rows = [
        {
            "name": item.name,
            "distribution": item.distribution,
            "provider": item.target.provider if item.target else None,
            "emulated": item.target.emulated if item.target else None,
            "error": item.error,
        }
        for item in list_targets()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        kind = "broken" if row["error"] else ("emulated" if row["emulated"] else "real")
        click.echo(f"{row['name']:<20} {row['distribution']:<30} {kind:<9} {row['error'] or row['provider']}")
    if not rows:
        click.echo("no target is declared; `agora-conformance new NAME` writes a package that declares one", err=True)


@main.command()
@click.argument("target")
@click.option(
    "--target-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="F",
    help="TOML table of the target's configuration; replaces the declared one whole.",
)
@click.option("--profile", type=click.Choice(["core", "extended"]), default="core", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=None, metavar="N", help="Checks at the same time.")
@click.option(
    "--baseline",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="F",
    help="Ids that are known not to pass, one a line.",
)
@click.option("--only", multiple=True, metavar="ID", help="Run this requirement alone; such a run is never a success.")
@click.option("--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), metavar="F")
@click.option("--junit", "junit_path", type=click.Path(dir_okay=False, path_type=Path), metavar="F")
def run(
    *,
    target: str,
    target_config: Path | None,
    profile: str,
    jobs: int | None,
    baseline: Path | None,
    only: tuple[str, ...],
    report_path: Path | None,
    junit_path: Path | None,
) -> None:
    """Run the suite on TARGET: an entry point of the group agora.conformance, or MODULE:ATTRIBUTE.

    Exit codes: 0 success, 1 a requirement failed, 2 usage, 3 inconclusive or error.
    """
    from agora.errors import AgoraError

    from agora_conformance.discover import Unusable, load_target
    from agora_conformance.hooks import check_table
    from agora_conformance.render import junit
    from agora_conformance.report import Profile, exit_code
    from agora_conformance.suite import JOBS, Plan
    from agora_conformance.suite import run as run_plan

    try:
        declared, table = load_target(target), _read_table(target_config) if target_config else None
        if table is not None:
            if declared.configured is not None:
                declared, table = declared.configured(table), None
            check_table(target, declared, declared.config if table is None else table)
        plan = Plan(
            name=target.rpartition(":")[2].lower().replace("_", "-"),
            target=declared,
            config=table,
            profile=Profile(profile),
            only=_known_ids(only, "--only"),
            jobs=jobs or JOBS,
            baseline=_known_ids(_read_baseline(baseline), str(baseline)) if baseline else frozenset(),
            command=shlex.join(["agora-conformance", *sys.argv[1:]]),
        )
        if not plan.requirements:
            raise _Usage("no requirement of this profile is selected")
        # A run that is terminated cleans up like one that is interrupted.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        report = run_plan(plan, _progress(len(plan.requirements)))
    except Unusable as error:
        raise _Usage(str(error)) from error
    except AgoraError as error:
        raise _Usage(f"{type(error).__name__}: {error}") from error
    if report_path:
        report_path.write_text(report.text(), encoding="utf-8")
    if junit_path:
        junit_path.write_text(junit(report), encoding="utf-8")
    _summary(report)
    sys.exit(exit_code(report))


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _Usage(f"{path} cannot be read: {error}") from error


def _read_baseline(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _known_ids(ids: tuple[str, ...] | list[str], where: str) -> frozenset[str]:
    from agora_conformance.requirements import BY_ID

    if unknown := sorted(set(ids) - BY_ID.keys()):
        raise _Usage(f"{where}: {', '.join(unknown)} is no requirement; see `agora-conformance requirements`")
    return frozenset(ids)


class _progress:  # noqa: N801 - used like a function
    """Write one line a finished check to standard error."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total
        self._told: dict[str, str] = {}

    def __call__(self, row: CheckRow) -> None:
        self._done += 1
        message = row.message and (f"as {self._told[row.message]}" if row.message in self._told else row.message)
        if row.message:
            self._told.setdefault(row.message, row.id)
        line = f"[{self._done:>3}/{self._total}] {row.id:<11} {row.status.value:<12} {row.seconds:6.1f} s  {row.slug}"
        click.echo(f"{line}: {message}" if message else line, err=True)


def _summary(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from agora_conformance.next_steps import by_reason

    named = f"{report.backend.name} {report.backend.version}"
    where = "a backend that its target does not name" if named == "not named not named" else named
    table = Table(title=f"{report.implementation.target} on {where}", box=None)
    for column in ("status", "why", "requirements"):
        table.add_column(column, overflow="fold", ratio={"why": 3, "requirements": 2}.get(column))
    for status, reason, rows in by_reason(report.checks):
        names = [f"{row.id} {row.slug}" for row in rows] if len(rows) < 4 else [row.id for row in rows]
        table.add_row(status, reason, ", ".join(names))
    console = Console()
    if table.row_count:
        console.print(table)
    for left in report.leftovers:
        click.echo(f"left behind: {left}")
    counts = ", ".join(f"{number} {status.value}" for status, number in report.result.counts.items() if number)
    kind = "emulated" if report.backend.emulated else "real"
    click.echo(
        f"core: {report.result.core.value}, extended: {report.result.extended.value} "
        f"({counts}; {kind} backend; {report.seconds:.0f} s)"
    )


@main.command()
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def verify(report: Path) -> None:
    """Check that REPORT is whole, unedited, unfiltered and made by this suite."""
    verified = _verified(report)
    result = verified.result
    click.echo(f"{report}: core {result.core.value}, extended {result.extended.value}")
    if verified.leftovers:
        click.echo(f"{len(verified.leftovers)} things were left behind")


def _verified(path: Path) -> Report:
    from agora_conformance.verify import Refused, read

    try:
        return read(path.read_text(encoding="utf-8"))
    except Refused as error:
        click.echo(f"{path}: refused: {error}", err=True)
        sys.exit(1)
    except (OSError, UnicodeDecodeError) as error:
        raise _Usage(f"{path} cannot be read: {error}") from error


@main.command()
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def badge(report: Path, output: Path | None) -> None:
    """Draw an SVG badge from a REPORT that can be verified."""
    from agora_conformance import render

    _write(render.badge(_verified(report)), output)


@main.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def matrix(reports: tuple[Path, ...], output: Path | None) -> None:
    """Compare verified REPORTS in a Markdown table."""
    from agora_conformance import render

    _write(render.matrix([_verified(path) for path in reports]), output)


@main.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def requirements(output: Path | None) -> None:
    """Print every requirement as a Markdown page."""
    from agora_conformance import render

    _write(render.requirement_list(), output)


@main.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def schema(output: Path | None) -> None:
    """Print the JSON Schema of a report."""
    from agora_conformance.report import schema as report_schema

    _write(json.dumps(report_schema(), indent=2) + "\n", output)


@main.command()
@click.argument("backend", type=click.Choice(["k8s", "nomad", "ecs"]))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Loopback port; 0 for any.")
@click.option(
    "--kubeconfig", type=click.Path(dir_okay=False, path_type=Path), help="k8s: write a kubeconfig to this file."
)
@click.option(
    "--manifest",
    "manifests",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="k8s: create the objects of this YAML file first.",
)
@click.option("--missing", multiple=True, metavar="PATTERN", help="Images that cannot be pulled.")
@click.option(
    "--scale",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    help="How slow it is; 0.2 is five times as fast as a real cluster, graces included.",
)
@click.option("--acl", is_flag=True, help="nomad: requests need a token.")
def emulator(
    *,
    backend: str,
    port: int,
    kubeconfig: Path | None,
    manifests: tuple[Path, ...],
    missing: tuple[str, ...],
    scale: float,
    acl: bool,
) -> None:
    """Serve an emulated BACKEND, with real processes, on the loopback interface until interrupted."""
    foreign = {"k8s": acl, "nomad": kubeconfig or manifests, "ecs": acl or kubeconfig or manifests}
    if foreign[backend]:
        raise _Usage(f"{backend} has no such option; see --help")

    def say(line: str) -> None:
        click.echo(f"{backend}: {line}")

    run: Callable[[], None]
    try:
        if backend == "k8s":
            from agora_conformance.emulators.k8s.serve import serve as serve_k8s

            run = partial(serve_k8s, port, kubeconfig, manifests, missing, scale, say)
        elif backend == "nomad":
            from agora_conformance.emulators.nomad.serve import serve as serve_nomad

            run = partial(serve_nomad, port, missing, scale, acl, say)
        else:
            from agora_conformance.emulators.ecs.serve import serve as serve_ecs

            run = partial(serve_ecs, port, missing, scale, say)
    except ModuleNotFoundError as error:
        extra = "emulators-ecs" if backend == "ecs" else "emulators"
        raise _Usage(f"{error.name} is missing: install agora-conformance[{extra}]") from error
    run()


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--jobs", type=click.IntRange(min=1), default=None, metavar="N", help="Mutants at the same time.")
@click.option(
    "--one-in",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Check what a mutant has to fail, and one in N of the other requirements; all of them by default.",
)
def mutants(names: tuple[str, ...], jobs: int | None, one_in: int) -> None:
    """Prove that the suite can fail: run it on providers with one planted fault each, all or the NAMEd ones."""
    from agora_conformance.mutants import MUTANTS
    from agora_conformance.mutants.proof import AT_ONCE, prove_all

    if unknown := sorted(set(names) - MUTANTS.keys()):
        raise _Usage(f"{', '.join(unknown)} is no mutant; there are: {', '.join(sorted(MUTANTS))}")
    wrong = 0
    for proof in prove_all(names, jobs or AT_ONCE, one_in):
        wrong += not proof.holds
        click.echo(f"{proof.name:<30} {'as pinned' if proof.holds else 'WRONG':<10} {proof.seconds:6.1f} s")
        for requirement, seen in proof.unexpected.items():
            click.echo(f"    {requirement} was not expected: {seen}")
        for requirement in proof.missed:
            click.echo(f"    {requirement} passed")
    sys.exit(1 if wrong else 0)


@main.command()
@click.argument("name")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Where to.")
def new(name: str, directory: Path) -> None:
    """Write the package of a provider NAME, to be filled in."""
    from agora_conformance.new import BadName, write

    try:
        path = write(name, directory)
    except (BadName, FileExistsError) as error:
        raise _Usage(str(error)) from error
    install = shlex.join([sys.executable, "-m", "pip", "install", "-e", str(path)])
    click.echo(f"{path}: fill in src/*/provider.py. Install it here, beside the suite, and test it:")
    click.echo(f"  {install}\n  agora-conformance run {name}")


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
