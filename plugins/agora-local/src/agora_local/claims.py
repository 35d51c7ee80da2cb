"""Taking a dispatch's directory for oneself: who holds the journal's lock may start the workload."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from agora_local import story
from agora_local.journal import JOURNAL, JOURNAL_BYTES
from agora_local.story import Story


class Claim:
    """A dispatch's directory with its journal locked.

    The lock is shared with whoever is handed the descriptor; it ends with the last copy.

    Parameters:
        path: the directory.
        descriptor: the journal.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def story(self) -> Story:
        """Return what the journal says."""
        return story.parse(os.pread(self.descriptor, 65536, 0))

    def begin(self, **fields: str | None) -> int:
        """Write the first record, in place of those of an attempt that started nothing; return its length.

        Raises:
            OSError: no space; nothing was written.
        """
        os.ftruncate(self.descriptor, 0)
        os.posix_fallocate(self.descriptor, 0, JOURNAL_BYTES)
        text = json.dumps({"record": "claim", "at": time.time(), **fields}).encode() + b"\n"
        os.pwrite(self.descriptor, text, 0)
        return len(text)

    def remove(self) -> None:
        """Remove the directory; whoever waits for the lock sees that it is gone."""
        shutil.rmtree(self.path)


def take(path: Path, *, make: bool) -> Claim | None:
    """Lock a dispatch's journal, or return None where somebody else holds it.

    Parameters:
        path: the directory.
        make: make directory and journal where there are none.

    Raises:
        FileNotFoundError: there is no journal, and none was to be made.
    """
    while True:
        if make:
            path.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        try:
            descriptor = os.open(path / JOURNAL, flags, 0o600)
        except FileNotFoundError:
            if make and path.parent.is_dir():
                continue  # removed between the two steps
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _still_there(path, descriptor):
            return Claim(path, descriptor)
        os.close(descriptor)


def _still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path / JOURNAL), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def opened(path: Path, flags: int = os.O_PATH | os.O_DIRECTORY) -> Iterator[int]:
    """Open a directory for the time of a block."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
