"""One pod on its node, from its sandbox to the last word about it."""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from agora_conformance.emulators.k8s import pod_status
from agora_conformance.emulators.k8s.clock import pause, stamp
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.environment import ConfigError, Maker
from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.hooks import pre_stop
from agora_conformance.emulators.k8s.pod_status import ContainerView, PodView
from agora_conformance.emulators.k8s.resources import PODS
from agora_conformance.emulators.runner import Container, ContainerSpec, Exit, Image, PullFailed, StartFailed

SOURCE = "kubelet"
DEADLINE_TEXT = "Pod was active on the node longer than the specified deadline"
#: What an image may be called; a reference with capital letters in its path is none.
REFERENCE = r"[a-z0-9][a-zA-Z0-9.:-]*(/[a-z0-9._-]+)*(:[\w][\w.-]{0,127})?(@[a-z0-9]+:[0-9a-f]+)?"


@dataclass
class Sandbox:
    """What the container runtime holds of one pod; it does not need the kubelet.

    Parameters:
        pod: the pod as last seen.
        view: what the kubelet last knew.
        containers: by name.
        began: when the kubelet took it up, by the event loop's clock.
    """

    pod: Object
    view: PodView | None = None
    containers: dict[str, Container] = field(default_factory=dict)
    began: float = 0.0


