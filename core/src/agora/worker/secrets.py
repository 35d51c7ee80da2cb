"""Inline secrets: read while the program runs, removed when it ends."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where providers put secrets that are files.
DIRECTORY = "/run/secrets"
#: Removed with the secrets: what the worker itself was trusted with.
_OWN = ("AGORA_WORKER_TOKEN", "AGORA_WORKER_REDIS")


class Secrets:
    """The inline secrets of the dispatch, by name, from the environment or from files.

    Parameters:
        names: as the spec has them.
        directory: where those that are files lie.
    """

    def __init__(self, names: tuple[str, ...], directory: str = DIRECTORY) -> None:
        self._names = names
        self._directory = directory

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> str:
        """Return a secret's value.

        Raises:
            KeyError: there is none of that name, or it was removed.
        """
        if name not in self._names:
            raise KeyError(name)
        if name in os.environ:
            return os.environ[name]
        try:
            with open(self._path(name), encoding="utf-8") as file:
                return file.read()
        except OSError:
            raise KeyError(name) from None

    def __repr__(self) -> str:
        return f"<Secrets {', '.join(self._names)}>"

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def remove(self) -> None:
        """Remove them all: files overwritten and unlinked, variables unset and wiped from this process's memory.

        Raises:
            OSError: a file could not be removed; the others were.
        """
        clear_environment(*self._names, *_OWN)
        failed: OSError | None = None
        for name in self._names:
            if "/" in name or name in (".", ".."):
                continue
            try:
                remove_file(self._path(name))
            except FileNotFoundError:
                continue
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed


def remove_file(path: str) -> None:
    """Overwrite a file, write that down, and unlink it; where it cannot be unlinked, it is left empty.

    Raises:
        OSError: it can be neither overwritten nor unlinked.
    """
    refused: OSError | None = None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        refused = error
    else:
        try:
            os.write(descriptor, b"\0" * os.fstat(descriptor).st_size)
            os.fsync(descriptor)
            os.ftruncate(descriptor, 0)
        except OSError as error:
            refused = error
        finally:
            os.close(descriptor)
    try:
        os.unlink(path)
    except OSError:
        if refused is not None:
            raise


def clear_environment(*names: str) -> None:
    """Unset variables, and wipe their values from the memory that /proc/PID/environ shows.

    Parameters:
        names: of the variables; those that are not set are passed over.
    """
    found = [name for name in names if name in os.environ]
    for name in found:
        del os.environ[name]
    # Looked for even if they are not set any more: the program may have unset them itself, which wipes nothing.
    wanted = {os.fsencode(name) for name in names}
    try:
        with open("/proc/self/stat", "rb") as file:
            # env_start and env_end, fields 50 and 51 of proc(5); what follows the name of the program begins with 3.
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[47]), int(fields[48])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            block = memory.read(end - start)
            at = 0
            for variable in block.split(b"\0"):
                key, _, value = variable.partition(b"=")
                if key in wanted and value:
                    memory.seek(start + at + len(key) + 1)
                    memory.write(b"\0" * len(value))
                at += len(variable) + 1
    except (OSError, ValueError, IndexError):
        return  # no such memory to be seen here (another system than Linux), so nobody else sees it there either
