"""Strings that reach a workload unchanged, although Nomad rewrites them on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

#: Names that Nomad's reader of environment files takes.
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: That reader takes lines of 64 KiB at most, `bufio.MaxScanTokenSize` of Go.
MAX_LINE = 65_535
#: A Nomad variable holds 64 KiB of names and values (nomad/structs, `maxVariableSize`); some of it is ours.
MAX_SECRETS = 65_536 - 512
#: What the environment file is called within a variable.
ITEM = "environment"
#: Delimiters of a template that no ASCII text holds.
_LEFT, _RIGHT = "\u27e6agora", "agora\u27e7"
_NAMES = "Nomad takes names of ASCII letters, digits and underscores alone"
_NO_SHORT = ("\b", "\f")
_PIECES = re.compile("([\b\f])")


def argument(text: str) -> str:
    """Write a string of a driver's `config` so that the templates of HCL give it back unchanged."""
    return text.replace("${", "$${").replace("%{", "%%{")


def line(name: str, value: str) -> str:
    """Write a variable for an environment file: a JSON string in ASCII, so no value can hold a delimiter."""
    # That reader knows the short escapes of JSON but for these two.
    parts = (f"\\u{ord(part):04x}" if part in _NO_SHORT else json.dumps(part)[1:-1] for part in _PIECES.split(value))
    return f'{name}="{"".join(parts)}"\n'


def lines(variables: Mapping[str, str]) -> str:
    """Write an environment file."""
    return "".join(line(name, value) for name, value in variables.items())


def environment(variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, object] | None]:
    """Divide variables into the task's `Env`, and a template for an environment file.

    `Env` has no escape for `${`, the environment file takes no long lines: what is too long for a line goes into
    `Env`, everything else into the file.

    Returns:
        `Env`, and the template; null where it would be empty.
    """
    direct = {name: value for name, value in variables.items() if _too_long(name, value)}
    text = lines({name: value for name, value in variables.items() if name not in direct})
    if not text:
        return direct, None
    template: dict[str, object] = {
        "EmbeddedTmpl": text,
        "DestPath": "secrets/agora.env",
        "Envvars": True,
        "ChangeMode": "noop",
        "LeftDelim": _LEFT,
        "RightDelim": _RIGHT,
    }
    return direct, template


def hidden(path: str) -> dict[str, object]:
    """Return a template for an environment file that is the item `ITEM` of a Nomad variable, as it is."""
    return {
        "EmbeddedTmpl": f'{{{{with nomadVar "{path}"}}}}{{{{.{ITEM}}}}}{{{{end}}}}',
        "DestPath": "secrets/agora-secrets.env",
        "Envvars": True,
        "ChangeMode": "noop",
        "Perms": "0400",
    }


def unfit_secrets(secrets: Mapping[str, str]) -> str | None:
    """Say why secrets can be passed in no way, without a word of them; null where they can."""
    for name in secrets:
        if not VARIABLE.fullmatch(name):
            return f"secret {name[:80]!r}: {_NAMES}"
    if len(lines(secrets)) > MAX_SECRETS:
        return f"secrets: a Nomad variable takes {MAX_SECRETS} bytes of them, names included, counted as JSON strings"
    return None


def unfit(variables: Mapping[str, str]) -> str | None:
    """Name a variable that can be passed in no way, and say why; null where there is none."""
    for name, value in variables.items():
        if not VARIABLE.fullmatch(name):
            return f"variable {name[:80]!r}: {_NAMES}"
        if "${" in value and _too_long(name, value):
            return (
                f"variable {name!r}: Nomad can pass a value with `${{` unchanged only up to {MAX_LINE} bytes, "
                "counted as a JSON string"
            )
    return None


def _too_long(name: str, value: str) -> bool:
    return len(line(name, value)) > MAX_LINE
