"""This machine: who it is, what it can do, and the space that is kept back on its disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from uuid import uuid4

from agora.errors import ConfigError

from agora_local.journal import RESERVE, RESERVE_BYTES

MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
#: The reserve is made only where so many times its size is free.
_RESERVE_MARGIN = 8


def require_linux(target_name: str) -> None:
    """Check that processes can be watched over here.

    Raises:
        ConfigError: says what is missing.
    """
    why = None
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        why = f"this is {sys.platform}"
    else:
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            why = f"pidfd_open: {error.strerror}"
        if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
            why = "no /proc/PID/task/TID/children (procfs of a kernel with CONFIG_PROC_CHILDREN)"
    if why is not None:
        raise ConfigError(f"targets.{target_name}: provider 'local' needs Linux 5.3 or later (pidfd): {why}")


def machine_id(state_dir: Path) -> str:
    """Return the identity of this machine: machine-id(5), else one that is kept in `state_dir`.

    Raises:
        ConfigError: there is none, and none can be kept.
    """
    for path in MACHINE_ID_FILES:
        try:
            found = path.read_text().strip()
        except OSError:
            continue
        if found and found != "uninitialized":
            return found
    try:
        return _own_id(state_dir)
    except OSError as error:
        words = f"state_dir: this machine has no {MACHINE_ID_FILES[0]}, and no id can be kept in {state_dir}"
        raise ConfigError(f"{words}: {error.strerror}") from error


def _own_id(state_dir: Path) -> str:
    own = state_dir / ".machine"
    if not own.exists():
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = state_dir / f".machine.{uuid4().hex}"
        with made.open("w") as file:
            file.write(uuid4().hex)
            file.flush()
            os.fsync(file.fileno())  # empty after a power cut, it would make every workload another machine's
        try:
            own.hardlink_to(made)  # of two processes at once, one wins
        except FileExistsError:
            pass
        made.unlink()
    return own.read_text()


def keep_reserve(state_dir: Path) -> None:
    """Set the reserve aside, if it is not there and there is plenty of space."""
    path = state_dir / RESERVE
    if path.exists():
        return
    space = os.statvfs(state_dir)
    if space.f_bavail * space.f_frsize < _RESERVE_MARGIN * RESERVE_BYTES:
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
    except OSError:  # a quota, or the caller's own limit: it is a help, not a need
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
