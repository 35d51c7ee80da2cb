"""The file that a worker's events go to (`AGORA_WORKER_EVENTS=PATH`), where it is a file of this machine."""

from __future__ import annotations

import logging
import os
import stat

from agora.engine.targets import Target
from agora.model.record import Entry

logger = logging.getLogger(__name__)

#: Only so many bytes at its end are read at a time: what eight busy processes say in a minute.
LAST_BYTES = 262_144


def file_of(entry: Entry, target: Target) -> str | None:
    """Return the path of the file; null where the events go elsewhere, or to a file of another machine."""
    named: str = entry.spec.get("env", {}).get("AGORA_WORKER_EVENTS", "")
    return named if named.startswith("/") and target.limits.shares_files else None


def marks_in(path: str) -> list[bytes]:
    """Return the last events in a file, whole lines; none where it cannot be read."""
    try:
        # Not blocking: a named pipe has no end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return []
            begin = max(0, status.st_size - LAST_BYTES)
            file.seek(begin)
            lines = file.read(LAST_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.info("%s cannot be read for the events of a worker: %s", path, error.strerror)
        return []
    return [line for line in lines[1 if begin else 0 : -1] if line]
