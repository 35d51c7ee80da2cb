"""What goes past the APIs: the processes, the agents, the faults; also over HTTP, for other processes."""

from __future__ import annotations

from aiohttp import web

from agora_conformance.emulators.ecs.account import Account
from agora_conformance.emulators.ecs.errors import ApiError, Object, invalid
from agora_conformance.emulators.ecs.faults import Faults
from agora_conformance.emulators.ecs.launch import Launcher
from agora_conformance.emulators.ecs.lifecycle import Worker
from agora_conformance.emulators.ecs.task import Task
from agora_conformance.emulators.hosted import switch
from agora_conformance.emulators.runner import Container

#: Where the paths of this begin; no service of AWS has anything there.
CONTROL = "/emulator/"
FAULTS = (
    *("throttle", "fail", "deny", "expire_credentials", "slow", "stall", "cut", "throttle_network"),
    *(
        "throttle_provisioning",
        "fail_placement",
        "fail_start",
        "hide_created",
        "lag",
        "lag_logs",
        "lose_events",
        "repeat_events",
    ),
    *("delay_events", "mend", "skew", "clear"),
)
REASONS = {
    "SpotInterruption": "Your Spot Task was interrupted.",
    "TerminationNotice": "Task is scheduled for termination.",
    "InfrastructureHealth": "The underlying infrastructure became unhealthy.",
}


class Control:
    """Looks behind the APIs; all on the emulator's event loop.

    Parameters:
        account: the account.
        faults: its faults.
        launcher: starts tasks.
    """

    def __init__(self, account: Account, faults: Faults, launcher: Launcher) -> None:
        self._account, self._faults, self._launcher = account, faults, launcher

    def tasks(self, selector: str) -> list[Task]:
        """Return the tasks that an ARN, an id or a startedBy chooses; all for nothing."""
        return [task for task in self._account.tasks.values() if task.is_called(selector)]

    def _containers(self, selector: str) -> list[Container]:
        chosen = [one.process for task in self.tasks(selector) for one in task.containers]
        return [process for process in chosen if process is not None]

    def processes(self, selector: str) -> list[int]:
        """Return the live processes of the chosen tasks."""
        return [pid for container in self._containers(selector) for pid in container.processes()]

    def terms(self, selector: str) -> list[float]:
        """Return when SIGTERM was sent to the containers of the chosen tasks."""
        return sorted(at for container in self._containers(selector) for at in container.terms)

    def history(self, selector: str) -> list[Object]:
        """Return how the chosen tasks looked, from their first moment."""
        return [look for task in self.tasks(selector) for _, look in task.history]

    def interrupt(self, selector: str, code: str) -> None:
        """End the chosen tasks as AWS does.

        Parameters:
            selector: which.
            code: a `stopCode` of `REASONS`; with InfrastructureHealth the processes are gone at once.
        """
        if code not in REASONS:
            raise invalid(f"the emulator interrupts with {', '.join(REASONS)}")
        for task in self.tasks(selector):
            if code == "InfrastructureHealth":
                for one in task.containers:
                    if one.process is not None:
                        one.process.kill()
            Worker(self._account, task).end(code, REASONS[code])

    def forget(self, selector: str) -> None:
        """Let the chosen tasks that are STOPPED expire from the API now."""
        for task in self.tasks(selector):
            if task.over_at is not None:
                del self._account.tasks[task.id]

    def agents_away(self) -> None:
        """Cut the tasks off: nothing is reported and no stop is carried out, and what runs runs on."""
        self._account.agents.clear()

    def agents_back(self) -> None:
        """End that."""
        self._account.agents.set()

    def populate(self, count: int, body: Object) -> list[str]:
        """Add RUNNING tasks without processes; see `Launcher.populate`."""
        return self._launcher.populate(count, body)

    async def do(self, method: str, path: str, request: web.Request) -> Object:
        """Carry out a request: GET processes and terms, POST agents/{away,back}, interrupt, forget and faults/NAME.

        Raises:
            ApiError: 400 or 404.
        """
        selector = request.query.get("task", "")
        match method, path:
            case "GET", "processes":
                return {"processes": self.processes(selector)}
            case "GET", "terms":
                return {"terms": self.terms(selector)}
            case "POST", "agents/away":
                self.agents_away()
            case "POST", "agents/back":
                self.agents_back()
            case "POST", "interrupt":
                self.interrupt(selector, request.query.get("code", ""))
            case "POST", "forget":
                self.forget(selector)
            case "POST", fault if fault.removeprefix("faults/") in FAULTS:
                if problem := switch(getattr(self._faults, fault.removeprefix("faults/")), await request.read()):
                    raise invalid(problem)
            case _:
                raise ApiError("UnknownOperationException", "the emulator knows no such control", 404)
        return {}
