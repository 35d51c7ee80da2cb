"""What an image name stands for: the host's file system, unless it cannot be pulled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


class PullFailed(Exception):
    """The image cannot be had; the message is the registry's."""


@dataclass(frozen=True)
class Image:
    """How containers of an image behave.

    Parameters:
        entrypoint, command: what runs where the container names no command of its own.
        env: variables that the image brings.
        cwd: working directory of a container that names none.
        user: numeric user that its processes run as; 0 is root.
        present: it is on the node already; else it has to be pulled.
        pull: seconds that a pull takes.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: int = 0
    present: bool = True
    pull: float = 0.0


#: Images that nobody has, by pattern.
MISSING = ("missing/*", "*/missing/*", "*/missing:*")


class Images:
    """Image names and what they stand for.

    Parameters:
        known: images by name or shell pattern; the first that fits counts.
        missing: patterns of names that cannot be pulled.
        default: what every other name stands for.
    """

    def __init__(
        self,
        known: Mapping[str, Image] | None = None,
        *,
        missing: tuple[str, ...] = MISSING,
        default: Image | None = None,
    ) -> None:
        self._known = dict(known or {})
        self.missing = missing
        self._default = default or Image()

    def find(self, name: str) -> Image:
        """Return what a name stands for.

        Raises:
            PullFailed: nobody has it.
        """
        for pattern, image in self._known.items():
            if fnmatchcase(name, pattern):
                return image
        if any(fnmatchcase(name, pattern) for pattern in self.missing):
            raise PullFailed(
                f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: not found'
            )
        return self._default
