"""What the parts of the emulated cluster share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from agora_conformance.emulators.nomad.access import Access
from agora_conformance.emulators.nomad.client import Client
from agora_conformance.emulators.nomad.errors import ApiError
from agora_conformance.emulators.nomad.faults import Faults
from agora_conformance.emulators.nomad.gate import Gate
from agora_conformance.emulators.nomad.identity import Identity
from agora_conformance.emulators.nomad.nodes import Nodes
from agora_conformance.emulators.nomad.scheduler import Scheduler
from agora_conformance.emulators.nomad.store import Store
from agora_conformance.emulators.nomad.timing import Timing
from agora_conformance.emulators.runner import Container

log = logging.getLogger("agora_conformance.emulators.nomad")


@dataclass
class Tasks:
    """What runs beside everything else.

    Parameters:
        failures: what went wrong, for whoever closes the emulator.
    """

    running: set[asyncio.Task[None]] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something; a failure is kept."""
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("a part of the emulated cluster failed: %r", problem)
            self.failures.append(problem)

    async def cancel(self) -> None:
        """End everything."""
        while self.running:
            tasks = list(self.running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Cluster:
    """Servers, nodes and what goes wrong with them.

    Parameters:
        store: the servers' state.
        scheduler, nodes: what works on it.
        clients: the nodes' agents, by the id of the node.
        access: who may do what.
        faults: what goes wrong on purpose.
        timing: how long things take.
        tasks: what runs beside everything else.
        gate: whether the servers are there.
        identity: what tells this cluster from others.
        max_kill: the clients' `max_kill_timeout`, as their configuration says it.
    """

    store: Store
    scheduler: Scheduler
    nodes: Nodes
    clients: dict[str, Client]
    access: Access
    faults: Faults
    timing: Timing
    tasks: Tasks
    gate: Gate
    identity: Identity
    max_kill: str

    def client(self, alloc: str) -> Client:
        """Return the agent that an allocation is on.

        Raises:
            ApiError: 404, there is no such allocation, or its agent is away.
        """
        known = self.store.allocs.get(alloc)
        if known is None or self.faults.hides(known["JobID"]):
            raise ApiError(404, f'Unknown allocation "{alloc}"')
        client = self.clients[known["NodeID"]]
        if not client.up:
            raise ApiError(404, "No path to node")
        return client

    def containers(self, job: str) -> list[Container]:
        """Return the containers of a job, of every job with an empty id."""
        return [one for client in self.clients.values() for one in client.containers(job)]

    def collect_garbage(self) -> None:
        """Forget jobs that are dead, with their evaluations and allocations."""
        for key, job in list(self.store.jobs.items()):
            allocs, evals = self.store.job_allocs(key), self.store.job_evals(key)
            live = any(one["ClientStatus"] not in ("complete", "failed", "lost") for one in allocs)
            if job["Status"] != "dead" or live:
                continue
            with self.store.write("JobBatchDeregistered") as txn:
                txn.job_gone(key)
            with self.store.write("EvaluationUpdated") as txn:
                txn.forget(evals=[one["ID"] for one in evals], allocs=[one["ID"] for one in allocs])
