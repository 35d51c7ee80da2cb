"""What ECS says about a task, as an observation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agora.model.observation import EndedBy, Phase
from agora_fargate import names, story
from agora_fargate.names import Mark

MARK = Mark("01m7", "an-installation", "digest", 30)
BORN = datetime(2026, 1, 1, tzinfo=UTC)
OURS = "agora 01m7: me via cli: enough"


def task(status: str = "RUNNING", container: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    environment = [{"name": name, "value": value} for name, value in MARK.variables().items()]
    return {
        "taskArn": "arn:aws:ecs:eu-central-1:1:task/default/abc",
        "taskDefinitionArn": "arn:aws:ecs:eu-central-1:1:task-definition/agora-x:7",
        "startedBy": MARK.id,
        "lastStatus": status,
        "desiredStatus": "RUNNING",
        "createdAt": BORN,
        "containers": [{"name": "other"}, {"name": names.CONTAINER, **(container or {})}],
        "overrides": {"containerOverrides": [{"name": names.CONTAINER, "environment": environment}]},
        **fields,
    }


def ended(
    code: int | None, stop_code: str, reason: str, /, *, ran: bool = True, took: float = 1, **container: Any
) -> dict[str, Any]:
    """Describe a task that ended `took` seconds after it was to stop."""
    asked = BORN + timedelta(seconds=100)
    fields: dict[str, Any] = {"stoppingAt": asked, "executionStoppedAt": asked + timedelta(seconds=took)}
    if ran:
        fields["startedAt"] = BORN + timedelta(seconds=20)
    told = {**container} if code is None else {"exitCode": code, **container}
    return task("STOPPED", told, desiredStatus="STOPPED", stopCode=stop_code, stoppedReason=reason, **fields)


@pytest.mark.parametrize("status", ["PROVISIONING", "PENDING", "ACTIVATING", "DEPROVISIONING"])
def test_what_has_not_started_is_pending(status: str) -> None:
    assert story.look(task(status)).phase is Phase.PENDING


@pytest.mark.parametrize("status", ["RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING"])
def test_what_has_started_runs_until_it_is_stopped(status: str) -> None:
    seen = story.look(task(status, {"exitCode": 0, "lastStatus": "STOPPED"}, startedAt=BORN, desiredStatus="STOPPED"))
    assert (seen.phase, seen.started_at, seen.effective_grace) == (Phase.RUNNING, BORN, 30)
    assert seen.exit_code is None


def test_a_running_task_without_a_time_of_its_start_runs() -> None:
    assert story.look(task("RUNNING")).phase is Phase.RUNNING


def test_a_running_task_without_its_agent_is_not_reachable() -> None:
    seen = story.look(task(startedAt=BORN, connectivity="DISCONNECTED"))
    assert (seen.phase, seen.reachable, seen.reason) == (Phase.RUNNING, False, "agent_away")


@pytest.mark.parametrize("code", [0, 1, 42, 137, 143])
def test_an_own_end_keeps_its_code_and_was_reached_by_no_stop(code: int) -> None:
    seen = story.look(ended(code, "EssentialContainerExited", "Essential container in task exited"))
    assert (seen.phase, seen.exit_code, seen.stop_reached) == (Phase.ENDED, code, False)
    assert (seen.ended_by, seen.forced, seen.oom, seen.never_started) == (None, None, None, False)
    assert seen.ended_at == BORN + timedelta(seconds=101)


@pytest.mark.parametrize(
    ("code", "took", "forced"), [(0, 3, False), (42, 31, False), (143, 1, False), (137, 30.4, True), (137, 12, False)]
)
def test_who_was_killed_shows_in_code_and_time_together(code: int, took: float, forced: bool) -> None:
    seen = story.look(ended(code, "UserInitiated", OURS, took=took))
    assert (seen.exit_code, seen.forced, seen.evidence) == (code, forced, "inferred")
    assert (seen.ended_by, seen.stop_reached) == (None, None)


def test_without_times_nobody_knows_whether_it_was_killed() -> None:
    looked = ended(137, "UserInitiated", OURS)
    del looked["stoppingAt"]
    assert (story.look(looked).forced, story.look(looked).evidence) == (None, None)


@pytest.mark.parametrize(
    ("stop_code", "reason"),
    [
        ("UserInitiated", "Task stopped by user"),
        ("UserInitiated", "agora another: x"),
        ("SpotInterruption", "Your Spot Task was interrupted."),
        ("TerminationNotice", "Task is scheduled for termination."),
        ("ServiceSchedulerInitiated", "Scaling activity"),
    ],
)
def test_a_stop_that_was_not_ours_is_told_in_ecs_words(stop_code: str, reason: str) -> None:
    seen = story.look(ended(0, stop_code, reason))
    assert (seen.ended_by, seen.message, seen.exit_code) == (EndedBy.EXTERNAL, reason, 0)


def test_a_host_that_failed_leaves_no_exit_code_and_no_guess() -> None:
    seen = story.look(ended(None, "InfrastructureHealth", "The underlying infrastructure became unhealthy."))
    assert (seen.phase, seen.exit_code, seen.never_started) == (Phase.ENDED, None, False)
    assert seen.ended_by is EndedBy.EXTERNAL


def test_a_kill_for_lack_of_memory_is_no_kill_of_ours() -> None:
    words = "OutOfMemoryError: Container killed due to memory usage"
    seen = story.look(ended(137, "EssentialContainerExited", "Essential container in task exited", reason=words))
    assert (seen.exit_code, seen.oom, seen.reason, seen.forced) == (137, True, "oom_killed", None)
    assert words in (seen.message or "")
    during = story.look(ended(137, "UserInitiated", OURS, took=30, reason=words))
    assert (during.oom, during.forced) == (True, False)


@pytest.mark.parametrize(
    ("reason", "container", "word"),
    [
        ("CannotPullContainerError: pull image manifest has been retried 1 time(s): not found", None, "image_missing"),
        ("Task failed to start", "CannotPullContainerError: access denied", "image_missing"),
        (
            "Task failed to start",
            'CannotStartContainerError: exec: "/nope": stat /nope: no such file or directory',
            "program_not_found",
        ),
        ("CannotCreateContainerError: mkdir", None, "start_failed"),
        ("ResourceInitializationError: unable to pull secrets or registry auth", None, "resource_initialization"),
        ("Capacity is unavailable at this time. Please try again later", None, "no_capacity"),
        ("Timeout waiting for network interface provisioning to complete.", None, "start_failed"),
    ],
)
def test_a_task_that_never_started_says_why_in_ecs_words(reason: str, container: str | None, word: str) -> None:
    more: dict[str, Any] = {} if container is None else {"reason": container}
    seen = story.look(ended(None, "TaskFailedToStart", reason, ran=False, **more))
    assert (seen.phase, seen.never_started, seen.exit_code, seen.reason) == (Phase.ENDED, True, None, word)
    assert (container or reason) in (seen.message or "")


def test_a_stop_before_the_start_is_never_started_and_not_zero() -> None:
    seen = story.look(ended(None, "UserInitiated", OURS, ran=False))
    assert (seen.never_started, seen.exit_code, seen.reason, seen.ended_by) == (True, None, "never_started", None)
    theirs = story.look(ended(None, "UserInitiated", "Task stopped by user", ran=False))
    assert (theirs.never_started, theirs.ended_by) == (True, EndedBy.EXTERNAL)


def test_long_words_are_cut() -> None:
    seen = story.look(ended(None, "TaskFailedToStart", "x" * 5000, ran=False))
    assert len(seen.message or "") == 1000
