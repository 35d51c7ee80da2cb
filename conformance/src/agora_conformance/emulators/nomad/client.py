"""The client agent of a node: it takes up allocations, and tells the servers how they go."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agora_conformance.emulators.nomad.alloc import AllocHold, AllocRunner, group_of, take_up
from agora_conformance.emulators.nomad.errors import Object
from agora_conformance.emulators.nomad.gate import Gate
from agora_conformance.emulators.nomad.nodes import Nodes
from agora_conformance.emulators.nomad.scheduler import RECONNECTED, Scheduler
from agora_conformance.emulators.nomad.store import Store, Transaction, client_over
from agora_conformance.emulators.nomad.task import Host
from agora_conformance.emulators.nomad.timing import NANO
from agora_conformance.emulators.runner import Container


@dataclass
class Client:
    """The agent of one node.

    Parameters:
        store: the servers' state.
        nodes: where it registers.
        scheduler: works on what follows from its reports.
        host: what it works with.
        node: its node, as it registers it.
        folder: where it keeps allocations.
        gate: whether the servers are there.
    """

    store: Store
    nodes: Nodes
    scheduler: Scheduler
    host: Host
    node: Object
    folder: Path
    gate: Gate
    up: bool = False
    holds: dict[str, AllocHold] = field(default_factory=dict)
    _runners: dict[str, AllocRunner] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _silence: asyncio.Task[None] | None = None
    _seen: dict[str, int] = field(default_factory=dict)
    _lonely: list[asyncio.TimerHandle] = field(default_factory=list)

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, delay: float = 0.0) -> None:
        """Start the agent; it takes over what its machine still holds."""
        if not self.up:
            self.up = True
            self._hear()
            self._spawn(self._run(delay))

    async def stop(self) -> None:
        """Kill the agent, not what it has started."""
        self.up = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._runners.clear()
        # What it was told and did not begin with is news again.
        self._seen.clear()
        self.expect()

    def expect(self) -> None:
        """Begin to miss the agent's heartbeats."""
        self._hear()
        self._silence = self.host.spawn(self.nodes.silence(self.node["ID"]))

    def _hear(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.host.spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, delay: float) -> None:
        await asyncio.sleep(delay)
        await self.gate.passed()
        known = self.store.nodes.get(self.node["ID"])
        away = known is not None and known["Status"] == "disconnected"
        self.nodes.register(self.node)
        for name in list(self.holds):
            alloc = self.store.allocs.get(name)
            if alloc is not None:
                self._seen[name] = alloc["AllocModifyIndex"]
                self._take(alloc)
        self._spawn(self._sync())
        if away:
            self._spawn(self._ready_later())
        else:
            self.nodes.set_status(self.node["ID"], "ready")
        await self._watch()

    async def _ready_later(self) -> None:
        """Say that the node is ready once the servers know what became of its allocations."""
        await asyncio.sleep(self.host.timing.client_return)
        await self._push()
        # What follows from that is thought about before the node counts as ready.
        await asyncio.sleep(self.host.timing.observe)
        self.nodes.set_status(self.node["ID"], "ready")

    def returned(self) -> None:
        """Be heard by servers that were away: what they took for unknown or lost is not."""
        self._hear()
        for timer in self._lonely:
            timer.cancel()
        self._lonely.clear()
        if self.store.nodes[self.node["ID"]]["Status"] != "ready":
            self.nodes.register(self.node)
            self.nodes.set_status(self.node["ID"], "ready")

    # -- what the servers say ------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            news = self.store.news
            self._look()
            await news.wait()
            await self.gate.passed()

    def _look(self) -> None:
        mine = {one["ID"]: one for one in self.store.node_allocs(self.node["ID"])}
        for name, alloc in mine.items():
            if self._seen.get(name) != alloc["AllocModifyIndex"]:
                self._seen[name] = alloc["AllocModifyIndex"]
                if alloc["ClientStatus"] == "unknown" and alloc["DesiredStatus"] == "run" and name in self._runners:
                    self._runners[name].reconnect()
                self._spawn(self._react(name))
        for name in [one for one in self.holds if one not in mine]:
            self._forget(name)

    async def _react(self, name: str) -> None:
        await asyncio.sleep(self.host.timing.observe)
        alloc = self.store.allocs.get(name)
        if alloc is None:
            return
        runner = self._runners.get(name)
        if runner is None:
            self._take(alloc)
            return
        runner.update(alloc)
        if alloc["DesiredStatus"] != "run":
            runner.stop()

    def _take(self, alloc: Object) -> None:
        """Look after an allocation, a new one or one that is there already."""
        name = alloc["ID"]
        if name not in self.holds:
            if client_over(alloc):
                return
            self.holds[name] = take_up(alloc, self.node, self.folder, self.host)
        hold = self.holds[name]
        hold.alloc = alloc
        runner = self._runners[name] = AllocRunner(self.host, self.node, hold)
        if not runner.over:
            runner.dirty = hold.told is not None
            if alloc["ClientStatus"] == "unknown" and alloc["DesiredStatus"] == "run":
                runner.reconnect()
            self._spawn(runner.run(self._runners.get(alloc.get("PreviousAllocation", ""))))
        elif hold.told != runner.report():
            runner.dirty = True

    def _forget(self, name: str) -> None:
        """Drop what the servers know no more; what still runs is killed."""
        hold, runner = self.holds[name], self._runners.get(name)
        if runner is not None and not runner.over:
            runner.stop()
            return
        self.holds.pop(name)
        self._runners.pop(name, None)
        self._seen.pop(name, None)
        shutil.rmtree(self.folder / hold.alloc["ID"], ignore_errors=True)

    # -- what it says itself -------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(self.host.timing.sync)
            ticks += 1
            if any(one.urgent for one in self._runners.values()) or ticks % self.host.timing.lazy == 0:
                await self._push()

    async def _push(self) -> None:
        """Tell the servers what has changed; servers that are away hear of it when they are back."""
        reports = {name: one.telling() for name, one in self._runners.items() if one.dirty}
        if reports and self.gate.closed:
            await self.gate.passed()
            # They look after their own affairs first.
            await asyncio.sleep(self.host.timing.observe * 8)
        reports = {name: one for name, one in reports.items() if name in self.store.allocs}
        if not reports:
            return
        made, jobs = [], set()
        with self.store.write("AllocationUpdated") as txn:
            for name, report in reports.items():
                old = self.store.allocs[name]
                if old["ClientStatus"] == "unknown" and old["DesiredStatus"] == "run":
                    old = self._heard_again(txn, old)
                new = txn.alloc({**old, **report}, by_client=True)
                jobs.add((old["Namespace"], old["JobID"]))
                self.holds[name].told = report
                if (cause := self._follows(old, new)) is not None:
                    made.append(txn.eval(self.scheduler.make(old["Job"], cause)))
            for job in jobs:
                txn.settle(job)
        for evaluation in made:
            self.scheduler.enqueue(evaluation)
        if any(client_over(self.store.allocs[name]) for name in reports):
            self.scheduler.unblock()

    def _heard_again(self, txn: Transaction, alloc: Object) -> Object:
        """Cancel what would have come of an allocation that stays unknown."""
        follow = self.store.evals.get(alloc.get("FollowupEvalID", ""))
        if follow is not None and follow["Status"] == "pending":
            txn.eval({**follow, "Status": "canceled", "StatusDescription": RECONNECTED})
        return {name: value for name, value in alloc.items() if name != "FollowupEvalID"}

    @staticmethod
    def _follows(old: Object, new: Object) -> str | None:
        """Return why a report makes the servers think again, if it does."""
        if old["ClientStatus"] == "unknown" and new["ClientStatus"] != "unknown":
            return "reconnect"
        policy = group_of(old)["ReschedulePolicy"]
        if new["ClientStatus"] == "failed" and old["DesiredStatus"] == "run":
            return "alloc-failure" if policy["Unlimited"] or policy["Attempts"] > 0 else None
        return None

    def server_away(self) -> None:
        """Note that the servers do not answer: allocations with `stop_on_client_after` stop by themselves."""
        self.expect()
        for name, runner in self._runners.items():
            group = group_of(self.holds[name].alloc)
            limit = (group["Disconnect"] or {}).get("StopOnClientAfter") or group["StopAfterClientDisconnect"]
            if limit:
                seconds = limit / NANO * self.host.timing.second
                self._lonely.append(asyncio.get_running_loop().call_later(seconds, runner.stop))

    # -- what other machines ask of it ---------------------------------------------------------------------------

    def runner(self, name: str) -> AllocRunner | None:
        """Return who looks after an allocation."""
        return self._runners.get(name)

    def containers(self, job: str) -> list[Container]:
        """Return the containers of a job's tasks, of every job with an empty id."""
        return [
            task.container
            for hold in self.holds.values()
            if job in ("", hold.alloc["JobID"])
            for task in hold.tasks.values()
            if task.container is not None
        ]
