"""The way in to a worker on this machine: a file by which it is told what is asked of it, and how long it has."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from agora.model.record import Entry

logger = logging.getLogger(__name__)

#: The folder of a state directory that holds them.
FOLDER = "inboxes"


def inbox_of(home: Path, entry: Entry) -> Path:
    """Return the file of a dispatch; made only when there is something to tell.

    Parameters:
        home: the state directory.
        entry: the dispatch.
    """
    return home.absolute() / FOLDER / entry.id


def tell(home: Path, entry: Entry, **seconds: float) -> None:
    """Tell a worker; best-effort, since the stop that follows needs none of it.

    Parameters:
        home: the state directory.
        entry: the dispatch.
        seconds: what is told: `ask` (end by itself in so long), `grace` (of the stop).
    """
    path = inbox_of(home, entry)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft.write_text("".join(f"{name}={value:g}\n" for name, value in seconds.items()))
        draft.replace(path)
    except OSError as error:
        logger.warning("dispatch %s: its worker could not be told of the cancel: %s", entry.id, error.strerror)


def forget(home: Path, entry: Entry) -> None:
    """Remove the file of a dispatch whose record is removed."""
    with suppress(OSError):
        inbox_of(home, entry).unlink()
