"""The root of the command line: which commands there are, and how a failure leaves the process."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from agora.cli.base import GlobalOptions, Session
from agora.cli.failures import explain, report

#: Name, module and one line of every command. `--help` prints this without importing a command.
COMMANDS = {
    "run": ("run", "Dispatch a workload, show its output and wait for its end."),
    "dispatch": ("dispatch", "Dispatch a workload and return at once."),
    "ps": ("look", "List dispatches: the live ones, or all of them."),
    "runs": ("runs", "List runs, or show one: how it was left, and its dispatches."),
    "show": ("look", "Show one dispatch: how it stands, who stopped it and why."),
    "logs": ("follow", "Print the output of a workload."),
    "events": ("follow", "Print the events of a dispatch, or of a run."),
    "wait": ("follow", "Wait for the end of dispatches; exit as they did."),
    "cancel": ("cancel", "Stop dispatches, by id or by what they have in common."),
    "spend": ("spend", "Say what a dispatch has spent; beyond its budget it is cancelled."),
    "supervise": ("upkeep", "Look after everything live, in the foreground."),
    "reconcile": ("upkeep", "Look once at everything live and carry out what is due."),
    "reap": ("upkeep", "Stop workloads of this installation that no record knows."),
    "prune": ("upkeep", "Delete ended dispatches and their logs."),
    "providers": ("catalogue", "List the installed providers."),
    "targets": ("catalogue", "List the configured targets."),
    "schema": ("catalogue", "Print the JSON Schema of events, spec and record."),
    "completion": ("completion", "Print the completion script of a shell."),
}


class LazyGroup(GlobalOptions, click.Group):
    """A group that imports a command's module when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"agora.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names, or tell which one it may have meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {' or '.join(close)}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from agora import __version__

        click.echo(f"agora {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Print the version and exit.",
)  # fmt: skip
def app() -> None:
    """Dispatch a workload to any backend, stop it from anywhere, and know how it ended."""


def invoke(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is told on stderr, and with `--json` on stdout too."""
    session = Session()
    before_command = list(args[: args.index("--")]) if "--" in args else list(args)
    try:
        code = app.main(list(args), prog_name="agora", standalone_mode=False, obj=session)
    except (Exception, click.Abort, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge of the program
        failure = explain(error, session)
        report(failure, json=session.json or "--json" in before_command, trace=session.verbose > 0)
        return failure.code
    return code if isinstance(code, int) else 0
