"""What has to outlive this process and has no place on the engine: whom a dispatch was sent to, which stop was sent,
and how a container ended that was removed since.

One small file each in the installation's directory; every process of the installation sees them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agora.errors import ProviderError, Unreachable
from agora.model.base import Model
from agora.model.ids import check_dispatch_id
from agora.model.observation import Observation

logger = logging.getLogger(__name__)

#: Seconds that a stop waits for another one of the same dispatch, below the 10 that a caller allows.
_WAIT = 8.0
_PAUSE = 0.02


class SentStop(Model):
    """A stop that was sent.

    Parameters:
        container: to which container.
        grace: seconds of grace.
        at: when, in nanoseconds by the engine's clock.
        accepted: whether its arrival was seen.
    """

    container: str
    grace: int
    at: int
    accepted: bool = False


class KeptEnd(Model):
    """The end of a container that is not there any more.

    Parameters:
        container: which one it was.
        spec: digest of what it ran.
        seen: all that was known of its end.
    """

    container: str
    spec: str
    seen: Observation


class StopNote:
    """The note of one dispatch's stop, held by this process alone.

    Parameters:
        descriptor: of its file; None where there can be none.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def read(self) -> SentStop | None:
        """Return what is noted."""
        return None if self._descriptor is None else _sent_stop(os.pread(self._descriptor, 4096, 0))

    def write(self, stop: SentStop) -> None:
        """Replace what is noted; a disk that is full does not keep a stop from being sent."""
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, stop.model_dump_json().encode(), 0)
        except OSError:
            return


def _sent_stop(text: bytes) -> SentStop | None:
    try:
        return SentStop.model_validate(json.loads(text)) if text else None
    except ValueError:
        return None  # cut off by a full disk: as if nothing had been written


def _replace(path: Path, text: str) -> None:
    """Write a short note that others read and write at the same time: nobody finds it empty or in parts."""
    data = text.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.pwrite(descriptor, data, 0) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


class Notes:
    """The notes of one target.

    Parameters:
        folder: where they are kept; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, id: str, backend: str) -> None:
        """Note that a dispatch is about to be sent to an engine.

        Raises:
            ProviderError: it cannot be noted.
        """
        path = self._path(id, "sent")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(path, backend)
        except OSError as error:
            raise ProviderError(f"{path}: {error.strerror}", sent=False) from error

    def sent_to(self, id: str) -> str | None:
        """Return the engine that a dispatch was sent to, None where it was sent to none."""
        return self._read(id, "sent")

    def made(self, id: str, container: str) -> None:
        """Note which container was made for a dispatch; without it only its name tells it from one with its labels."""
        try:
            _replace(self._path(id, "made"), container)
        except OSError as error:
            logger.warning("dispatch %s: its container cannot be noted: %s", id, error)

    def container(self, id: str) -> str | None:
        """Return the container that was made last for a dispatch, None where that is not noted."""
        return self._read(id, "made")

    def _read(self, id: str, kind: str) -> str | None:
        try:
            return self._path(id, kind).read_text(encoding="utf-8") or None
        except FileNotFoundError:
            return None

    def sent_stop(self, id: str) -> SentStop | None:
        """Return the stop that was sent to a dispatch, whoever holds its note."""
        try:
            return _sent_stop(self._path(id, "stop").read_bytes())
        except FileNotFoundError:
            return None

    @contextmanager
    def stop(self, id: str) -> Iterator[StopNote]:
        """Hold the note of a dispatch's stop; where no file can be made, a stop is sent without one.

        Raises:
            Unreachable: another process held it for 8 s.
        """
        path = self._path(id, "stop")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            logger.warning("dispatch %s: its stop cannot be noted: %s", id, error)
            yield StopNote(None)
            return
        try:
            give_up = time.monotonic() + _WAIT
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise Unreachable(f"another stop of {id} got no answer yet", sent=False) from None
                    time.sleep(_PAUSE)
            yield StopNote(descriptor)
        finally:
            os.close(descriptor)

    def keep_end(self, id: str, end: KeptEnd) -> None:
        """Note durably how a container ended, before it is removed.

        Raises:
            OSError: it cannot be noted.
        """
        path = self._path(id, "end")
        written = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        try:
            with written.open("w", encoding="utf-8") as file:
                file.write(end.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def kept_end(self, id: str) -> KeptEnd | None:
        """Return how the container of a dispatch ended, where that was noted."""
        try:
            return KeptEnd.model_validate_json(self._path(id, "end").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def forget(self, id: str) -> None:
        """Remove the notes of a dispatch whose container is no more."""
        for kind in ("sent", "made", "stop", "end"):
            self._path(id, kind).unlink(missing_ok=True)

    def _path(self, id: str, kind: str) -> Path:
        return self._folder / f"{check_dispatch_id(id)}.{kind}"
