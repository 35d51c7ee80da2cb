"""Task templates: files that the client writes before a task starts, which may bring environment variables."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from agora_conformance.emulators.nomad.errors import Object

CALL = re.compile(r'\s*(?:env|key)?\s*"([^"]*)"\s*')
ITEM = re.compile(r"\s*\.(\w+)\s*")
FAILED = "Failed to parse template {} as environment variables"
VARIABLE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)=(.*)", re.DOTALL)
#: Returns the items of a variable, None while there is none.
Read = Callable[[str], Mapping[str, str] | None]


class TemplateFailed(Exception):
    """A template cannot be rendered or read; the message is the agent's."""


class Missing(Exception):
    """A template asks for a variable that is not there; the agent waits for it. The message is its path."""


def render(task: Object, folder: Path, known: Mapping[str, str], read: Read) -> dict[str, str]:
    """Write a task's templates and return the variables that they bring.

    Parameters:
        task: the task.
        folder: its directory.
        known: variables that a template may ask for.
        read: reads a Nomad variable.

    Raises:
        TemplateFailed: one of them is not acceptable.
        Missing: one of them has to wait.
    """
    found: dict[str, str] = {}
    for one in task["Templates"] or []:
        text = _fill(one, known, read)
        place = (folder / one["DestPath"].lstrip("/")).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise TemplateFailed("template destination path escapes alloc directory")
        _write(place, text, int(one["Perms"] or "0644", 8))
        if one["Envvars"]:
            found |= variables(text, one["DestPath"])
    return found


def _write(place: Path, text: str, mode: int) -> None:
    """Write a file that nobody can read for a moment who may not read it later."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
    place.chmod(mode)


def _fill(template: Object, known: Mapping[str, str], read: Read) -> str:
    """Replace what stands between the delimiters: `env "NAME"`, and `.NAME` within `with nomadVar "PATH"`."""
    left, right = re.escape(template["LeftDelim"] or "{{"), re.escape(template["RightDelim"] or "}}")

    def action(found: re.Match[str]) -> str:
        call = CALL.fullmatch(found[1].strip("-"))
        if call is None:
            raise TemplateFailed(f"template: :1: the emulator knows no such template function: {found[1].strip()}")
        return known.get(call[1], "")

    def within(text: str, items: Mapping[str, str]) -> str:
        def item(found: re.Match[str]) -> str:
            name = ITEM.fullmatch(found[1])
            return action(found) if name is None else items.get(name[1], "<no value>")

        return re.sub(f"{left}(.*?){right}", item, text, flags=re.DOTALL)

    block = f'{left}\\s*with nomadVar "([^"]*)"\\s*{right}(.*?){left}\\s*end\\s*{right}'
    # What comes out of a variable is not looked at again.
    pieces = re.split(block, template["EmbeddedTmpl"] or "", flags=re.DOTALL)
    made = [re.sub(f"{left}(.*?){right}", action, pieces[0], flags=re.DOTALL)]
    for path, inside, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        items = read(path)
        if items is None:
            raise Missing(path)
        made += [within(inside, items), re.sub(f"{left}(.*?){right}", action, after, flags=re.DOTALL)]
    return "".join(made)


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
