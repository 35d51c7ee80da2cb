"""The hooks of the Fargate provider."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from agora.errors import PermissionDenied, ProviderError, Unreachable
from agora.hookspecs import Check, WatchSink, hookimpl
from agora.model.cause import Cause, Via
from agora.model.ids import MAX_ID_LENGTH, check_dispatch_id
from agora.model.observation import Handle, LogChunk, Observation, Owned, Phase, ReceiptKind, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation

from agora_fargate import definition, logs, names, stopping, story, watch
from agora_fargate.api import Api, Refusal
from agora_fargate.budget import RATES
from agora_fargate.config import FargateConfig
from agora_fargate.connect import Connection
from agora_fargate.definitions import Definitions
from agora_fargate.events import Queue
from agora_fargate.inline import Inline
from agora_fargate.names import Item
from agora_fargate.released import Released
from agora_fargate.starting import Starter
from agora_fargate.tasks import Ref, Tasks

logger = logging.getLogger(__name__)

#: The cluster's ARN is asked for again after this time, and before anything is called absent; seconds.
_IDENTITY_SECONDS = 60.0
#: A new task may be missing from an answer for so long: ECS is eventually consistent. Seconds.
SETTLE_SECONDS = 10.0
#: Ends that are remembered, for the last lines of their logs.
_REMEMBERED = 1000


@dataclass(frozen=True)
class _Parts:
    api: Api
    tasks: Tasks
    inline: Inline
    starter: Starter


class FargateProvider:
    """Tasks of one cluster; nothing is sent, and no SDK imported, before a hook needs it.

    Parameters:
        target_name: the target's name.
        config: the target's configuration.
        installation: the store that it works for.
    """

    def __init__(self, target_name: str, config: FargateConfig, installation: Installation) -> None:
        self._target = target_name
        self._config = config
        self._installation = installation.id
        self._released = Released(installation.directory / "fargate" / "released")
        self._parts: _Parts | None = None
        self._making = threading.Lock()
        self._proof: tuple[str, float] | None = None
        self._new: dict[str, float] = {}
        self._ends: dict[str, float] = {}
        self._closed = threading.Event()
        self._told = False

    @property
    def _made(self) -> _Parts:
        """The parts that need AWS, made when one is first used: the SDK's import takes a while."""
        with self._making:
            if self._parts is None:
                connection = Connection(self._target, self._config, names.agent(self._installation))
                api = Api(connection, self._config.share)
                tasks = Tasks(api, self._config.cluster)
                definitions = Definitions(api)
                inline = Inline(api, definitions)
                starter = Starter(tasks, definitions, inline, self._config, self._installation)
                self._parts = _Parts(api, tasks, inline, starter)
            return self._parts

    @property
    def _tasks(self) -> Tasks:
        return self._made.tasks

    @property
    def _api(self) -> Api:
        return self._made.api

    @hookimpl
    def check(self, spec: Spec) -> None:
        """Refuse what no task of this target could honour, and a target without a way to AWS."""
        definition.check(spec.with_worker("x" * MAX_ID_LENGTH), self._config)
        _ = self._made

    @hookimpl
    def identity(self) -> str:
        """Return the ARN of the cluster."""
        return self._identity(fresh=True)

    @hookimpl
    def dispatch(self, id: str, spec: Spec, check: Check) -> Handle:
        """Run the task, or return the one that was run under this id."""
        definition.check(spec, self._config)
        check()
        try:
            backend = self._identity()
        except Unreachable as error:
            raise Unreachable(str(error), sent=False) from error
        task = self._made.starter.start(check_dispatch_id(id), spec, check)
        now = time.monotonic()
        self._new = {arn: at for arn, at in self._new.items() if now - at < SETTLE_SECONDS}
        self._new[task["taskArn"]] = now
        handle = Ref(id, self._installation, task["taskArn"]).handle(backend)
        return handle.model_copy(update={"first": self._look(task)})

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        """Send StopTask, whose grace is the task definition's."""
        ref = self._mine(handle)
        receipt = stopping.stop(self._tasks, self._config, ref, grace, cause)
        if receipt.kind is ReceiptKind.NOT_FOUND:
            self._prove(handle)
            if self._is_new(ref.arn):
                raise Unreachable(f"ECS does not show {handle.id} yet")
        return receipt

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Describe the tasks, a hundred at a time."""
        return self._observe(handles, background=False)

    def _observe(self, handles: Sequence[Handle], *, background: bool) -> list[Observation]:
        if not handles:
            return []
        backend = self._identity()
        mine = {handle.id: Ref.of(handle) for handle in handles if handle.backend == backend}
        if not mine:
            raise self._elsewhere(handles[0])
        found = self._tasks.describe(sorted({ref.arn for ref in mine.values()}), background=background)
        seen = {id: self._seen(ref.arn, found.get(ref.arn)) for id, ref in mine.items()}
        if any(one.phase is Phase.ABSENT for one in seen.values()) and self._identity(fresh=True) != backend:
            raise self._elsewhere(handles[0])
        elsewhere = Observation(phase=Phase.RUNNING, reachable=False, reason="another_backend")
        return [seen[handle.id] if handle.backend == backend else elsewhere for handle in handles]

    def _seen(self, arn: str, task: Item | None) -> Observation:
        if task is None:
            return Observation(phase=Phase.PENDING if self._is_new(arn) else Phase.ABSENT)
        return self._look(task)

    def _look(self, task: Item) -> Observation:
        """Say how a task is, and note when its end was first seen."""
        seen = story.look(task)
        if seen.phase is Phase.ENDED:
            if len(self._ends) >= _REMEMBERED:
                self._ends.clear()
            self._ends.setdefault(task["taskArn"], time.monotonic())
        return seen

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Look for a task with the marks of this dispatch, among those that run and those that ECS still shows."""
        check_dispatch_id(id)
        if self._made.starter.is_making(id):
            raise Unreachable(f"a start of {id} is under way")
        backend = self._identity(fresh=True)
        live = self._own(id, self._tasks.started_by(id))
        found = live or self._own(id, [arn for arn in self._tasks.stopped() if arn not in self._released])
        if not found:
            return None
        first, *others = self._by_age(found)
        for copy in others:
            if copy in live:
                self._end_copy(id, copy)
        return Ref(id, self._installation, first).handle(backend)

    def _own(self, id: str, arns: Sequence[str]) -> list[str]:
        wanted = (id, self._installation)
        return [arn for arn, mark in self._tasks.marks(arns).items() if (mark.id, mark.installation) == wanted]

    def _by_age(self, arns: Sequence[str]) -> list[str]:
        if len(arns) < 2:
            return list(arns)
        found = self._tasks.describe(arns)
        return sorted(found, key=lambda arn: (_created(found[arn]), arn))

    def _end_copy(self, id: str, arn: str) -> None:
        """Stop a task that runs although another one is this dispatch's."""
        logger.warning("dispatch %s: %s is a second copy of the workload and is stopped", id, arn)
        cause = Cause(actor="agora", via=Via.POLICY, policy="second_copy")
        try:
            self._api.call("StopTask", cluster=self._tasks.cluster, task=arn, reason=names.reason(id, cause))
        except Refusal as error:
            logger.warning("dispatch %s: the second copy cannot be stopped: %s", id, error)

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List the tasks that run, or that ECS still shows and that were not released, and secrets without a task."""
        backend = self._identity(fresh=True)
        arns = list(dict.fromkeys((*self._tasks.running(), *self._tasks.stopped())))
        mine = {arn: mark for arn, mark in self._tasks.marks(arns).items() if mark.installation == installation}
        owned = []
        for arn, task in self._tasks.describe(list(mine)).items():
            ended = story.look(task).phase is Phase.ENDED
            if ended and arn in self._released:
                continue
            mark = mine[arn]
            owned.append(
                Owned(
                    handle=Ref.to(mark, task).handle(backend),
                    installation=installation,
                    created_at=_created(task),
                    spec_digest=mark.digest,
                    ended=ended,
                )
            )
        shown = {mark.id for mark in mine.values()}
        return owned + [one for one in self._left(installation, backend) if one.handle.id not in shown]

    def _left(self, installation: str, backend: str) -> Iterator[Owned]:
        """Yield what still has inline secrets, as something that has ended.

        Where they cannot be listed, for lack of a right or of a way to Secrets Manager, the tasks are all the same.
        """
        try:
            left = self._made.inline.left(installation)
        except (PermissionDenied, Unreachable) as error:
            if not self._told:
                logger.warning("inline secrets that were left behind are not listed: %s", error)
            self._told = True
            return
        for id, (made, digest) in left.items():
            handle = Ref(id, installation, "").handle(backend)
            yield Owned(handle=handle, installation=installation, created_at=made, spec_digest=digest, ended=True)

    @hookimpl
    def watch(self, sink: WatchSink) -> None:
        """Describe the live tasks as often as the budget allows; events of a queue say where to look at once."""
        queue = None if self._config.queue_url is None else Queue(self._api, self._config.queue_url)
        # The backstop of the core, and looks for which somebody waits, need the other half.
        calls = RATES["describe"].per_second * self._config.share / 2
        plan = watch.Plan(calls, watch.LATER if queue is None else watch.BACKSTOP)

        def observe(handles: Sequence[Handle]) -> Sequence[Observation]:
            return self._observe(handles, background=True)

        watch.run(sink, observe, plan, self._closed.is_set, None if queue is None else queue.listen)

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Read the log stream of the task."""
        ref = self._mine(handle)
        if not ref.arn:
            return iter(())
        stream = logs.Stream(self._api, self._config.log_group, names.log_stream(ref.arn), since)
        if follow:
            return logs.follow(stream, tail, self._config.log_lag, lambda: self._is_over(handle))
        logs.wait(self._ends.get(ref.arn), self._config.log_lag)
        return logs.read(stream, tail)

    def _is_over(self, handle: Handle) -> bool:
        (seen,) = self._observe([handle], background=True)
        return seen.phase in (Phase.ENDED, Phase.ABSENT)

    @hookimpl
    def release(self, handle: Handle) -> None:
        """Delete the log and the secrets of a dispatch that has ended; ECS itself forgets a task after an hour."""
        ref = self._mine(handle)
        (seen,) = self._observe([handle], background=False)
        if seen.phase not in (Phase.ENDED, Phase.ABSENT):
            raise ProviderError(f"{handle.id} has not ended", sent=False, retryable=True)
        if not ref.arn or names.is_own_family(str(seen.native.get("task_definition"))):
            self._made.inline.remove(ref.id, ref.installation)
        if ref.arn:
            logs.remove(self._api, self._config.log_group, names.log_stream(ref.arn))
            self._released.add(ref.arn)

    @hookimpl
    def remove_secrets(self, id: str) -> None:
        """Remove the inline secrets of a dispatch that has ended, and its task definition."""
        if self._made.starter.is_making(check_dispatch_id(id)):
            raise Unreachable(f"a start of {id} is under way")
        self._made.inline.remove(id, self._installation)

    @hookimpl
    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        if self._parts is not None:
            self._parts.api.close()

    def _is_new(self, arn: str) -> bool:
        """Whether this process started a task a moment ago, so that ECS may not show it yet."""
        made = self._new.get(arn)
        return made is not None and time.monotonic() - made < SETTLE_SECONDS

    # -- identity ----------------------------------------------------------------------------------------------

    def _identity(self, *, fresh: bool = False) -> str:
        known = self._proof
        if known is not None and not fresh and time.monotonic() - known[1] < _IDENTITY_SECONDS:
            return known[0]
        cluster = self._config.cluster
        try:
            clusters = self._api.call("DescribeClusters", clusters=[cluster]).get("clusters") or []
        except Refusal as error:
            raise Unreachable(f"cluster {cluster!r} ({self._api.source}): {error}", sent=False) from error
        found = next((one for one in clusters if one.get("status") != "INACTIVE"), None)
        if found is None:
            raise Unreachable(f"there is no cluster {cluster!r} ({self._api.source})", sent=False)
        arn: str = found["clusterArn"]
        self._proof = (arn, time.monotonic())
        return arn

    def _elsewhere(self, handle: Handle) -> Unreachable:
        return Unreachable(
            f"{handle.id} is in {handle.backend}, which is not cluster {self._config.cluster!r} of {self._api.source}",
            sent=False,
        )

    def _prove(self, handle: Handle) -> None:
        """Make sure that this is the backend of a handle, now."""
        if self._identity(fresh=True) != handle.backend:
            raise self._elsewhere(handle)

    def _mine(self, handle: Handle) -> Ref:
        if self._identity() != handle.backend:
            raise self._elsewhere(handle)
        return Ref.of(handle)


def _created(task: Item) -> datetime:
    at: datetime | None = task.get("createdAt") or task.get("startedAt")
    if at is None:
        raise ProviderError(f"ECS tells no time of creation of {task.get('taskArn')}")
    return at
