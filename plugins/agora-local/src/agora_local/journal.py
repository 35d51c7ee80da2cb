"""The journal of one dispatch: a file of JSON lines with one writer at a time, whoever holds its lock.

The dispatching process locks the file and writes the claim; the shim inherits the lock and writes the rest. The
lock lives in the open file, so that it ends when the last holder is dead, however that came about.
Imported by the fork server too, so it needs the standard library alone.
"""

from __future__ import annotations

import os
import time

JOURNAL = "journal"
#: Directory of the control sockets of running workloads. An id never begins with a dot.
LIVE = ".live"
RESERVE = ".reserve"
RESERVE_BYTES = 4 * 1024 * 1024
#: Set aside when the file is made: a journal takes about 1 kB, so a full disk cannot keep an end from being written.
JOURNAL_BYTES = 4096
#: Of the words of who stopped it and why: in JSON each character takes 12 bytes at most, so that they fit in there.
CAUSE_CHARACTERS = 120

Value = str | bytes | int | float | bool | None

_RELEASE_ATTEMPTS = 20
_RELEASE_PAUSE = 0.01


def line(record: str, **fields: Value) -> bytes:
    """Return one line of JSON; text must be plain, since the shim does without the json module.

    Bytes are JSON already.
    """
    parts = [f'"record":"{record}"']
    for name, value in fields.items():
        if value is None:
            word = "null"
        elif isinstance(value, bool):
            word = "true" if value else "false"
        elif isinstance(value, bytes):
            word = value.decode()
        elif isinstance(value, str):
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"not plain text: {value!r}")
            word = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        else:
            word = repr(value)
        parts.append(f'"{name}":{word}')
    return ("{" + ",".join(parts) + "}\n").encode()


class Journal:
    """The writing end of a journal.

    Parameters:
        descriptor: the open file, locked by this process or by the one that handed it over.
        offset: where the next line goes.
        reserve: path of the reserve file that is given up when the disk is full.
    """

    def __init__(self, descriptor: int, offset: int, reserve: str) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._reserve = reserve

    def write(self, record: str, *, durable: bool = False, **fields: Value) -> None:
        """Append one record with the time; `durable` waits until it is on the disk.

        Raises:
            OSError: it could not be written even after the reserve was given up.
        """
        text = line(record, at=time.time(), **fields)
        for attempt in range(_RELEASE_ATTEMPTS):
            try:
                if os.pwrite(self._descriptor, text, self._offset) == len(text):
                    break
            except OSError:
                if attempt == _RELEASE_ATTEMPTS - 1:
                    raise
            self._release_reserve()
        else:
            raise OSError(f"the journal takes no more than a part of its {record} record")
        self._offset += len(text)
        if durable:
            os.fdatasync(self._descriptor)

    def _release_reserve(self) -> None:
        try:
            os.unlink(self._reserve)
        except OSError:
            time.sleep(_RELEASE_PAUSE)
