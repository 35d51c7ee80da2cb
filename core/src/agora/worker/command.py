"""The command `agora-worker`."""

from __future__ import annotations

import os
import sys

from agora.worker.supervise import WRONG, Supervisor

_USAGE = """\
usage: agora-worker exec [--grace SECONDS] [--timeout SECONDS] -- COMMAND [ARGUMENT]...
       agora-worker undelivered [FILE]

exec         run a command that knows nothing of Agora, as its first process: pass signals on, wait for orphans, tell
             of a cancel, keep the deadline, remove inline secrets. Exits as the command does, 128 + signal where one
             ended it, 124 at the deadline, 126 or 127 where the command cannot be started.
undelivered  print the events that nobody took, one a line; FILE by default where a worker of this dispatch left them.
"""


class _UsageError(Exception):
    """The command line is wrong."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Parameters:
        arguments: without the program's name; by default those of this process.
    Returns:
        the exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        match given:
            case ["exec", *rest]:
                return _exec(rest)
            case ["undelivered", *rest] if len(rest) <= 1 and rest[:1] != ["--help"]:
                return _undelivered(*rest)
            case ["-h" | "--help", *_] | [_, "-h" | "--help"]:
                sys.stdout.write(_USAGE)
                return 0
        raise _UsageError("say what to do")
    except _UsageError as error:
        sys.stderr.write(f"agora-worker: {error}\n{_USAGE}")
        return WRONG


def _exec(arguments: list[str]) -> int:
    seconds: dict[str, float | None] = {"--grace": None, "--timeout": None}
    while arguments and arguments[0] in seconds:
        name, value, *arguments = [*arguments[:2], *([""] if len(arguments) < 2 else []), *arguments[2:]]
        try:
            seconds[name] = float(value)
        except ValueError:
            raise _UsageError(f"{name} needs a number of seconds") from None
        if not 0 < float(value) < float("inf"):
            raise _UsageError(f"{name} needs a positive number of seconds")
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(_USAGE)
        return 0
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    elif arguments and arguments[0].startswith("-"):
        raise _UsageError(f"no option {arguments[0]}")
    if not arguments or not arguments[0]:
        raise _UsageError("exec needs a command")
    return Supervisor(arguments, grace=seconds["--grace"], timeout=seconds["--timeout"]).run()


def _undelivered(path: str | None = None) -> int:
    from agora.worker.surroundings import Surroundings

    path = path or Surroundings().spool
    if path is None:
        raise _UsageError("undelivered needs a FILE outside of a dispatch")
    try:
        with open(path, "rb") as file:
            while block := file.read(65536):
                sys.stdout.buffer.write(block)
        sys.stdout.flush()
    except FileNotFoundError:
        return 0  # everything was delivered
    except OSError as error:
        sys.stderr.write(f"agora-worker: {path}: {os.strerror(error.errno or 0)}\n")
        return 1
    return 0
