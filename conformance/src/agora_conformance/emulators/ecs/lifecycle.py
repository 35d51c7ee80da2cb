"""One task on Fargate, from PROVISIONING to STOPPED."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from agora_conformance.emulators.ecs.account import Account
from agora_conformance.emulators.ecs.cloudwatch import NO_GROUP, Stream
from agora_conformance.emulators.ecs.environment import Maker, NotStartable
from agora_conformance.emulators.ecs.errors import ApiError, Object
from agora_conformance.emulators.ecs.secrets import Unreadable, value_of
from agora_conformance.emulators.ecs.task import Task, TaskContainer
from agora_conformance.emulators.runner import Image, PullFailed, StartFailed

EXITED = "Essential container in task exited"
FAILED = "Task failed to start"
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"


class CannotStart(Exception):
    """The task cannot start; the message is ECS's.

    Parameters:
        message: `stoppedReason`.
        container: whose fault it is.
        reason: `reason` of that container.
    """

    def __init__(self, message: str, container: TaskContainer | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.container, self.reason = container, reason


@dataclass
class Worker:
    """Brings one task up, tells how it goes, and brings it down.

    Parameters:
        account: where it lives.
        task: the task.
    """

    account: Account
    task: Task

    async def run(self) -> None:
        """Look after the task until it is STOPPED."""
        try:
            await self._live()
        finally:
            for container in self.task.containers:
                if container.process is not None:
                    await container.process.join()
                if container.pump is not None:
                    container.pump.cancel()

    async def _live(self) -> None:
        task, timing = self.task, self.account.timing
        try:
            running = True if task.phantom else await self._bring_up()
        except CannotStart as problem:
            running = False
            if problem.container is not None:
                problem.container.reason = problem.reason or str(problem)
            self.end("TaskFailedToStart", str(problem))
        if running:
            await self._until_over()
        elif any(one.process is not None for one in task.containers):
            await self._bring_down()
        await self._collect()
        await self._tell("DEPROVISIONING", version=True)
        await asyncio.sleep(timing.deprovision)
        task.times["stoppedAt"] = self.account.clock.now()
        await self._tell("STOPPED", version=True)
        task.over_at = time.monotonic()
        for one in task.containers:
            if one.process is not None:
                self.account.runner.forget(one.process)

    def end(self, code: str, reason: str) -> bool:
        """Want the task to be stopped; False where that was so already, and then nothing changes."""
        task = self.task
        if task.desired == "STOPPED":
            return False
        task.desired, task.stop_code, task.stopped_reason = "STOPPED", code, reason
        task.times["stoppingAt"] = self.account.clock.now()
        task.tags.clear()
        # An end from outside is an event of its own; the end of a container is told with DEPROVISIONING.
        asked = code not in ("EssentialContainerExited", "TaskFailedToStart")
        task.version += asked
        task.note()
        if asked:
            self._event()
        task.stopping.set()
        return True

    # -- what others see -----------------------------------------------------------------------------------------

    async def _tell(self, status: str, *, version: bool = False) -> None:
        """Change the task's status, as soon as its agent has the service's ear."""
        await self.account.agents.wait()
        task = self.task
        task.status = status
        task.version += version
        if status == "STOPPED":
            for one in task.containers:
                one.status = "STOPPED"
        task.note()
        if version:
            self._event()

    def _event(self) -> None:
        for listener in self.account.listeners:
            listener(self.task)

    async def _stops_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.task.stopping.wait()
        except TimeoutError:
            return False
        return True

    # -- up ------------------------------------------------------------------------------------------------------

    async def _bring_up(self) -> bool:
        """Start the task; False where it has to end first."""
        task, timing, clock = self.task, self.account.timing, self.account.clock
        if await self._stops_within(timing.provision):
            return False
        if self.account.start_failures:
            code, reason = self.account.start_failures.pop(0)
            self.end(code, reason)
            return False
        task.times["connectivityAt"] = clock.now()
        await self._tell("PENDING", version=True)
        if await self._stops_within(timing.prepare):
            return False
        for one in task.containers:
            one.stream = self._stream(one)
        secrets = {one.name: self._secrets(one) for one in task.containers}
        task.times["pullStartedAt"] = clock.now()
        images = {one.name: self._image(one) for one in task.containers}
        pull = timing.pull + max((image.pull for image in images.values() if not image.present), default=0.0)
        if await self._stops_within(pull):
            await asyncio.sleep(min(timing.pull_abort, pull))
            return False
        task.times["pullStoppedAt"] = clock.now()
        await self._tell("ACTIVATING")
        if await self._stops_within(timing.activate):
            return False
        for one in task.containers:
            await self._start(one, images[one.name], secrets[one.name])
        task.times["startedAt"] = clock.now()
        await self._tell("RUNNING", version=True)
        return True

    def _image(self, container: TaskContainer) -> Image:
        try:
            return self.account.images.find(container.definition["image"])
        except PullFailed as error:
            text = f"CannotPullContainerError: pull image manifest has been retried 1 time(s): {error}"
            raise CannotStart(text, container) from None

    def _secrets(self, container: TaskContainer) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in container.definition.get("secrets") or []:
            try:
                found[one["name"]] = value_of(self.account, one["valueFrom"])
            except Unreadable as error:
                raise CannotStart(
                    "ResourceInitializationError: unable to pull secrets or registry auth: execution resource "
                    "retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s): "
                    f"{error}"
                ) from None
        return found

    def _stream(self, container: TaskContainer) -> Stream | None:
        """Return the log stream of a container that has one; its group has to be there."""
        options = _log_options(container)
        if options is None:
            return None
        logs, group = self.account.logs, options["awslogs-group"]
        if group not in logs.groups and options.get("awslogs-create-group", "").lower() == "true":
            logs.create(group)
        name = f"{options['awslogs-stream-prefix']}/{container.name}/{self.task.id}"
        try:
            return logs.create_stream(group, name)
        except ApiError as error:
            text = (
                "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: "
                f"failed to create Cloudwatch log stream: {error.kind}: {NO_GROUP} : exit status 1"
            )
            raise CannotStart(text) from None

    async def _start(self, container: TaskContainer, image: Image, secrets: dict[str, str]) -> None:
        try:
            spec = Maker(self.account.region).make(self.task, container, image, secrets)
        except NotStartable as error:
            raise CannotStart(FAILED, container, str(error)) from None
        try:
            container.process = await self.account.runner.start(spec)
        except StartFailed as error:
            text = (
                "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container "
                f'process: exec: "{spec.argv[0]}": {error}: unknown'
            )
            raise CannotStart(FAILED, container, text) from None
        container.status = "RUNNING"
        container.pump = self.account.spawn(self._pump(container))

    async def _pump(self, container: TaskContainer) -> None:
        """Carry output to CloudWatch Logs until there is no more."""
        if container.process is None:
            return
        log, stream = container.process.log, container.stream
        lines = log.lines()
        for line in lines:
            if stream is not None:
                self.account.logs.write(stream, line.at, line.data)
        async for line in log.follow(lines):
            if stream is not None:
                self.account.logs.write(stream, line.at, line.data)

    # -- down ----------------------------------------------------------------------------------------------------

    async def _until_over(self) -> None:
        """Wait for the end of an essential container, or for a stop, and bring the others down."""
        stop: asyncio.Future[bool] = asyncio.ensure_future(self.task.stopping.wait())
        ends: list[asyncio.Future[bool]] = [
            asyncio.ensure_future(self._ended(one)) for one in self.task.containers if one.process is not None
        ]
        try:
            waiting = {stop, *ends}
            over = False
            while not over:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                over = any(one.result() for one in done)
            if not self.task.stopping.is_set():
                await self._stops_within(self.account.timing.report)
                await self.account.agents.wait()
                for one in self.task.containers:
                    if one.process is not None and one.process.ended:
                        await self._close(one)
                if self.end("EssentialContainerExited", EXITED):
                    await self._bring_down()
                    return
            await asyncio.sleep(self.account.timing.notice)
            await self._tell("DEACTIVATING")
            await asyncio.sleep(self.account.timing.deactivate)
            await self._tell("STOPPING")
            await self._bring_down()
        finally:
            stop.cancel()
            for end in ends:
                end.cancel()

    async def _ended(self, container: TaskContainer) -> bool:
        """Wait for a container's end, tell it where the task goes on, and return whether it was essential."""
        if container.process is None:
            return False
        await container.process.wait()
        essential = bool(container.definition.get("essential", True))
        if not essential:
            await asyncio.sleep(self.account.timing.report)
            await self._close(container)
            await self._tell(self.task.status)
        return essential

    async def _bring_down(self) -> None:
        """SIGTERM, the container's own timeout, SIGKILL."""
        await asyncio.gather(*(self._kill(one) for one in self.task.containers))

    async def _kill(self, container: TaskContainer) -> None:
        process = container.process
        if process is None or process.ended:
            return
        process.terminate()
        try:
            async with asyncio.timeout(container.stop_timeout * self.account.timing.second):
                await process.wait()
        except TimeoutError:
            killed = time.time()
            process.kill()
            await process.wait()
            await self._drained(container)
            self._lose(container, killed)

    def _lose(self, container: TaskContainer, killed: float) -> None:
        """Drop what non-blocking logs had not flushed yet."""
        options = _log_options(container) or {}
        if container.stream is not None and options.get("mode", "non-blocking") != "blocking":
            self.account.logs.forget(container.stream, killed - self.account.timing.flush)

    async def _collect(self) -> None:
        """Note how every container ended."""
        ends = [(await one.process.wait()).at for one in self.task.containers if one.process is not None]
        if ends or self.task.phantom:
            over = self.account.clock.now(max(ends, default=None))
            # What ends while the others are still being started does so before the task counts as started.
            self.task.times["executionStoppedAt"] = max(over, self.task.times.get("startedAt", over))
        for one in self.task.containers:
            await self._close(one)

    async def _close(self, container: TaskContainer) -> None:
        if container.process is None:
            return
        end = await container.process.wait()
        await self._drained(container)
        container.status, container.exit_code = "STOPPED", end.code
        if end.oom:
            container.reason = OUT_OF_MEMORY

    @staticmethod
    async def _drained(container: TaskContainer) -> None:
        if container.pump is not None:
            await asyncio.wait([container.pump])


def _log_options(container: TaskContainer) -> Object | None:
    configuration: Object = container.definition.get("logConfiguration") or {}
    if configuration.get("logDriver") != "awslogs":
        return None
    options: Object = configuration["options"]
    return options
