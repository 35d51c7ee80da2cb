"""What goes wrong on purpose on the emulated ECS, its throttles, and its logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agora_conformance.emulators.ecs import EcsEmulator, Throttle, Timing
from botocore.exceptions import ConnectionClosedError  # type: ignore[import-untyped]
from ecs_account import GROUP, PATIENCE, READY, STUBBORN, Ecs, Object, refused

INVALID = "InvalidParameterException"


@pytest.fixture(scope="module")
def shared() -> Iterator[Ecs]:
    """One account for all tests of this module."""
    with EcsEmulator(timing=Timing().hurried(0.002), log_groups=(GROUP,), throttle=False) as emulator:
        made = Ecs(emulator)
        yield made
        made.close()


@pytest.fixture
def account(shared: Ecs) -> Iterator[Ecs]:
    """The account, without faults before and after."""
    yield shared
    shared.emulator.faults.clear()


def test_refusals(account: Ecs) -> None:
    faults, list_tasks = account.emulator.faults, account.ecs.list_tasks
    faults.throttle(2, action="ListTasks")
    for _ in range(2):
        refused(list_tasks, "ThrottlingException", "Rate exceeded")
    account.ecs.list_clusters()
    list_tasks()
    faults.fail(1)
    answer = refused(list_tasks, "ServerException", "Service Unavailable")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 500
    faults.fail(None, code=503)
    refused(list_tasks, "ServiceUnavailableException", "Service Unavailable")
    faults.clear()
    faults.deny(1, action="ListTasks")
    refused(list_tasks, "AccessDeniedException", "not authorized to perform: ecs:ListTasks")
    faults.expire_credentials(1)
    refused(list_tasks, "ExpiredTokenException", "expired")
    faults.throttle(None, text="other-cluster")
    faults.throttle(None, service="logs")
    list_tasks()
    refused(list_tasks, "ThrottlingException", "Rate exceeded", cluster="other-cluster")
    faults.mend("other-cluster")
    refused(list_tasks, "ClusterNotFoundException", "not found", cluster="other-cluster")


def test_cut_connections(account: Ecs) -> None:
    faults, request = account.emulator.faults, account.request(account.definition(READY))
    faults.cut(1, action="RunTask")
    with pytest.raises(ConnectionClosedError):
        account.ecs.run_task(**request, startedBy="cut-before")
    assert account.ecs.list_tasks(startedBy="cut-before")["taskArns"] == []
    faults.cut(1, after=True, action="RunTask")
    with pytest.raises(ConnectionClosedError):
        account.ecs.run_task(**request, startedBy="cut-after", clientToken="cut-after")
    (arn,) = account.ecs.list_tasks(startedBy="cut-after")["taskArns"]
    (task,) = account.ecs.run_task(**request, startedBy="cut-after", clientToken="cut-after")["tasks"]
    assert task["taskArn"] == arn
    account.ecs.stop_task(task=arn)
    assert len(faults.requests("RunTask", "cut-after")) == 2


def test_slow_and_late(account: Ecs) -> None:
    faults = account.emulator.faults
    for fault in (faults.slow, faults.stall):
        fault(0.3, action="ListTasks")
        before = time.monotonic()
        account.ecs.list_tasks()
        assert time.monotonic() - before >= 0.3


def test_run_task_that_cannot_start_a_task(account: Ecs) -> None:
    faults, run, request = account.emulator.faults, account.ecs.run_task, account.request(account.definition(READY))
    faults.fail_placement()
    found = run(**request, clientToken="placed")
    assert found["tasks"] == []
    assert [one["reason"] for one in found["failures"]] == [
        "Capacity is unavailable at this time. Please try again later or in a different availability zone"
    ]
    faults.throttle_network()
    refused(run, INVALID, "Rate exceeded (ErrorCode: Throttling)", **request)
    faults.throttle_provisioning()
    refused(run, "ClientException", "Tasks provisioning capacity limit exceeded.", **request)
    faults.fail_start()
    (task,) = run(**request, clientToken="placed")["tasks"]
    task = account.reaches(task["taskArn"], "STOPPED")
    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"] == "Timeout waiting for network interface provisioning to complete."
    assert "exitCode" not in task["containers"][0]


def test_eventual_consistency(account: Ecs) -> None:
    faults = account.emulator.faults
    faults.hide_created(600, stop=True)
    arn = account.start(READY, until="", startedBy="hidden")
    assert [one["reason"] for one in account.ecs.describe_tasks(tasks=[arn])["failures"]] == ["MISSING"]
    assert account.ecs.list_tasks(startedBy="hidden")["taskArns"] == []
    refused(account.ecs.stop_task, INVALID, "The referenced task was not found", task=arn)
    faults.hide_created(600)
    assert account.ecs.stop_task(task=arn)["task"]["taskArn"] == arn
    faults.hide_created(0)
    assert account.task(arn)["desiredStatus"] == "STOPPED"
    account.reaches(arn, "STOPPED")

    arn = account.start(READY)
    running = time.monotonic()
    time.sleep(0.5)  # it runs for that long at least
    ran = time.monotonic() - running
    account.ecs.stop_task(task=arn)
    account.reaches(arn, "STOPPED")

    def told_as_it_was() -> bool:
        asked = time.monotonic()
        faults.lag(asked - running)
        status = account.task(arn)["lastStatus"]
        # An answer that took longer is about a later moment.
        late = time.monotonic() - asked > ran
        assert late or status == "RUNNING"
        return not late

    account.until(told_as_it_was)
    faults.lag(0)
    assert account.task(arn)["lastStatus"] == "STOPPED"


def test_a_clock_that_is_ahead(account: Ecs) -> None:
    account.emulator.faults.skew(3600)
    task = account.task(account.start("true", until="STOPPED"))
    assert task["createdAt"].timestamp() > time.time() + 3000
    assert task["stoppedAt"] >= task["createdAt"]


# -- throttles ---------------------------------------------------------------------------------------------------


def test_the_published_buckets() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])

    def passes(action: str, tries: int, **about: int) -> int:
        return sum(throttle.admits("ecs", action, **about) for _ in range(tries))

    assert passes("RegisterTaskDefinition", 30) == 20
    assert passes("DescribeTasks", 60) + passes("ListTasks", 60) == 100
    assert passes("StopTask", 120) == 100
    now[0] = 1.0
    assert passes("RegisterTaskDefinition", 30) == 1
    assert passes("DescribeTasks", 120) == 20
    assert passes("StopTask", 120) == 40
    now[0] = 1000.0
    assert passes("RunTask", 120, launches=1) == 20
    assert passes("StopTask", 120) == 80
    now[0] = 2000.0
    assert passes("RunTask", 20, launches=10) == 10
    assert throttle.refused["RunTask"] == 110
    now[0] = 3000.0
    assert sum(throttle.admits("secretsmanager", "CreateSecret") for _ in range(60)) == 50
    assert throttle.admits("secretsmanager", "GetSecretValue")
    assert throttle.admits("secretsmanager", "PutSecretValue")


def test_the_buckets_hold_over_http() -> None:
    with EcsEmulator(timing=Timing().hurried(0.002)) as emulator:
        made = Ecs(emulator)
        for _ in range(20):
            made.ecs.create_cluster()
        refused(made.ecs.create_cluster, "ThrottlingException", "Rate exceeded")
        made.ecs.list_clusters()
        made.close()


# -- logs --------------------------------------------------------------------------------------------------------


def test_events_come_in_pages_and_the_end_keeps_its_token(account: Ecs) -> None:
    arn = account.start("for i in 1 2 3 4 5; do echo line $i; done; echo; echo last", until="STOPPED")
    account.until(lambda: account.output(arn)[-1:] == ["last"])
    where = {"logGroupName": GROUP, "logStreamName": f"agora/main/{arn.rpartition('/')[2]}"}
    seen, token = [], ""
    page = account.logs.get_log_events(**where, startFromHead=True, limit=2)
    while page["nextForwardToken"] != token:
        seen += [one["message"] for one in page["events"]]
        token = page["nextForwardToken"]
        page = account.logs.get_log_events(**where, nextToken=token, limit=2)
    assert seen == [*(f"line {number}" for number in range(1, 6)), "last"]
    tail = account.logs.get_log_events(**where, limit=2)
    assert [one["message"] for one in tail["events"]] == ["line 5", "last"]
    before = account.logs.get_log_events(**where, limit=2, nextToken=tail["nextBackwardToken"])
    assert [one["message"] for one in before["events"]] == ["line 3", "line 4"]
    (stream,) = account.logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix=where["logStreamName"])[
        "logStreams"
    ]
    assert stream["lastEventTimestamp"] == tail["events"][-1]["timestamp"]
    pages = account.logs.get_paginator("filter_log_events").paginate(
        logGroupName=GROUP, logStreamNames=[where["logStreamName"]], filterPattern='"line"',
        PaginationConfig={"PageSize": 2},
    )  # fmt: skip
    assert [one["message"] for page in pages for one in page["events"]] == seen[:5]
    refused(account.logs.get_log_events, INVALID, "nextToken", **where, nextToken="x")
    late = tail["events"][-1]["timestamp"] + 1
    assert account.logs.get_log_events(**where, startTime=late)["events"] == []


def test_events_arrive_late(account: Ecs) -> None:
    account.emulator.faults.lag_logs(600)
    arn = account.start("echo late", until="STOPPED")
    assert account.output(arn) == []
    account.emulator.faults.lag_logs(None)
    arn = account.start("echo soon", until="STOPPED")
    account.until(lambda: account.output(arn) == ["soon"])


@pytest.mark.parametrize("mode", ["blocking", "non-blocking", None])
def test_what_a_kill_does_to_the_last_lines(mode: str | None, tmp_path: Path) -> None:
    """Non-blocking is what counts where a task definition names no mode."""
    options = {"awslogs-group": GROUP, "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "agora"}
    container = {
        "stopTimeout": 1,
        "logConfiguration": {"logDriver": "awslogs", "options": options | ({"mode": mode} if mode else {})},
    }
    written, flush = tmp_path / "written", 0.2
    program = f"trap '' TERM; n=0; while :; do echo line $((n += 1)); echo line $n >> {written}; sleep 0.05; done"
    with EcsEmulator(
        timing=Timing(flush=flush / 0.002).hurried(0.002), log_groups=(GROUP,), throttle=False
    ) as emulator:
        made = Ecs(emulator)
        arn = made.start(program, container=container)
        made.until(lambda: "line 1" in made.output(arn))
        made.ecs.stop_task(task=arn)
        task = made.reaches(arn, "STOPPED")
        killed = task["executionStoppedAt"].timestamp()
        stream = f"agora/main/{arn.rpartition('/')[2]}"
        found = made.logs.get_log_events(logGroupName=GROUP, logStreamName=stream)["events"]
        last = written.read_text().splitlines()[-1]
        if mode == "blocking":
            assert last in [one["message"] for one in found]
        else:
            assert killed - found[-1]["timestamp"] / 1000 > flush - 0.002
        made.close()


def test_log_groups(account: Ecs) -> None:
    logs = account.logs
    logs.create_log_group(logGroupName="/made")
    refused(logs.create_log_group, "ResourceAlreadyExistsException", "already exists", logGroupName="/made")
    logs.put_retention_policy(logGroupName="/made", retentionInDays=3)
    logs.create_log_stream(logGroupName="/made", logStreamName="one")
    (found,) = logs.describe_log_groups(logGroupNamePrefix="/made")["logGroups"]
    assert (found["logGroupName"], found["retentionInDays"]) == ("/made", 3)
    assert logs.get_log_events(logGroupName="/made", logStreamName="one")["events"] == []
    gone = {"logGroupName": "/made", "logStreamName": "two"}
    refused(logs.get_log_events, "ResourceNotFoundException", "log stream", **gone)
    logs.delete_log_stream(logGroupName="/made", logStreamName="one")
    assert logs.describe_log_streams(logGroupName="/made")["logStreams"] == []
    logs.delete_log_group(logGroupName="/made")
    refused(logs.get_log_events, "ResourceNotFoundException", "log group", **gone)


# -- events ------------------------------------------------------------------------------------------------------


def received(account: Ecs, url: str, count: int) -> list[Object]:
    """Take so many events from a queue."""
    found: list[Object] = []
    end = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < end, found
        answer = account.queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        messages = answer.get("Messages", [])
        entries = [{"Id": str(i), "ReceiptHandle": one["ReceiptHandle"]} for i, one in enumerate(messages)]
        if entries:
            account.queues.delete_message_batch(QueueUrl=url, Entries=entries)
        found += [json.loads(one["Body"]) for one in messages]
    return found


def test_state_changes_arrive_in_a_queue() -> None:
    timing = Timing().hurried(0.002)
    with EcsEmulator(timing=timing, log_groups=(GROUP,), events="changes", throttle=False) as emulator:
        made = Ecs(emulator)
        url = made.queues.get_queue_url(QueueName="changes")["QueueUrl"]
        assert url == emulator.queue_url("changes")
        arn = made.start("exit 3", until="STOPPED")
        events = received(made, url, 5)
        details = [one["detail"] for one in events]
        assert {one["detail-type"] for one in events} == {"ECS Task State Change"}
        assert {one["taskArn"] for one in details} == {arn}
        assert [one["version"] for one in details] == [1, 2, 3, 4, 5]
        assert details[-1]["containers"][0]["exitCode"] == 3
        assert details[-1]["stoppedAt"].endswith("Z")
        # The start comes not at all, PENDING twice, and RUNNING last.
        emulator.faults.lose_events(1)
        emulator.faults.repeat_events(1)
        emulator.faults.delay_events(0, 1)
        emulator.faults.delay_events(2, 1)
        arn = made.start("exit 3", until="STOPPED")
        events = received(made, url, 5)
        assert [one["detail"]["version"] for one in events][:2] == [2, 2]
        assert events[-1]["detail"]["lastStatus"] == "RUNNING"
        made.close()


def test_queues(account: Ecs) -> None:
    url = account.queues.create_queue(QueueName="own", Attributes={"VisibilityTimeout": "0"})["QueueUrl"]
    assert account.queues.receive_message(QueueUrl=url).get("Messages") is None
    found = account.queues.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert found["ApproximateNumberOfMessages"] == "0"
    account.queues.delete_queue(QueueUrl=url)
    with pytest.raises(account.queues.exceptions.QueueDoesNotExist):
        account.queues.receive_message(QueueUrl=url)


# -- many tasks --------------------------------------------------------------------------------------------------


def test_five_thousand_live_tasks(account: Ecs) -> None:
    arns = account.emulator.populate(5000, account.request(account.definition(READY), startedBy="many"))
    assert len(set(arns)) == 5000
    assert account.emulator.processes("many") == []
    found = account.ecs.describe_tasks(tasks=arns[-100:])["tasks"]
    assert [one["taskArn"] for one in found] == arns[-100:]
    assert {one["lastStatus"] for one in found} == {"RUNNING"}
    account.ecs.stop_task(task=arns[0])
    account.reaches(arns[0], "STOPPED")


def test_a_stubborn_task_is_stopped_when_the_emulator_closes(account: Ecs) -> None:
    arn = account.start(STUBBORN)
    assert account.emulator.processes(arn)
