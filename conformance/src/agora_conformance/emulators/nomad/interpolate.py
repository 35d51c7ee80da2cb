"""Variables in a job: HCL templates in a driver's configuration, plain replacement in the environment."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from agora_conformance.emulators.nomad.errors import listed

REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.\-]+)\}")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")
STEP = re.compile(r'\.([A-Za-z0-9_\-]+)|\["((?:[^"\\]|\\.)*)"\]')
COLON = (
    "Extra characters after interpolation expression: Template interpolation doesn't expect {what} at this location. "
    "Did you intend this to be a literal sequence to be processed as part of another language? If so, you can escape "
    'it by starting with "$${{" instead of just "${{".'
)
NO_EXPRESSION = "Invalid expression: Expected the start of an expression, but found an invalid expression token."
ENDED = "Missing expression: Expected the start of an expression, but found the end of the file."


class Malformed(Exception):
    """A driver's configuration cannot be read; the message is the agent's."""


def replace(text: str, known: Mapping[str, str]) -> str:
    """Replace `${name}` for every name that is known; there is no escape.

    Parameters:
        text: a value of the environment.
        known: values by name, such as `NOMAD_JOB_ID` or `attr.kernel.name`.
    """
    return REFERENCE.sub(lambda found: known.get(found[1], found[0]), text)


def config(value: Any, known: Mapping[str, str]) -> Any:
    """Return a driver's configuration with every text taken for an HCL template.

    Parameters:
        value: the configuration.
        known: values by name.

    Raises:
        Malformed: a template is none.
    """
    problems: list[str] = []
    made = _walk(value, known, problems, json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False))
    if problems:
        raise Malformed(listed(["failed to parse config: ", *problems]))
    return made


def _walk(value: Any, known: Mapping[str, str], problems: list[str], document: str) -> Any:
    if isinstance(value, str):
        return _template(value, known, problems, document)
    if isinstance(value, list):
        return [_walk(one, known, problems, document) for one in value]
    if isinstance(value, dict):
        return {name: _walk(one, known, problems, document) for name, one in value.items()}
    return value


def _template(text: str, known: Mapping[str, str], problems: list[str], document: str) -> str:
    """Read one text; `$${` and `%%{` stand for what they escape."""
    made, at = "", 0
    while at < len(text):
        if text.startswith(("$${", "%%{"), at):
            made += text[at + 1 : at + 3]
            at += 3
        elif text.startswith("${", at):
            end, value = _expression(text, at + 2, known, problems)
            made += value
            at = end
        elif text.startswith("%{", at):
            problems += [NO_EXPRESSION, _directive(text[at:], document)]
            return made
        else:
            made += text[at]
            at += 1
    return made


def _directive(text: str, document: str) -> str:
    name = NAME.match(text, 2)
    word = name[0] if name else "if"
    start = document.find(f"%{{{word}") + 1
    end = start + len(text.split("}", 1)[0]) + 1
    return f"Unexpected end of template: The {word} directive at :1,{start}-{end} is missing its corresponding endif directive."  # fmt: skip  # noqa: E501


def _expression(text: str, at: int, known: Mapping[str, str], problems: list[str]) -> tuple[int, str]:
    """Read a reference after `${`; return where the text goes on, and the value."""
    at += len(text[at:]) - len(text[at:].lstrip())
    if at >= len(text):
        problems.append(ENDED)
        return len(text), ""
    root = NAME.match(text, at)
    if root is None:
        problems.append(NO_EXPRESSION)
        return len(text), ""
    at, path = root.end(), [root[0]]
    while step := STEP.match(text, at):
        path.append(step[1] or step[2])
        at = step.end()
    at += len(text[at:]) - len(text[at:].lstrip())
    if not text.startswith("}", at):
        what = {":": "a colon", "": "the end of the file"}.get(text[at : at + 1], "extra characters")
        problems.append(COLON.format(what=what) if text[at:] else ENDED)
        return len(text), ""
    return at + 1, _value(path, known, problems)


def _value(path: list[str], known: Mapping[str, str], problems: list[str]) -> str:
    if path[0] == "env" and len(path) == 2:
        path = path[1:]
    name = ".".join(path)
    if name in known:
        return known[name]
    roots = {one.split(".")[0] for one in known}
    if path[0] not in roots:
        near = _near(path[0], roots)
        hint = f' Did you mean "{near}"?' if near else ""
        problems.append(f'Unknown variable: There is no variable named "{path[0]}".{hint}')
    else:
        problems.append(f'Unsupported attribute: This object does not have an attribute named "{path[-1]}".')
    return ""


def _near(name: str, known: Collection[str]) -> str:
    """Return a name that differs in at most two places, or nothing (what HCL suggests)."""
    return next((one for one in sorted(known) if _distance(name, one) < 3), "")


def _distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for number, letter in enumerate(left, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(right, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != other))
    return row[-1]
