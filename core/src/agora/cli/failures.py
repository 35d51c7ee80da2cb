"""What an error becomes at the edge: one clear line, an exit code, and JSON where that was asked for."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass

import click

from agora import errors
from agora.cli.base import Exit, Session
from agora.cli.output import OutputClosed, print_json, say


@dataclass(frozen=True)
class Failure:
    """An error as the user sees it; `message` is empty where nothing needs to be said."""

    code: int
    type: str
    message: str
    error: BaseException


def explain(error: BaseException, session: Session) -> Failure:
    """Decide the exit code and the words for an error.

    Parameters:
        error: what ended the command; a group of errors counts as its first one.
        session: knows the command's code for errors of Agora's own.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    name = type(error).__name__
    if isinstance(error, OutputClosed) and error.is_pipe:
        return Failure(Exit.OUTPUT_CLOSED, name, "", error)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return Failure(Exit.CANCELLED, "Interrupted", "interrupted", error)
    if isinstance(error, click.ClickException):
        return Failure(error.exit_code, name, _usage(error), error)
    own = Exit.UNKNOWN if session.own_error == Exit.UNKNOWN else None
    match error:
        case errors.InvalidRequest() if not session.sent:
            return Failure(Exit.USAGE, name, str(error), error)
        case errors.DispatchNotFound():
            return Failure(own or Exit.NOT_FOUND, name, str(error), error)
        case errors.Forbidden():
            return Failure(own or Exit.FORBIDDEN, name, str(error), error)
        case errors.AgoraError() | OutputClosed():
            return Failure(own or Exit.ERROR, name, str(error), error)
        case _:
            words = f"unexpected error: {name}: {error}"
            hint = "" if session.verbose else " (-v shows where)"
            return Failure(own or Exit.ERROR, name, words + hint, error)


def _usage(error: click.ClickException) -> str:
    words = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        words += f"\nSee '{error.ctx.command_path} --help'."
    return words


def report(failure: Failure, *, json: bool, trace: bool) -> None:
    """Tell a failure: text on stderr, and with `json` an object `{"error": {type, message}}` on stdout."""
    if trace:
        sys.stderr.write("".join(traceback.format_exception(failure.error)))
    if failure.message:
        say(failure.message)
    if json and failure.message:
        with suppress(OutputClosed):
            print_json({"error": {"type": failure.type, "message": failure.message}})
