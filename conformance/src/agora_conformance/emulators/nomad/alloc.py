"""One allocation on its client: its tasks, and what the client says about them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from agora_conformance.emulators.nomad import task_events
from agora_conformance.emulators.nomad.errors import ApiError, Object
from agora_conformance.emulators.nomad.output import Output
from agora_conformance.emulators.nomad.store import CLIENT_TERMINAL
from agora_conformance.emulators.nomad.task import Hold, Host, TaskRunner
from agora_conformance.emulators.nomad.timing import NANO, nano

NO_NETWORK = {"Address": "", "AddressIPv6": "", "DNS": None, "InterfaceName": ""}
TOO_LONG = "allocation exceeded max_run_duration"


@dataclass
class AllocHold:
    """What a client's machine holds of an allocation; it outlives the agent.

    Parameters:
        alloc: the allocation as last seen.
        tasks: its tasks, by name.
        told: what the servers were last told.
        expired: its `max_run_duration` is over.
    """

    alloc: Object
    tasks: dict[str, Hold]
    told: Object | None = None
    expired: bool = False


def take_up(alloc: Object, node: Object, folder: Path, host: Host) -> AllocHold:
    """Make room for an allocation on a client.

    Parameters:
        alloc: the allocation.
        node: the client's node.
        folder: where it keeps its allocations.
        host: what it works with.
    """
    group = group_of(alloc)
    tasks = {}
    for task in group["Tasks"]:
        place = folder / alloc["ID"] / task["Name"]
        for name in ("local", "secrets", "tmp"):
            (place / name).mkdir(parents=True, exist_ok=True)
        lag = host.timing.docker_log if task["Driver"] == "docker" else 0.0
        tasks[task["Name"]] = Hold(task, place, Output(lag))
    (folder / alloc["ID"] / "alloc" / "logs").mkdir(parents=True, exist_ok=True)
    return AllocHold(alloc, tasks)


def group_of(alloc: Object) -> Object:
    """Return the task group of an allocation."""
    found: Object = next(one for one in alloc["Job"]["TaskGroups"] if one["Name"] == alloc["TaskGroup"])
    return found


def variables(alloc: Object, node: Object, task: Object, folder: Path) -> dict[str, str]:
    """Return what `${...}` may stand for in a task.

    Parameters:
        alloc, task: whose.
        node: where it runs.
        folder: the task's directory.
    """
    job, group = alloc["Job"], group_of(alloc)
    meta = {**(job["Meta"] or {}), **(group["Meta"] or {}), **(task["Meta"] or {})}
    found = {
        "NOMAD_ALLOC_ID": alloc["ID"], "NOMAD_SHORT_ALLOC_ID": alloc["ID"][:8], "NOMAD_ALLOC_NAME": alloc["Name"],
        "NOMAD_ALLOC_INDEX": alloc["Name"].rsplit("[", 1)[-1].rstrip("]"), "NOMAD_GROUP_NAME": group["Name"],
        "NOMAD_JOB_ID": job["ID"], "NOMAD_JOB_NAME": job["Name"], "NOMAD_TASK_NAME": task["Name"],
        "NOMAD_NAMESPACE": job["Namespace"], "NOMAD_REGION": job["Region"], "NOMAD_DC": node["Datacenter"],
        "NOMAD_CPU_LIMIT": str(task["Resources"]["CPU"]), "NOMAD_MEMORY_LIMIT": str(task["Resources"]["MemoryMB"]),
        "NOMAD_TASK_DIR": str(folder / "local"), "NOMAD_SECRETS_DIR": str(folder / "secrets"),
        "NOMAD_ALLOC_DIR": str(folder.parent / "alloc"),
        "node.unique.id": node["ID"], "node.unique.name": node["Name"], "node.datacenter": node["Datacenter"],
        "node.class": node["NodeClass"], "node.pool": node["NodePool"], "node.region": job["Region"],
    }  # fmt: skip
    for name, value in meta.items():
        word = re.sub(r"[^A-Za-z0-9_]", "_", name)
        found |= {f"NOMAD_META_{word}": value, f"NOMAD_META_{word.upper()}": value, f"meta.{name}": value}
    found |= {f"attr.{name}": value for name, value in node["Attributes"].items()}
    return found | {f"meta.{name}": value for name, value in (node["Meta"] or {}).items()}


class AllocRunner:
    """Looks after an allocation.

    Parameters:
        host: what it works with.
        node: where it runs.
        hold: what there is of it.
    """

    def __init__(self, host: Host, node: Object, hold: AllocHold) -> None:
        self._host, self.hold = host, hold
        self._runners = {
            name: TaskRunner(host, one, variables(hold.alloc, node, one.task, one.folder), self._changed)
            for name, one in hold.tasks.items()
        }
        self.dirty = False
        self._stopped, self._finished = asyncio.Event(), asyncio.Event()
        if self.over:
            self._finished.set()
        self._wanted = hold.alloc["DesiredStatus"] == "run"

    def _changed(self) -> None:
        self.dirty = True

    # -- what others say -----------------------------------------------------------------------------------------

    def update(self, alloc: Object) -> None:
        """Take note of what the servers say now."""
        self.hold.alloc = alloc
        for task in group_of(alloc)["Tasks"]:
            if task["Name"] in self._runners:
                self._runners[task["Name"]].update(task)

    def stop(self) -> None:
        """Bring every task down."""
        self._wanted = False
        self._stopped.set()
        for runner in self._runners.values():
            runner.kill()

    def reconnect(self) -> None:
        """Note that the servers hear of it again."""
        for runner in self._runners.values():
            runner.note(task_events.reconnected())

    def signal(self, task: str, name: str) -> None:
        """Send a signal to one task, or to all with an empty name.

        Raises:
            ApiError: 500, there is no such task, or it does not run.
        """
        if task and task not in self._runners:
            raise ApiError(500, "Task not found")
        for runner in [self._runners[task]] if task else self._runners.values():
            runner.signal(name)

    # -- its life ------------------------------------------------------------------------------------------------

    async def run(self, after: AllocRunner | None = None) -> None:
        """Look after every task until all are over.

        Parameters:
            after: what it replaces, on the same client: begin when that is over.
        """
        try:
            if after is not None:
                await after.ended_before(self._stopped)
            await self._run()
        finally:
            if self.over:
                self._finished.set()

    async def ended_before(self, stopped: asyncio.Event) -> None:
        """Wait until every task is over, or an event."""
        waits = [asyncio.ensure_future(one.wait()) for one in (self._finished, stopped)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def _run(self) -> None:
        if not self._wanted and not self.over:
            await asyncio.gather(*(one.bring_down_again() for one in self._runners.values()))
            return
        limit = group_of(self.hold.alloc)["MaxRunDuration"]
        timer = None
        if limit:
            begin = self.hold.alloc["CreateTime"] + int(limit * self._host.timing.second)
            timer = asyncio.get_running_loop().call_later(max(begin - nano(), 0) / NANO, self._expire)
        try:
            await asyncio.gather(*(self._task(one) for one in self._runners.values()))
        finally:
            if timer is not None:
                timer.cancel()

    async def _task(self, runner: TaskRunner) -> None:
        await runner.run()
        if runner.state["Failed"]:
            for sibling in self._runners.values():
                if sibling is not runner:
                    sibling.kill("Task's sibling failed")

    def _expire(self) -> None:
        """End an allocation that has run for too long: it counts as complete before its tasks are dead."""
        if not self.over:
            self.hold.expired = True
            self._wanted = False
            for runner in self._runners.values():
                runner.expire(TOO_LONG)
            self._changed()

    @property
    def over(self) -> bool:
        """Whether every task is dead."""
        return all(one.state["State"] == "dead" for one in self._runners.values())

    # -- what the client says ------------------------------------------------------------------------------------

    def report(self) -> Object:
        """Return what the client says of the allocation."""
        states = {name: one.state for name, one in self._runners.items()}
        status, words = _status(states)
        if self.hold.expired:
            status, words = "complete", TOO_LONG
        return {
            "ClientStatus": status, "ClientDescription": words, "TaskStates": states, "NetworkStatus": NO_NETWORK,
        }  # fmt: skip

    @property
    def urgent(self) -> bool:
        """Whether what there is to tell cannot wait: the allocation is over."""
        said = (self.hold.told or {}).get("ClientStatus")
        status = self.report()["ClientStatus"]
        return self.dirty and (self.over or (status in CLIENT_TERMINAL and said != status))

    def telling(self) -> Object:
        """Return what is to be told, and take it for told."""
        self.dirty = False
        return self.report()


def _status(states: dict[str, Object]) -> tuple[str, str]:
    """Return an allocation's status, and words for it, from those of its tasks."""
    if any(one["State"] == "dead" and one["Failed"] for one in states.values()):
        return "failed", "Failed tasks"
    if any(one["State"] == "running" for one in states.values()):
        return "running", "Tasks are running"
    if any(one["State"] == "pending" for one in states.values()):
        return "pending", "No tasks have started"
    return "complete", "All tasks have completed"
