"""The state directory: where it is, its installation id, and the space kept for requests and ends."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path

from agora.errors import StoreError

#: The journal's file in it.
DATABASE = "agora.db"
RESERVE_BYTES = 4 * 1024 * 1024
_INSTALLATION = re.compile(r"[a-z0-9][a-z0-9-]{2,39}")


def default_home() -> Path:
    """Return `AGORA_HOME`, or the platform's user state directory."""
    if home := os.environ.get("AGORA_HOME"):
        return Path(home).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("agora", appauthor=False)


def prepare(home: Path) -> None:
    """Make the state directory, for the owner alone.

    Raises:
        StoreError: it cannot be made or written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"the state directory {home} cannot be made: {error.strerror}; set AGORA_HOME") from error


def installation(home: Path) -> str:
    """Return the installation id: `AGORA_INSTALLATION`, or the random id beside the store, made once.

    Raises:
        StoreError: the file cannot be read or written, or holds no valid id.
    """
    if chosen := os.environ.get("AGORA_INSTALLATION"):
        return _checked(chosen, "AGORA_INSTALLATION")
    path = home / "installation"
    try:
        if not path.exists():
            draft = home / f".installation.{os.getpid()}.{uuid.uuid4().hex[:8]}"
            with draft.open("w") as file:
                file.write(uuid.uuid4().hex[:20] + "\n")
                file.flush()
                os.fsync(file.fileno())  # an empty file after a power cut would disown everything that runs
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        return _checked(path.read_text().strip(), str(path))
    except OSError as error:
        raise StoreError(f"{path} cannot be read or written: {error.strerror}") from error


def _checked(value: str, where: str) -> str:
    if not _INSTALLATION.fullmatch(value):
        raise StoreError(f"{where} holds no installation id (lower-case letters, digits, dashes; 3 to 40 characters)")
    return value


def keep_reserve(home: Path) -> None:
    """Set space aside for the time when the disk is full; does nothing where there is none to set aside."""
    path = home / "reserve"
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size >= RESERVE_BYTES:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            path.unlink()
        finally:
            os.close(descriptor)


def release_reserve(home: Path) -> bool:
    """Give the set aside space back to the disk; returns whether there was any."""
    try:
        (home / "reserve").unlink()
    except OSError:
        return False
    return True
