"""Which ended tasks were released: ECS shows a task for an hour after its end, and has no call to remove it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

#: Seconds for which it is remembered: "stopped tasks appear in the returned results for at least one hour"
#: (botocore's ECS model, DescribeTasks), so somewhat longer.
KEPT = 4 * 3600.0


class Released:
    """Empty files, named after tasks.

    Parameters:
        directory: where they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, arn: str) -> Path:
        return self._directory / arn.rpartition("/")[2]

    def add(self, arn: str) -> None:
        """Remember one, and forget those that ECS has forgotten."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path(arn).touch(mode=0o600)
        old = time.time() - KEPT
        for path in self._directory.iterdir():
            with suppress(FileNotFoundError):  # another process was quicker
                if path.stat().st_mtime < old:
                    path.unlink()

    def __contains__(self, arn: str) -> bool:
        return self._path(arn).exists()
