"""The flags that describe a workload, shared by `run` and `dispatch`."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from agora.cli.params import AMOUNT, MEMORY, MOMENT, PAIR, SECONDS_TYPE

_PLAIN = (
    "image", "cwd", "grace", "timeout", "heartbeat_timeout", "silence_timeout", "run", "name", "parent", "start_at",
    "delay",
)  # fmt: skip
MAPS = ("env", "labels", "secrets", "options", "resources", "budget")

_OPTIONS: list[Callable[[Any], Any]] = [
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND..."),
    click.option("--on", "target", metavar="TARGET", help="Where to run it; default the default target."),
    click.option("--spec", "spec_file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True),
                 help="Take the spec from a JSON or TOML file (- is JSON on stdin); flags win over it."),
    click.option("--image", metavar="IMAGE", help="Container image."),
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]",
                 help="Variable of the workload; NAME alone takes the value from this environment."),
    click.option("--env-file", multiple=True, type=click.Path(dir_okay=False, exists=True, path_type=Path),
                 metavar="FILE", help="Variables, one NAME[=VALUE] a line; # starts a comment line."),
    click.option("--secret", multiple=True, type=PAIR, metavar="NAME=env:VAR|file:PATH",
                 help="Variable whose value is never stored or shown; given by reference."),
    click.option("--cwd", metavar="DIR", help="Working directory of the workload."),
    click.option("--grace", type=SECONDS_TYPE, metavar="SECONDS",
                 help="Time between SIGTERM and SIGKILL; at least 2, default 30."),
    click.option("--timeout", type=SECONDS_TYPE, metavar="SECONDS",
                 help="Deadline, from when it was submitted; at most 86400, default 7200."),
    click.option("--heartbeat-timeout", type=SECONDS_TYPE, metavar="SECONDS",
                 help="Cancel it when its worker gives no heartbeat for so long while it runs; default never."),
    click.option("--silence-timeout", type=SECONDS_TYPE, metavar="SECONDS",
                 help="Cancel it when it writes no output for so long while it runs; default never."),
    click.option("--budget", multiple=True, type=AMOUNT, metavar="UNIT=AMOUNT",
                 help="Cancel it when it has spent more of this: tokens=200000; may be given several times."),
    click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="Label to find it by."),
    click.option("--run", metavar="RUN", help="The run, a group of dispatches, that it belongs to."),
    click.option("--name", metavar="NAME", help="Its name, unique in the run."),
    click.option("--parent", metavar="ID", help="A dispatch whose cancel cancels this one too."),
    click.option("--delay", type=SECONDS_TYPE, metavar="SECONDS", help="Start it so much later (10m, 2h)."),
    click.option("--at", "start_at", type=MOMENT, metavar="TIME",
                 help="Start it then: 2031-05-01T06:00, here or with a zone (+02:00)."),
    click.option("--cpu", type=float, metavar="CORES", help="Cores, may be fractional."),
    click.option("--memory", type=MEMORY, metavar="BYTES", help="Memory: 512Mi (1024), 2G (1000), ..."),
    click.option("-o", "--option", "options", multiple=True, type=PAIR, metavar="KEY=VALUE",
                 help="Option of the provider; JSON values, dots go deeper (a.b=1)."),
    click.option("--id", "dispatch_id", metavar="ID", help="Id to use; the same id starts one spec once."),
]  # fmt: skip


def spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of a spec to a command, which gets them as `**flags`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def spec_fields(flags: dict[str, Any]) -> dict[str, Any]:
    """Turn the flags into the fields of a spec; what they mean is for the spec itself to check.

    Parameters:
        flags: what `spec_options` gave.

    Raises:
        InvalidRequest: a file cannot be read, or a reference leads nowhere.
        click.UsageError: there is nothing to run.
    """
    fields = _from_file(flags["spec_file"]) if flags["spec_file"] else {}
    given: dict[str, Any] = {
        "command": list(flags["command"]) or None,
        "env": _environment(flags["env"], flags["env_file"]),
        "labels": dict(flags["labels"]),
        "secrets": {name: _from_reference(name, reference) for name, reference in flags["secret"]},
        "resources": {key: flags[key] for key in ("cpu", "memory") if flags[key] is not None},
        "options": _nested(flags["options"]),
        "budget": dict(flags["budget"]),
        **{key: flags[key] for key in _PLAIN},
    }
    for key, value in given.items():
        if key in MAPS and isinstance(fields.get(key), dict):
            fields[key] = _merged(fields[key], value)
        elif value is not None and value != {}:
            fields[key] = value
    if fields.get("command") is None and not fields.get("image"):
        raise click.UsageError("Nothing to run: give the command after --.", click.get_current_context())
    return fields


def _environment(pairs: Sequence[str], files: Sequence[Path]) -> dict[str, str]:
    lines: list[str] = []
    for file in files:
        lines += (line for line in _text(file).splitlines() if line.strip() and not line.startswith("#"))
    environment = {}
    for line in (*lines, *pairs):
        name, equals, value = line.partition("=")
        if not equals:
            value = _own_variable(name, f"-e {name}")
        environment[name] = value
    return environment


def _from_reference(name: str, reference: str) -> str:
    kind, _, place = reference.partition(":")
    if kind == "env" and place:
        return _own_variable(place, f"--secret {name}")
    if kind == "file" and place:
        return _text(Path(place)).removesuffix("\n")
    from agora.errors import InvalidRequest

    raise InvalidRequest(
        f"--secret {name}: give the value by reference, as {name}=env:VARIABLE or {name}=file:PATH; "
        "a value on the command line would be seen by everybody on this machine"
    )


def _own_variable(name: str, where: str) -> str:
    from agora.errors import InvalidRequest

    try:
        return os.environ[name]
    except KeyError:
        raise InvalidRequest(f"{where}: the variable {name[:80]!r} is not set here") from None


def _text(path: Path) -> str:
    from agora.errors import InvalidRequest

    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from None


def _from_file(path: str) -> dict[str, Any]:
    from agora.errors import InvalidRequest

    text = _text(Path(path))
    try:
        fields = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{path} is no {'TOML' if path.endswith('.toml') else 'JSON'}: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"{path}: a spec is an object; `agora schema spec` prints its fields")
    secrets = fields.get("secrets", {})
    if not isinstance(secrets, dict):
        raise InvalidRequest(f"{path}: secrets must be an object of references")
    resolved = {}
    for name, reference in secrets.items():
        match reference:
            case {"env": str(place)} | {"file": str(place)} if len(reference) == 1:
                resolved[name] = _from_reference(name, f"{next(iter(reference))}:{place}")
            case _:
                raise InvalidRequest(
                    f'{path}: secrets.{name}: give a reference, {{"env": "VARIABLE"}} or {{"file": "PATH"}}'
                )
    return {**fields, "secrets": resolved} if secrets else fields


def _nested(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    from agora.errors import InvalidRequest

    options: dict[str, Any] = {}
    for key, text in pairs:
        *way, last = key.split(".")
        inner = options
        for step in way:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise InvalidRequest(f"-o {key}: {step!r} is a value already and has no parts")
        try:
            inner[last] = json.loads(text)
        except ValueError:
            inner[last] = text
    return options


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
