"""Nodes as the servers see them: registered, heard of, away, drained."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agora_conformance.emulators.nomad.errors import ApiError, Object, not_uuid
from agora_conformance.emulators.nomad.plan import lost_limit, transition
from agora_conformance.emulators.nomad.scheduler import Scheduler, Spawn
from agora_conformance.emulators.nomad.store import Store, client_over, over
from agora_conformance.emulators.nomad.timing import NANO, Timing, stamp

VERSION = "2.0.6"
#: Task drivers of a node. A real agent has more; these are what the emulator plays.
DRIVERS = ("docker", "exec", "raw_exec")
SIGNALS = (
    *("SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGIOT"),
    *("SIGKILL", "SIGPIPE", "SIGPROF", "SIGQUIT", "SIGSEGV", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP"),
    *("SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGXCPU", "SIGXFSZ"),
)
#: What a node offers, whatever this machine has.
CPU_MHZ, MEMORY_MB, DISK_MB = 16000, 16384, 100000


def describe(node: str, name: str, datacenter: str, pool: str, meta: dict[str, str]) -> Object:
    """Return a node as its client registers it.

    Parameters:
        node: its id.
        name, datacenter, pool, meta: what its agent is configured with.
    """
    drivers = {
        one: {
            "Attributes": {f"driver.{one}": "1"}, "Detected": True, "HealthDescription": "Healthy", "Healthy": True,
            "UpdateTime": stamp(),
        }
        for one in DRIVERS
    }  # fmt: skip
    return {
        "ID": node, "Name": name, "Datacenter": datacenter, "NodePool": pool, "NodeClass": "", "Meta": meta,
        "Attributes": {
            "kernel.name": "linux", "os.name": "debian", "cpu.arch": "amd64", "nomad.version": VERSION,
            "os.signals": ",".join(SIGNALS), "unique.hostname": name,
            **{f"driver.{one}": "1" for one in DRIVERS},
        },
        "Drivers": drivers, "HTTPAddr": "127.0.0.1:4646", "TLSEnabled": False, "Status": "initializing",
        "StatusDescription": "", "SchedulingEligibility": "eligible", "Drain": False, "DrainStrategy": None,
        "NodeResources": {
            "Cpu": {"CpuShares": CPU_MHZ}, "Memory": {"MemoryMB": MEMORY_MB}, "Disk": {"DiskMB": DISK_MB},
        },
        "Events": [], "StatusUpdatedAt": 0, "LastDrain": None, "CgroupParent": "", "HostVolumes": {},
    }  # fmt: skip


@dataclass
class Nodes:
    """What the servers know and decide about nodes.

    Parameters:
        store: the servers' state.
        scheduler: works on what follows.
        timing: how long it takes.
        spawn: runs something beside everything else.
        gate: waits until the servers are there.
    """

    store: Store
    scheduler: Scheduler
    timing: Timing
    spawn: Spawn
    gate: Callable[[], Awaitable[None]]
    _drains: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def find(self, name: str) -> Object:
        """Return a node by its id.

        Raises:
            ApiError: 404, or 500 for an id that is none.
        """
        node = self.store.nodes.get(name)
        if node is not None:
            return node
        raise ApiError(404, "node not found") if len(name) == 36 else not_uuid("node")

    def register(self, node: Object) -> None:
        """Take up a node, or one that is back."""
        known = self.store.nodes.get(node["ID"])
        kept = {} if known is None else {
            name: known[name] for name in ("SchedulingEligibility", "Drain", "DrainStrategy", "LastDrain")
        }  # fmt: skip
        with self.store.write("NodeRegistration") as txn:
            txn.node({**node, **kept, "Status": "initializing"})
        if known is not None and known["Status"] in ("down", "disconnected"):
            self._evaluate(node["ID"])

    def set_status(self, name: str, status: str) -> None:
        """Note what has become of a node; the jobs that have something there are looked at again."""
        node = self.store.nodes.get(name)
        if node is None or node["Status"] == status:
            return
        with self.store.write("NodeEvent") as txn:
            txn.node({**node, "Status": status, "StatusUpdatedAt": txn.now // NANO})
        self._evaluate(name)
        if status == "ready":
            self.scheduler.unblock()

    def _evaluate(self, name: str) -> None:
        """Make evaluations for every job that has something on a node."""
        jobs = {(one["Namespace"], one["JobID"]): one["Job"] for one in self.store.node_allocs(name)
                if not client_over(one)}  # fmt: skip
        node = self.store.nodes[name]
        made = [
            self.scheduler.make(job, "node-update", NodeID=name, NodeModifyIndex=node["ModifyIndex"])
            for job in jobs.values()
        ]
        if not made:
            return
        with self.store.write("EvaluationUpdated") as txn:
            for one in made:
                txn.eval(one)
                txn.settle((one["Namespace"], one["JobID"]))
        for one in made:
            self.scheduler.enqueue(one)

    async def silence(self, name: str) -> None:
        """Wait for heartbeats that do not come, and take the node for down, or for disconnected."""
        away = True
        while away:
            await asyncio.sleep(self.timing.heartbeat)
            await self.gate()
            groups = [
                next(group for group in one["Job"]["TaskGroups"] if group["Name"] == one["TaskGroup"])
                for one in self.store.node_allocs(name)
                if not over(one)
            ]
            away = any(lost_limit(group) is not None for group in groups)
            self.set_status(name, "disconnected" if away else "down")

    # -- drains --------------------------------------------------------------------------------------------------

    def drain(self, name: str, spec: Object | None, *, eligible: bool) -> tuple[int, int]:
        """Begin or end to drain a node; return the index and that of an evaluation, or 0.

        Parameters:
            name: id of the node.
            spec: `DrainSpec`; None to end it.
            eligible: whether it may be used again, at the end.
        """
        node = self.find(name)
        if (running := self._drains.pop(name, None)) is not None:
            running.cancel()
        chance = "eligible" if spec is None and eligible else "ineligible"
        strategy = None if spec is None else {
            "Deadline": spec.get("Deadline", 0), "IgnoreSystemJobs": bool(spec.get("IgnoreSystemJobs")),
            "StartedAt": stamp(), "ForceDeadline": stamp(),
        }  # fmt: skip
        with self.store.write("NodeDrain") as txn:
            index = txn.index
            txn.node({
                **node, "Drain": spec is not None, "DrainStrategy": strategy, "SchedulingEligibility": chance,
            })  # fmt: skip
        if spec is not None:
            self._drains[name] = self.spawn(self._drain(name, int(spec.get("Deadline") or 0)))
        if chance == "eligible":
            self._evaluate(name)
            self.scheduler.unblock()
        return index, index + 1 if chance == "eligible" else 0

    async def _drain(self, name: str, deadline: int) -> None:
        """Let batch jobs run until the deadline, stop everything else at once."""
        service = [one for one in self._left(name) if one["Job"]["Type"] != "batch"]
        self._migrate(service)
        limit = None if deadline == 0 else max(deadline, 0) / NANO * self.timing.second
        try:
            async with asyncio.timeout(limit):
                while self._left(name):
                    await self.store.news.wait()
        except TimeoutError:
            self._migrate(self._left(name))
        node = self.store.nodes[name]
        with self.store.write("NodeDrain") as txn:
            txn.node({**node, "Drain": False, "DrainStrategy": None})

    def _left(self, name: str) -> list[Object]:
        return [one for one in self.store.node_allocs(name) if not over(one)]

    def _migrate(self, allocs: list[Object]) -> None:
        """Wish allocations elsewhere; one that may not be rescheduled is not replaced."""
        if not allocs:
            return
        with self.store.write("AllocationUpdateDesiredStatus") as txn:
            for alloc in allocs:
                group = next(one for one in alloc["Job"]["TaskGroups"] if one["Name"] == alloc["TaskGroup"])
                policy = group["ReschedulePolicy"]
                wishes = {"Migrate": True}
                if alloc["Job"]["Type"] == "batch" and not policy["Unlimited"] and policy["Attempts"] == 0:
                    wishes["MigrateDisablePlacement"] = True
                txn.alloc(transition(alloc, **wishes))
            jobs = {one["JobID"]: one["Job"] for one in allocs}.values()
            made = [txn.eval(self.scheduler.make(job, "node-drain")) for job in jobs]
        for one in made:
            self.scheduler.enqueue(one)

    def eligibility(self, name: str, wish: str) -> int:
        """Let a node be used, or not; return the index."""
        node = self.find(name)
        if wish not in ("eligible", "ineligible"):
            raise ApiError(400, f'invalid scheduling eligibility "{wish}"')
        with self.store.write("NodeEligibility") as txn:
            txn.node({**node, "SchedulingEligibility": wish})
        if wish == "eligible":
            self.scheduler.unblock()
        return self.store.index
