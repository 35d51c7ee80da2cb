"""Runs containers and leaves nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from pathlib import Path

from agora_conformance.emulators.runner.container import Container, ContainerSpec


class Runner:
    """A container runtime for emulators: every container is a tree of real processes.

    Parameters:
        isolate: give each a PID namespace of its own where the kernel allows it; else a session of its own.
    """

    def __init__(self, *, isolate: bool = True) -> None:
        self._isolate = isolate
        self._folder = Path(tempfile.mkdtemp(prefix="agora-emulator-"))
        self._numbers = itertools.count()
        self._containers: set[Container] = set()

    async def start(self, spec: ContainerSpec) -> Container:
        """Start a container and wait until its command runs.

        Raises:
            StartFailed: the command could not be started.
        """
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        container = Container(spec, folder)
        self._containers.add(container)
        await container.start(isolate=self._isolate)
        return container

    def forget(self, container: Container) -> None:
        """Drop a container that has ended, its output included."""
        self._containers.discard(container)

    async def close(self) -> None:
        """Kill every container and wait until all are gone."""
        await asyncio.gather(*(container.join() for container in self._containers))
        shutil.rmtree(self._folder, ignore_errors=True)
