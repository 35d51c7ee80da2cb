"""Task templates: files that the client writes before a task starts, which may bring environment variables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from agora_conformance.emulators.nomad.errors import Object

CALL = re.compile(r'\s*(?:env|key|nomadVar)?\s*"([^"]*)"\s*')
FAILED = "Failed to parse template {} as environment variables"
VARIABLE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)=(.*)", re.DOTALL)


class TemplateFailed(Exception):
    """A template cannot be rendered or read; the message is the agent's."""


def render(task: Object, folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Write a task's templates and return the variables that they bring.

    Parameters:
        task: the task.
        folder: its directory.
        known: variables that a template may ask for.

    Raises:
        TemplateFailed: one of them is not acceptable.
    """
    found: dict[str, str] = {}
    for one in task["Templates"] or []:
        text = _fill(one, known)
        place = (folder / one["DestPath"].lstrip("/")).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise TemplateFailed("template destination path escapes alloc directory")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        place.chmod(int(one["Perms"] or "0644", 8))
        if one["Envvars"]:
            found |= variables(text, one["DestPath"])
    return found


def _fill(template: Object, known: Mapping[str, str]) -> str:
    """Replace what stands between the delimiters; only `env "NAME"` is known."""
    left, right = re.escape(template["LeftDelim"] or "{{"), re.escape(template["RightDelim"] or "}}")

    def value(found: re.Match[str]) -> str:
        call = CALL.fullmatch(found[1].strip("-"))
        if call is None:
            raise TemplateFailed(f"template: :1: the emulator knows no such template function: {found[1].strip()}")
        return known.get(call[1], "")

    return re.sub(f"{left}(.*?){right}", value, template["EmbeddedTmpl"] or "", flags=re.DOTALL)


def variables(text: str, path: str) -> dict[str, str]:
    """Read lines of `NAME=value`; a value in double quotes is a JSON string.

    Parameters:
        text: the file.
        path: what it is called, for messages.

    Raises:
        TemplateFailed: a line is not acceptable.
    """
    found = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        pair = VARIABLE.fullmatch(stripped)
        if pair is None:
            raise TemplateFailed(f"{FAILED.format(path)}: line {number}: missing =")
        found[pair[1]] = _value(pair[2], path, number)
    return found


def _value(text: str, path: str, number: int) -> str:
    text = text.strip()
    if text.startswith('"'):
        end = re.match(r'"((?:[^"\\]|\\.)*)"', text)
        try:
            return str(json.loads(end[0] if end else text))
        except ValueError as error:
            raise TemplateFailed(f"{FAILED.format(path)}: line {number}: {error}") from None
    if text.startswith("'"):
        return text[1:].split("'", 1)[0]
    return re.split(r"\s#", text, maxsplit=1)[0].strip()
