"""What Agora tells a worker on the same machine: a file of `NAME=SECONDS` lines, which is there once there is any."""

from __future__ import annotations

#: How often it is looked for, in seconds.
EVERY = 0.5
#: No more of it is read, in bytes.
_MOST = 4096


class Inbox:
    """The way in.

    Parameters:
        path: of the file; null where there is none.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path

    def seconds(self, name: str) -> float | None:
        """Return what is told under a name; null where nothing is."""
        if self.path is None:
            return None
        try:
            with open(self.path, encoding="ascii") as file:
                lines = file.read(_MOST).splitlines()
            told = dict(line.split("=", 1) for line in lines)
            return float(told[name])
        except (OSError, ValueError, KeyError):
            return None
