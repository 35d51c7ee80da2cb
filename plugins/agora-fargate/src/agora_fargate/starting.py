"""How a workload is started: one RunTask, whose token makes every repetition the same task."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agora.errors import DispatchConflict, ProviderError, StopRequested, SubmitRefused, Unreachable
from agora.hookspecs import Check
from agora.logs import PROGRESS
from agora.model.spec import Spec

from agora_fargate import budget, definition, story
from agora_fargate.api import Refusal
from agora_fargate.config import FargateConfig
from agora_fargate.definitions import Definitions
from agora_fargate.inline import Inline, Own
from agora_fargate.names import Item, Mark
from agora_fargate.tasks import Tasks

progress = logging.getLogger(PROGRESS)

#: A token lives for an hour after the end of a short task (ECS_Idempotency): RunTask is not sent again later.
RESEND_SECONDS = 55 * 60
#: Seconds for one RunTask with its repetitions, and between two looks for capacity.
_RUN_SECONDS = 15.0
_PAUSE = 1.0
#: A new task may be missing from an answer for so long; seconds.
_SHOWN = 5.0
_TRIES = 3
_INACTIVE = re.compile(
    r"task ?definition.*(inactive|not found|does not exist|delete)|unable to describe", re.IGNORECASE
)
#: What passes: no machine, no address, or the account's quota.
_PASSING = re.compile(
    r"^RESOURCE|^AGENT$|capacity is unavailable|insufficient capacity|capacity limit|limit on the number of tasks"
    r"|quota|try again later",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"limit on the number|quota", re.IGNORECASE)
_REASONS = {
    "ClusterNotFoundException": "cluster_missing",
    "BlockedException": "account_blocked",
    "PlatformUnknownException": "platform_unknown",
    "PlatformTaskDefinitionIncompatibilityException": "platform_unknown",
    "UnsupportedFeatureException": "unsupported",
}


@contextmanager
def _nothing_started(sent: bool = False) -> Iterator[None]:
    """Tell of a failure what is known of RunTask: what was sent to make ready for it starts nothing."""
    try:
        yield
    except ProviderError as error:
        error.sent = sent
        raise


class Starter:
    """Runs tasks.

    Parameters:
        tasks: where.
        definitions: where task definitions are kept.
        inline: where inline secrets are kept.
        config: the target.
        installation: whose.
    """

    def __init__(
        self, tasks: Tasks, definitions: Definitions, inline: Inline, config: FargateConfig, installation: str
    ) -> None:
        self._tasks = tasks
        self._api = tasks.api
        self._definitions = definitions
        self._inline = inline
        self._config = config
        self._installation = installation
        self._first_sent: dict[str, tuple[float, float]] = {}
        self._making: set[str] = set()
        self._lock = threading.Lock()

    def is_making(self, dispatch_id: str) -> bool:
        """Whether this process is about to start that dispatch."""
        return dispatch_id in self._making

    def start(self, dispatch_id: str, spec: Spec, check: Check) -> Item:
        """Run the task of a dispatch, or return the one that is there.

        Raises:
            DispatchConflict: there is one with another spec.
            SubmitRefused: AWS refuses it, or has no capacity for `capacity_patience`.
            StopRequested: a stop was requested before it could start.
        """
        mark = Mark(dispatch_id, self._installation, spec.digest(), self._config.stop_timeout(spec.grace))
        request = {"cluster": self._tasks.cluster, **definition.run_request(mark, spec, self._config)}
        self._making.add(dispatch_id)
        try:
            own = self._own(dispatch_id, spec, check)
            body = definition.task_definition(spec, self._config, self._api.region, own)
            return self._start(mark, body, request, check)
        except (StopRequested, SubmitRefused):
            if spec.secrets:
                self._inline.give_up(dispatch_id, self._installation)
            raise
        finally:
            self._making.discard(dispatch_id)

    def _own(self, dispatch_id: str, spec: Spec, check: Check) -> Own | None:
        """Put inline secrets where ECS can read them; null where there are none."""
        if not spec.secrets:
            return None
        check()
        with _nothing_started():
            return self._inline.make(dispatch_id, self._installation, spec, check)

    def _start(self, mark: Mark, body: Item, request: Item, check: Check) -> Item:
        give_up, sent = time.monotonic() + self._config.capacity_patience, False
        stale = 0
        while True:
            check()
            with _nothing_started(sent):
                revision = self._definitions.ensure(body, check)
            check()
            try:
                why = self._run(mark, {**request, "taskDefinition": revision}, check)
            except Refusal as error:
                if _INACTIVE.search(error.words) and stale < _TRIES:
                    stale += 1
                    self._definitions.forget(revision)
                    continue
                if not _PASSING.search(error.words):
                    reason = _REASONS.get(error.code, "task_refused")
                    raise SubmitRefused(str(error), reason=reason) from error
                why = str(error)
            except ProviderError as error:
                error.sent = error.sent or sent
                raise
            if not isinstance(why, str):
                return why
            sent = True
            if time.monotonic() + _PAUSE > give_up:
                raise SubmitRefused(why, reason="quota_exceeded" if _QUOTA.search(why) else "no_capacity")
            progress.info("dispatch %s waits for capacity: %s", mark.id, why)
            budget.sleep(_PAUSE, check)

    def _run(self, mark: Mark, request: Item, check: Check) -> Item | str:
        """Send RunTask; return the task, or why ECS has no room for it now."""
        self._count(mark.id)
        try:
            answer = self._api.call("RunTask", seconds=_RUN_SECONDS, check=check, **request)
        except Refusal as error:
            if error.code != "ConflictException":
                raise
            return self._taken(mark, error)
        tasks: list[Item] = answer.get("tasks") or []
        if tasks:
            return tasks[0]
        failures: list[Item] = answer.get("failures") or []
        if not failures:
            raise ProviderError(f"RunTask started no task for {mark.id} and does not say why")
        why = "; ".join(
            f"{one.get('reason')}: {one.get('detail') or one.get('arn') or ''}".strip(": ") for one in failures
        )
        if all(_PASSING.search(str(one.get("reason"))) for one in failures):
            return why
        raise SubmitRefused(why, reason=story.never_started_reason(why))

    def _count(self, dispatch_id: str) -> None:
        """Refuse to send again what a forgotten token would start a second time."""
        now = (time.monotonic(), time.time())
        with self._lock:
            first = self._first_sent.setdefault(dispatch_id, now)
            for id in [id for id, (at, _) in self._first_sent.items() if now[0] - at > 2 * RESEND_SECONDS]:
                if id != dispatch_id:
                    del self._first_sent[id]
        if max(now[0] - first[0], now[1] - first[1]) > RESEND_SECONDS:
            raise Unreachable(f"{dispatch_id} was sent too long ago to be sent again without running twice")

    def _taken(self, mark: Mark, error: Refusal) -> Item:
        """Return the task that has the token, where it is the same workload by its marks."""
        arns = [str(arn) for arn in error.more.get("resourceIds") or []]
        until = time.monotonic() + _SHOWN
        while True:
            for task in self._tasks.describe(arns).values() if arns else ():
                found = Mark.of(task)
                if found is not None and (found.id, found.installation, found.digest) == (
                    mark.id, mark.installation, mark.digest,
                ):  # fmt: skip
                    return task
                raise DispatchConflict(f"{mark.id} was dispatched with another spec: {task['taskArn']}")
            if not arns or time.monotonic() > until:
                raise DispatchConflict(f"{mark.id} was dispatched with another request: {error.words}")
            time.sleep(_PAUSE / 4)
