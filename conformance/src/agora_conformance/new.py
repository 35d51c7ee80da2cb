"""Write the package of a new provider, from the pieces that agora-local has."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path


class BadName(Exception):
    """The name cannot be the name of a provider."""


def write(name: str, directory: Path) -> Path:
    """Write the package `agora-NAME` and return its directory.

    Parameters:
        name: name of the provider: lower-case letters, digits and inner dashes.
        directory: where the package's directory is made.

    Raises:
        BadName: the name cannot be used.
        FileExistsError: the package's directory is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BadName(f"{name!r} is no provider name: lower-case letters, digits and inner dashes")
    package = f"agora_{name.replace('-', '_')}"
    words = {
        "@NAME@": name,
        "@PACKAGE@": package,
        "@CLASS@": "".join(part.capitalize() for part in name.split("-")),
    }
    target = directory / f"agora-{name}"
    target.mkdir(parents=True)
    _copy(files("agora_conformance") / "data" / "template", target, words)
    return target


def _copy(source: Traversable, target: Path, words: dict[str, str]) -> None:
    for entry in source.iterdir():
        name = entry.name.replace("PACKAGE", words["@PACKAGE@"])
        if entry.is_dir():
            (target / name).mkdir()
            _copy(entry, target / name, words)
        else:
            text = entry.read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(word, value)
            (target / name.removesuffix(".txt")).write_text(text, encoding="utf-8")
