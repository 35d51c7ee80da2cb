"""What every command shares: its global options, the client it opens and the exit codes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agora.client import AgoraClient
    from agora.model.record import Record


class Exit(IntEnum):
    """The exit codes of Agora's own; `run` and `wait` pass on the workload's besides."""

    OK = 0
    ERROR = 1  # the store cannot be reached, or another error of Agora's own
    USAGE = 2
    ENDED = 3  # `cancel`: it had ended before
    NOT_FOUND = 4
    FORBIDDEN = 5
    UNDELIVERED = 7  # `cancel`: recorded and not accepted, or not confirmed, yet
    TIMED_OUT = 124
    UNKNOWN = 125  # `run` and `wait`: lost, or an error of Agora's own
    CANCELLED = 130
    OUTPUT_CLOSED = 141  # 128 + SIGPIPE


def record_exit_code(record: Record) -> int:
    """Return what `run` and `wait` exit with; the state decides first, the workload's own code last."""
    match record.state.value:
        case "succeeded":
            return Exit.OK
        case "cancelled":
            return Exit.CANCELLED
        case "timed_out":
            return Exit.TIMED_OUT
        case "failed":
            by_signal = 128 + record.signal if record.signal else None
            return record.exit_code or (by_signal if record.exit_code is None else None) or Exit.UNKNOWN
        case _:
            return Exit.UNKNOWN


@dataclass
class Session:
    """The global options of one call.

    Parameters:
        home: state directory; null means `AGORA_HOME` or the platform's place.
        actor: who asks, for the cause; null means the user's name.
        owner: for whom, as given; null means `AGORA_OWNER`, empty nobody.
        verbose: how much to tell; above 0 an error comes with its traceback.
        supervisor: whether a background supervisor may be started.
        json: print JSON.
        own_error: exit code of the command for an error of Agora's own.
        sent: something was sent already, so that an error is no usage error any more.
        quiet: say nothing but errors, neither how far a start is.
    """

    home: Path | None = None
    actor: str | None = None
    owner: str | None = None
    verbose: int = 0
    supervisor: bool = True
    json: bool = False
    own_error: int = Exit.ERROR
    sent: bool = False
    quiet: bool = False

    @property
    def acts_for(self) -> str | None:
        """Whose dispatches alone can be cancelled; null for everybody's."""
        from agora.client.asking import owner_of

        return owner_of(self.owner)

    def client(self) -> AgoraClient:
        """Return a client for the session's options, not entered yet."""
        from agora.client import AgoraClient
        from agora.model.cause import Via

        home = self.home.absolute() if self.home else None
        return AgoraClient(home, actor=self.actor, via=Via.CLI, owner=self.owner, supervisor=self.supervisor)

    def run(self, action: Callable[[AgoraClient], Awaitable[int]]) -> int:
        """Open a client, await `action` with it, close it and return the action's exit code."""
        import anyio

        async def with_client() -> int:
            async with self.client() as client:
                return await action(client)

        self.configure_logs()
        return anyio.run(with_client)

    def configure_logs(self) -> None:
        """Send warnings to stderr as words, and with `-v` or `-vv` more, as JSON lines."""
        if self.verbose:
            from agora.logs import configure_logging

            configure_logging("INFO" if self.verbose == 1 else "DEBUG")
        else:
            import logging

            from agora.logs import PROGRESS

            logging.basicConfig(format="agora: %(message)s", level=logging.WARNING)
            logging.getLogger(PROGRESS).setLevel(logging.WARNING if self.quiet else logging.INFO)


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if param.name and ctx.get_parameter_source(param.name) is not click.core.ParameterSource.DEFAULT:
        setattr(ctx.ensure_object(Session), param.name, value)


def _global_options() -> list[click.Parameter]:
    common: dict[str, Any] = {"expose_value": False, "callback": _store}
    return [
        click.Option(["--json"], is_flag=True, help="Print JSON, one object a line.", **common),
        click.Option(
            ["--home"], type=click.Path(path_type=Path), metavar="DIR",
            help="State directory; default $AGORA_HOME, else the user's state directory.", **common,
        ),
        click.Option(["--actor"], metavar="NAME", help="Who asks; default the user's name.", **common),
        click.Option(
            ["--owner"], metavar="NAME",
            help="For whom: nothing else can be cancelled; default $AGORA_OWNER, else nobody.", **common,
        ),
        click.Option(
            ["--supervisor/--no-supervisor"], default=True,
            help="Whether a background supervisor may be started.", **common,
        ),
        click.Option(["-v", "--verbose"], count=True, help="Log to stderr, -vv more; errors show where.", **common),
    ]  # fmt: skip


class GlobalOptions(click.Command):
    """A command that also takes the global options, listed apart in its help."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.global_options = _global_options()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and then the global ones."""
        return [*super().get_params(ctx), *self.global_options]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, the global ones, and for a group its commands."""
        shared = self.global_options
        own = [param for param in super().get_params(ctx) if isinstance(param, click.Option)]
        for title, params in (("Options", own), ("Global options", shared)):
            if rows := [row for param in params if (row := param.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class AgoraCommand(GlobalOptions):
    """A leaf command; `own_error` is its exit code for an error of Agora's own."""

    def __init__(self, *args: Any, own_error: int = Exit.ERROR, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.own_error = own_error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with the session knowing the exit code for errors."""
        ctx.ensure_object(Session).own_error = self.own_error
        return super().invoke(ctx)