class PodWorker:
    """Brings one pod up, tells how it goes, and brings it down.

    Parameters:
        cluster: where it reports to.
        sandbox: what the runtime holds of the pod already.
        maker: knows what containers are started with.
    """

    def __init__(self, cluster: Cluster, sandbox: Sandbox, maker: Maker) -> None:
        self._cluster, self._sandbox, self._maker = cluster, sandbox, maker
        self._timing = cluster.timing
        self._stopping = asyncio.Event()
        self._deleted = asyncio.Event()
        self._gone = asyncio.Event()
        self._grace = 0
        self._generation = sandbox.pod["metadata"].get("generation", 1)
        self._deadline: asyncio.TimerHandle | None = None
        names = [one["name"] for one in sandbox.pod["spec"]["containers"]]
        self._view = sandbox.view or PodView({name: ContainerView() for name in names})

    # -- what others say -----------------------------------------------------------------------------------------

    def changed(self, pod: Object) -> None:
        """Take note of the pod's new state."""
        self._sandbox.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._deleted.set()
            self._stop(pod["metadata"]["deletionGracePeriodSeconds"])
        self._arm()

    def gone(self) -> None:
        """The object is gone from the API; whatever runs is brought down."""
        self._deleted.set()
        self._gone.set()
        self._stop(self._sandbox.pod["metadata"].get("deletionGracePeriodSeconds") or 0)

    def _arm(self) -> None:
        """Set the pod's own deadline, which may come late."""
        seconds = self._sandbox.pod["spec"].get("activeDeadlineSeconds")
        if seconds is None or not self._sandbox.began or self._stopping.is_set():
            return
        loop = asyncio.get_running_loop()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = loop.call_at(self._sandbox.began + seconds * self._timing.second, self._too_late)

    def _too_late(self) -> None:
        if not self._stopping.is_set() and not self._view.over:
            self._view = replace(self._view, reason="DeadlineExceeded", message=DEADLINE_TEXT)
            self._stop(0)

    def _stop(self, grace: int) -> None:
        """Begin to bring the pod down; a second wish, shorter or not, changes nothing (measured with containerd)."""
        if not self._stopping.is_set():
            own = self._sandbox.pod["spec"].get("terminationGracePeriodSeconds", 30)
            self._grace = max(grace or own, 1)
            self._stopping.set()

    # -- the life of a pod ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after the pod until its object is gone and nothing of it runs."""
        try:
            if not self._sandbox.containers and not self._view.final and not self._stopping.is_set():
                await self._bring_up()
                if self._stopping.is_set():
                    await pause(self._timing.start)  # the next look at the pod comes a little later
            if self._sandbox.containers and not self._view.final:
                await self._until_over()
            elif not self._view.final:
                if not self._view.over:
                    await self._stopping.wait()
                await self._end_unstarted()
            await self._deleted.wait()
            await pause(self._timing.cleanup)
            self._cluster.delete(PODS, self._sandbox.pod, grace=0)
            await self._gone.wait()
        finally:
            self._sandbox.view = self._view
            if self._deadline is not None:
                self._deadline.cancel()

    async def _stops_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    def _post(self, view: PodView | None = None) -> None:
        """Tell the API server."""
        self._view = view or self._view
        status = pod_status.write
        now, address = self._cluster.clock.node(), self._maker.address

        def change(item: Object) -> None:
            item["status"] = status(item, self._view, self._generation, now, address)

        self._cluster.change(PODS, self._sandbox.pod, change)

    # -- up ------------------------------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Start every container; a deletion is not seen before that, but where an image or a Secret is missing."""
        await pause(self._timing.observe)
        self._sandbox.began = asyncio.get_running_loop().time()
        self._post(replace(self._view, began=self._cluster.clock.node()))
        self._arm()
        await pause(self._timing.sandbox)
        self._post(replace(self._view, sandbox=True))
        for container in self._sandbox.pod["spec"]["containers"]:
            image = await self._image(container)
            if image is None or not await self._start(container, image):
                return

    async def _image(self, container: Object) -> Image | None:
        """Have the image; None where the pod has to end first."""
        name, wanted = container["name"], container["image"]
        if not re.fullmatch(REFERENCE, wanted):
            text = f'Failed to apply default image tag "{wanted}": couldn\'t parse image name "{wanted}"'
            await self._stuck(name, "InvalidImageName", f"{text}: invalid reference format")
            return None
        while True:
            try:
                image = self._cluster.images.find(wanted)
                problem = ""
            except PullFailed as error:
                image, problem = None, f"rpc error: code = NotFound desc = {error}"
            if container.get("imagePullPolicy") == "Never" and (image is None or not image.present):
                text = f'Container image "{wanted}" is not present with pull policy of Never'
                await self._stuck(name, "ErrImageNeverPull", text)
                return None
            if image is not None:
                if not image.present and await self._stops_within(image.pull):
                    return None
                self._event("Pulled", f'Container image "{wanted}" already present on machine')
                return image
            if await self._stops_within(self._timing.pull_failure):
                return None
            self._event("Failed", f'Failed to pull image "{wanted}": {problem}', "Warning")
            self._post(self._view.waiting(name, "ErrImagePull", problem))
            if await self._stops_within(self._timing.pull_backoff):
                return None
            text = f'Back-off pulling image "{wanted}"'
            self._event("BackOff", text)
            self._post(self._view.waiting(name, "ImagePullBackOff", f"{text}: ErrImagePull: {problem}"))
            if await self._stops_within(self._timing.pull_backoff):
                return None

    async def _stuck(self, name: str, reason: str, message: str) -> None:
        if not await self._stops_within(self._timing.pull_failure):
            self._event("Failed", f"Error: {reason}", "Warning")
            self._post(self._view.waiting(name, reason, message))
            await self._stopping.wait()

    async def _start(self, container: Object, image: Image) -> bool:
        """Start one container; False where the pod has to end first."""
        name = container["name"]
        spec = None
        while spec is None:
            try:
                spec = self._maker.make(self._sandbox.pod, container, image)
            except ConfigError as error:
                self._event("Failed", f"Error: {error}", "Warning")
                self._post(self._view.waiting(name, "CreateContainerConfigError", str(error)))
                if await self._stops_within(self._timing.pull_backoff):
                    return False
        await pause(self._timing.start)
        runtime_id = uuid.uuid4().hex * 2
        self._event("Created", f"Container created: {name}")
        try:
            started = await self._cluster.runner.start(spec)
        except StartFailed as error:
            self._failed_to_start(name, runtime_id, spec, str(error))
            return True
        self._sandbox.containers[name] = started
        self._generation = self._sandbox.pod["metadata"].get("generation", 1)
        self._event("Started", f"Container started: {name}")
        at = self._cluster.clock.node(started.started_at)
        view = ContainerView("running", {"startedAt": at}, runtime_id, spec.user or 0, spec.group or 0)
        self._post(self._view.set(name, view))
        return True

    def _failed_to_start(self, name: str, runtime_id: str, spec: ContainerSpec, problem: str) -> None:
        text = (
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create "
            f'failed: unable to start container process: error during container init: exec: "{spec.argv[0]}": {problem}'
        )
        self._event("Failed", f"Error: {text}", "Warning")
        words = {
            "exitCode": 128, "reason": "StartError", "message": text, "startedAt": stamp(0),
            "finishedAt": self._cluster.clock.node(), "containerID": f"containerd://{runtime_id}",
        }  # fmt: skip
        self._view = self._view.set(name, ContainerView("terminated", words, runtime_id))

    # -- down ----------------------------------------------------------------------------------------------------

    async def _until_over(self) -> None:
        """Wait for the containers' own end or bring them down, and tell."""
        ends = asyncio.ensure_future(self._all_ended())
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            waiting: list[asyncio.Future[Any]] = [ends, stop]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not ends.done():
                await self._bring_down()
            await ends
            await pause(self._timing.exit_report)
            for name, container in self._sandbox.containers.items():
                words = await self._ended(name, container)
                self._view = self._view.set(name, replace(self._view.containers[name], state="terminated", words=words))
            if not self._stopping.is_set():
                self._post()
                await self._stops_within(self._timing.sandbox_stop)
            self._post(replace(self._view, sandbox=False, final=True))
        finally:
            stop.cancel()
            ends.cancel()

    async def _all_ended(self) -> None:
        for container in self._sandbox.containers.values():
            await container.wait()

    async def _bring_down(self) -> None:
        """Hooks, SIGTERM, grace, SIGKILL."""
        await pause(self._timing.observe)
        self._generation = self._sandbox.pod["metadata"].get("generation", 1)
        self._post()
        await asyncio.gather(*(self._kill(*one) for one in self._sandbox.containers.items()))

    async def _kill(self, name: str, container: Container) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._grace * self._timing.second
        self._event("Killing", f"Stopping container {name}")
        spec = next(one for one in self._sandbox.pod["spec"]["containers"] if one["name"] == name)
        hook = (spec.get("lifecycle") or {}).get("preStop")
        if hook and (problem := await pre_stop(self._cluster, hook, container, end - loop.time())):
            self._event("FailedPreStopHook", problem, "Warning")
        end = max(end, loop.time() + self._timing.minimum_grace * self._timing.second)
        container.terminate()
        try:
            async with asyncio.timeout_at(end):
                await container.wait()
        except TimeoutError:
            container.kill()

    async def _ended(self, name: str, container: Container) -> Object:
        end: Exit = await container.wait()
        view = self._view.containers[name]
        reason = "OOMKilled" if end.oom else "Error" if end.code else "Completed"
        words: Object = {"exitCode": end.code, "reason": reason}
        spec = next(one for one in self._sandbox.pod["spec"]["containers"] if one["name"] == name)
        message = container.message()
        if not message and end.code and spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = b"".join(line.data for line in container.log.lines()[-80:])[-2048:].decode(errors="replace")
        if message:
            words["message"] = message
        return words | {
            "startedAt": self._cluster.clock.node(container.started_at),
            "finishedAt": self._cluster.clock.node(end.at),
            "containerID": f"containerd://{view.id}",
        }

    async def _end_unstarted(self) -> None:
        """End a pod of which no container ran."""
        if not self._view.over:
            await pause(self._timing.never_started / 2)
            self._generation = self._sandbox.pod["metadata"].get("generation", 1)
            names = list(self._view.containers)
            fresh = replace(self._view, containers={name: ContainerView() for name in names})
            self._post(replace(fresh, began=fresh.began or self._cluster.clock.node()))
            await pause(self._timing.observe)
            self._post(replace(self._view, sandbox=False))
            lost = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": pod_status.LOST}
            words = lost | {"startedAt": None, "finishedAt": None}
            ended = {name: ContainerView("terminated", words) for name in names}
            self._view = replace(self._view, containers=ended)
        await pause(self._timing.never_started)
        self._post(replace(self._view, sandbox=False, final=True))

    def _event(self, reason: str, message: str, kind: str = "Normal") -> None:
        self._cluster.event(self._sandbox.pod, reason, message, SOURCE, kind)
