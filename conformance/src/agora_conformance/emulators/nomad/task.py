"""One task on its client: started, watched, signalled, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agora_conformance.emulators.nomad import drivers, interpolate, task_events, templates
from agora_conformance.emulators.nomad.drivers import CANCELED, Driver, DriverFailed, Result
from agora_conformance.emulators.nomad.errors import ApiError, Object
from agora_conformance.emulators.nomad.output import Output
from agora_conformance.emulators.nomad.scheduler import Spawn
from agora_conformance.emulators.nomad.task_variables import Denied, TaskVariables
from agora_conformance.emulators.nomad.timing import NANO, Timing, duration, stamp
from agora_conformance.emulators.runner import Container

#: After so many seconds a client says which variable a template lacks (`DefaultMaxTemplateEventRate`).
MISSING_EVENT = 3.0


@dataclass
class Host:
    """What every client of the cluster works with.

    Parameters:
        driver: starts tasks.
        timing: how long things take.
        spawn: runs something that outlives a client's absence.
        lose_exit: whether the exit code of a killed task gets lost this time.
        environment: the agents' own variables.
        max_kill: the agents' `max_kill_timeout`, in nanoseconds.
        variables: what templates may read.
    """

    driver: Driver
    timing: Timing
    spawn: Spawn
    lose_exit: Callable[[], bool]
    environment: dict[str, str]
    max_kill: int
    variables: TaskVariables


@dataclass
class Hold:
    """What a client's machine holds of a task; it outlives the agent.

    Parameters:
        task: the task as it was started.
        folder: its directory.
        output: its log files.
        state: the last state that the agent wrote down.
        container: its processes.
        kill_timeout: nanoseconds between its two signals, fixed when it starts.
    """

    task: Object
    folder: Path
    output: Output
    state: Object = field(default_factory=lambda: dict(task_events.STATE))
    container: Container | None = None
    kill_timeout: int = 0


class TaskRunner:
    """Looks after a task.

    Parameters:
        host: what it works with.
        hold: what there is of the task.
        variables: what references in the job stand for.
        changed: is called when the state has changed.
    """

    def __init__(self, host: Host, hold: Hold, variables: dict[str, str], changed: Callable[[], None]) -> None:
        self._host, self._hold, self._variables, self._changed = host, hold, variables, changed
        self._task = hold.task
        self._killing = asyncio.Event()
        self._begun: list[float] = []

    # -- what others say -----------------------------------------------------------------------------------------

    def update(self, task: Object) -> None:
        """Take note of a new version of the task; what runs goes on as it was started."""
        self._task = task

    def kill(self, reason: str = "") -> None:
        """Tell the task to stop; a second time changes nothing."""
        if self._killing.is_set() or self._hold.state["State"] == "dead":
            return
        known = [one["Type"] for one in self._hold.state["Events"]]
        if "Killing" not in known:
            self._emit(task_events.killing(self._timeout(self._task), reason))
        self._killing.set()

    def signal(self, name: str) -> None:
        """Send a signal.

        Raises:
            ApiError: 500, it does not run.
        """
        container = self._hold.container
        if self._hold.state["State"] != "running" or container is None or container.ended:
            raise ApiError(500, "Task not running")
        self._emit(task_events.signaling(name))
        self._send(container, drivers.signal_number(name))

    def expire(self, reason: str) -> None:
        """Tell the task to stop because its time is over, which already counts as its end."""
        self.kill(reason)
        if self._hold.state["State"] == "running":
            self._write(FinishedAt=stamp())

    def note(self, event: Object) -> None:
        """Add an event of somebody else's."""
        self._emit(event)

    # -- its state -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> Object:
        """Return its state."""
        return self._hold.state

    def _emit(self, event: Object, **state: object) -> None:
        events = [*self._hold.state["Events"], event][-task_events.KEPT :]
        self._write(Events=events, **state)

    def _write(self, **state: object) -> None:
        self._hold.state = {**self._hold.state, **state}
        self._changed()

    def _timeout(self, task: Object) -> int:
        return int(min(task["KillTimeout"], self._host.max_kill))

    # -- its life ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after the task until it is over."""
        if self._hold.container is not None:
            again = await self._attached(self._hold.container)
        elif self._killing.is_set():
            again = self._over()
        else:
            self._emit(task_events.received())
            again = True
        while again:
            again = await self._once()

    def _over(self, **state: object) -> bool:
        if self._hold.state["State"] != "dead":
            self._write(State="dead", FinishedAt=stamp(), **state)
        return False

    async def _once(self) -> bool:
        """Start it and wait for its end; return whether it begins again."""
        if self._killing.is_set():
            return self._over()
        self._emit(task_events.setup())
        try:
            ready = await self._rendered()
        except interpolate.Malformed as error:
            return await self._failed(task_events.failed_validation(str(error)))
        except templates.TemplateFailed as error:
            text = f"Template failed: {error}"
            return await self._failed(task_events.event("Killing", text, KillReason=text, FailsTask=True))
        if ready is None:
            return self._over()
        config, env = ready
        chroot = self._host.timing.chroot if self._task["Driver"] == "exec" else 0
        await asyncio.sleep(self._host.timing.start + chroot)
        if self._killing.is_set():
            return self._over()
        if (wanted := self._host.driver.download(self._task, config)) is not None:
            self._emit(task_events.downloading(wanted))
            await self._host.driver.pull(wanted)
            if self._killing.is_set():
                return self._over()
        try:
            container = await self._host.driver.start(self._task, config, env, self._hold.folder)
        except DriverFailed as error:
            return await self._failed(task_events.driver_failure(str(error)))
        self._hold.container, self._hold.kill_timeout = container, self._timeout(self._task)
        self._host.spawn(self._hold.output.collect(container))
        self._begun.append(time.monotonic())
        self._emit(task_events.started(), State="running", StartedAt=stamp(container.started_at))
        return await self._attached(container)

    async def _rendered(self) -> tuple[Object, dict[str, str]] | None:
        """Prepare it, and wait as long as a template lacks its variable; None where it is killed meanwhile."""
        telling = time.monotonic() + MISSING_EVENT
        while not self._killing.is_set():
            news = self._host.variables.news
            try:
                return self._prepare()
            except templates.Missing as missing:
                if time.monotonic() >= telling:
                    where = f"{self._variables['NOMAD_NAMESPACE']}.{self._variables['NOMAD_REGION']}"
                    self._emit(task_events.event("Template", f"Missing: nomad.var.block({missing}@{where})"))
                    telling = float("inf")
            waits = [asyncio.ensure_future(one.wait()) for one in (news, self._killing)]
            left = None if telling == float("inf") else max(telling - time.monotonic(), 0.0)
            try:
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()
        return None

    def _read(self, path: str) -> Mapping[str, str] | None:
        try:
            return self._host.variables.read(self._variables, path)
        except Denied:
            words = "Unexpected response code: 403 (Permission denied)"
            raise templates.TemplateFailed(f"nomad.var.block({path}): {words}") from None

    def _prepare(self) -> tuple[Object, dict[str, str]]:
        """Return the configuration and the environment, variables replaced and templates written."""
        raw = self._task["Driver"] == "raw_exec"
        own = self._host.environment if raw else {"PATH": drivers.PATH}
        nomad = {name: value for name, value in self._variables.items() if name.startswith("NOMAD_")}
        known = {**own, **self._variables} if raw else dict(self._variables)
        given = {name: interpolate.replace(value, known) for name, value in (self._task["Env"] or {}).items()}
        env = {**own, **nomad, **given}
        if self._task["Driver"] == "docker":
            env.pop("PATH", None)
            env |= {name: value for name, value in given.items() if name == "PATH"}
        env |= templates.render(self._task, self._hold.folder, env, self._read)
        config = interpolate.config(self._task["Config"] or {}, {**self._variables, **env})
        drivers.check(self._task["Driver"], config)
        # What an environment cannot hold, an agent leaves out.
        return config, {name: value for name, value in env.items() if name and "=" not in name and "\0" not in value}

    async def _attached(self, container: Container) -> bool:
        """Wait for its end, or bring it about; return whether it begins again."""
        end, kill = asyncio.ensure_future(container.wait()), asyncio.ensure_future(self._killing.wait())
        try:
            await asyncio.wait([end, kill], return_when=asyncio.FIRST_COMPLETED)
            # Who asks for it first counts, even where the process ends in the same moment.
            asked = self._killing.is_set()
            if asked and not end.done():
                await self._bring_down(container)
            result = drivers.result(self._task["Driver"], await end)
        finally:
            end.cancel()
            kill.cancel()
        if asked and self._task["Driver"] == "raw_exec" and self._host.lose_exit():
            result = drivers.lost()
        return await self._ended(result, asked=asked)

    async def _bring_down(self, container: Container) -> None:
        """Signal, wait, kill. An executor does that by itself; docker does it on the agent's word."""
        work = self._shut_down(container)
        if self._task["Driver"] == "docker":
            await work
        else:
            await asyncio.shield(self._host.spawn(work))

    async def _shut_down(self, container: Container) -> None:
        name = self._task["KillSignal"]
        number = drivers.signal_number(name) if name else drivers.KILL_SIGNAL[self._task["Driver"]]
        self._send(container, number)
        try:
            async with asyncio.timeout(self._hold.kill_timeout / NANO * self._host.timing.second):
                await container.wait()
        except TimeoutError:
            container.kill()

    def _send(self, container: Container, number: int) -> None:
        if number == signal.SIGTERM:
            container.terminate()
        elif number == signal.SIGKILL:
            container.kill()
        else:
            container.send(number)

    async def bring_down_again(self) -> None:
        """Stop what a restarted agent finds of a task that was stopped while it was away."""
        container = self._hold.container
        if container is None or self._hold.state["State"] == "dead":
            if not self._hold.state["Events"]:
                self._emit(task_events.received())
            self.kill()
            self._over()
            return
        self.kill()
        executed = self._task["Driver"] != "docker"
        begin = asyncio.get_running_loop().time()
        await self._bring_down(container)
        result = drivers.result(self._task["Driver"], await container.wait())
        if executed:
            # The new agent's connection to the executor is gone: it waits in vain, and for the whole time.
            left = self._hold.kill_timeout / NANO * self._host.timing.second - asyncio.get_running_loop().time() + begin
            await asyncio.sleep(max(left, 0))
            result = drivers.lost(CANCELED)
        self._emit(task_events.terminated(result))
        self._over()

    # -- its end -------------------------------------------------------------------------------------------------

    async def _ended(self, result: Result, *, asked: bool) -> bool:
        """Tell how it ended; return whether it begins again."""
        self._emit(task_events.terminated(result))
        if asked:
            self._emit(task_events.killed())
            return self._over()
        if result.code == 0:
            return self._over()
        return await self._restart()

    async def _failed(self, event: Object) -> bool:
        self._emit(event)
        return await self._restart()

    async def _restart(self) -> bool:
        """Begin again, if the policy allows it."""
        policy = self._task["RestartPolicy"]
        second = self._host.timing.second
        interval = policy["Interval"] / NANO * second
        now = time.monotonic()
        recent = [one for one in self._begun if one > now - interval] if interval else self._begun
        if policy["Attempts"] == 0:
            reason = task_events.NO_RESTARTS
        elif self._hold.state["Restarts"] >= policy["Attempts"] or len(recent) > policy["Attempts"]:
            reason = task_events.TOO_MANY.format(policy["Attempts"], duration(policy["Interval"]))
        else:
            self._emit(task_events.restarting(policy["Delay"], "Restart within policy"), State="pending")
            self._write(Restarts=self._hold.state["Restarts"] + 1, LastRestart=stamp())
            try:
                async with asyncio.timeout(policy["Delay"] / NANO * second):
                    await self._killing.wait()
            except TimeoutError:
                return True
            return self._over()
        self._emit(task_events.not_restarting(reason), Failed=True)
        return self._over()


def agent_environment() -> dict[str, str]:
    """Return the variables of an agent: those of this process that are no secrets."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LANG") if name in os.environ}
