"""The life of a task on the emulated Fargate, seen through boto3 and from the host."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agora_conformance.emulators.ecs import EcsEmulator, Image, Timing
from ecs_account import GROUP, READY, STUBBORN, TRAPS, Ecs, refused

#: A second of the API lasts this long.
SECOND = 0.2
LIFE = ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"]


@pytest.fixture(scope="module")
def account() -> Iterator[Ecs]:
    """One account for all tests of this module."""
    timing = Timing(second=SECOND).hurried(0.003)
    images = {"slow:1": Image(present=False, pull=60), "own:1": Image(entrypoint=("echo",), command=("image",))}
    with EcsEmulator(timing=timing, images=images, log_groups=(GROUP,), throttle=False) as emulator:
        made = Ecs(emulator)
        yield made
        made.close()


def test_a_task_runs_and_ends_by_itself(account: Ecs) -> None:
    arn = account.start("echo out; echo err >&2; exit 3", until="STOPPED", startedBy="me")
    task = account.task(arn)
    assert (task["desiredStatus"], task["stopCode"]) == ("STOPPED", "EssentialContainerExited")
    assert task["stoppedReason"] == "Essential container in task exited"
    assert (task["startedBy"], task["version"], task["platformVersion"]) == ("me", 5, "1.4.0")
    (main,) = task["containers"]
    assert (main["exitCode"], main["lastStatus"], "reason" in main) == (3, "STOPPED", False)
    # The order of published records of tasks that end by themselves.
    names = ("createdAt", "connectivityAt", "pullStartedAt", "pullStoppedAt", "startedAt")
    times = [task[name] for name in (*names, "executionStoppedAt", "stoppingAt", "stoppedAt")]
    assert times == sorted(times)
    account.until(lambda: sorted(account.output(arn)) == ["err", "out"])
    assert account.emulator.processes(arn) == []


def test_every_status_and_the_version_counter(account: Ecs) -> None:
    arn = account.start("exec sleep 60")
    account.ecs.stop_task(task=arn)
    account.reaches(arn, "STOPPED")
    # Some are too short to be seen for certain by who asks again and again.
    seen = [(one["lastStatus"], one["desiredStatus"], one["version"]) for one in account.emulator.history(arn)]
    assert list(dict.fromkeys(status for status, _, _ in seen)) == LIFE
    told = {status: version for status, _, version in seen}
    assert (told["PROVISIONING"], told["PENDING"], told["DEPROVISIONING"], told["STOPPED"]) == (1, 2, 5, 6)
    assert {desired for status, desired, _ in seen if status in LIFE[5:]} == {"STOPPED"}


def test_a_graceful_stop(account: Ecs) -> None:
    arn = account.start(TRAPS, tags=[{"key": "a", "value": "b"}])
    assert account.task(arn, include=["TAGS"])["tags"] == [{"key": "a", "value": "b"}]
    pids = account.emulator.processes(arn)
    assert pids
    before = time.time()
    asked = account.ecs.stop_task(task=arn, reason="enough")["task"]
    assert (asked["desiredStatus"], asked["lastStatus"]) == ("STOPPED", "RUNNING")
    task = account.reaches(arn, "STOPPED")
    account.gone(pids)
    (term,) = account.emulator.terms(arn)
    assert term >= before
    assert (task["stopCode"], task["stoppedReason"], task["version"]) == ("UserInitiated", "enough", 6)
    assert task["containers"][0]["exitCode"] == 42
    # Asked first, then over: as in published records of tasks that were stopped.
    assert task["stoppingAt"] <= task["executionStoppedAt"] <= task["stoppedAt"]
    assert account.task(arn, include=["TAGS"])["tags"] == []
    account.until(lambda: account.output(arn) == ["ready", "bye"])


def test_stop_timeout_then_kill(account: Ecs) -> None:
    arn = account.start(STUBBORN, container={"stopTimeout": 3})
    pids = account.emulator.processes(arn)
    account.ecs.stop_task(task=arn)
    account.gone(pids)
    gone = time.time()
    (term,) = account.emulator.terms(arn)
    assert 3 * SECOND <= gone - term < 3 * SECOND + 15
    task = account.reaches(arn, "STOPPED")
    assert (task["stopCode"], task["containers"][0]["exitCode"]) == ("UserInitiated", 137)
    assert task["stoppedReason"]


def test_a_second_stop_changes_nothing(account: Ecs) -> None:
    arn = account.start(STUBBORN, container={"stopTimeout": 4})
    account.ecs.stop_task(task=arn, reason="first")
    account.until(lambda: account.emulator.terms(arn) != [])
    again = account.ecs.stop_task(task=arn, reason="second")["task"]
    assert again["stoppedReason"] == "first"
    account.reaches(arn, "STOPPED")
    assert len(account.emulator.terms(arn)) == 1
    late = account.ecs.stop_task(task=arn, reason="third")["task"]
    assert (late["lastStatus"], late["stoppedReason"], late["stopCode"]) == ("STOPPED", "first", "UserInitiated")


@pytest.mark.parametrize("init", [True, False])
def test_pid_1_without_a_handler(account: Ecs, init: bool) -> None:
    container = {"linuxParameters": {"initProcessEnabled": init}, "stopTimeout": 60 if init else 2}
    arn = account.start("echo ready; exec sleep 60", container=container)
    account.ecs.stop_task(task=arn)
    account.reaches(arn, "STOPPED")
    assert account.main(arn)["exitCode"] == (143 if init else 137)


def test_a_stop_before_the_start_leaves_no_exit_code() -> None:
    timing = replace(Timing().hurried(0.003), provision=60)
    with EcsEmulator(timing=timing, log_groups=(GROUP,), throttle=False) as emulator:
        slow = Ecs(emulator)
        arn = slow.start(READY, until="PROVISIONING")
        slow.ecs.stop_task(task=arn)
        task = slow.reaches(arn, "STOPPED")
        assert task["stopCode"] == "UserInitiated"
        assert "exitCode" not in task["containers"][0]
        assert not {"startedAt", "executionStoppedAt"} & task.keys()
        assert slow.output(arn) == []
        assert emulator.terms(arn) == []
        slow.close()


def test_a_stop_during_a_pull(account: Ecs) -> None:
    arn = account.start(READY, until="PENDING", container={"image": "slow:1"})
    account.until(lambda: "pullStartedAt" in account.task(arn) or account.task(arn)["lastStatus"] == "PENDING")
    account.ecs.stop_task(task=arn)
    task = account.reaches(arn, "STOPPED")
    assert "pullStoppedAt" not in task
    assert "exitCode" not in task["containers"][0]


def test_an_image_that_cannot_be_pulled(account: Ecs) -> None:
    arn = account.start(READY, until="STOPPED", container={"image": "missing/image:1"})
    task = account.task(arn)
    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"].startswith("CannotPullContainerError: ")
    assert task["containers"][0]["reason"].startswith("CannotPullContainerError: ")
    assert "exitCode" not in task["containers"][0]


def test_a_command_that_does_not_exist(account: Ecs) -> None:
    arn = account.start(None, until="STOPPED", container={"entryPoint": ["/no/such"], "command": ["x"]})
    task = account.task(arn)
    assert (task["stopCode"], task["stoppedReason"]) == ("TaskFailedToStart", "Task failed to start")
    assert "/no/such" in task["containers"][0]["reason"]


def test_out_of_memory(account: Ecs) -> None:
    hog = "import time; x = bytearray(200 * 2**20); time.sleep(60)"
    container = {"entryPoint": ["python3", "-c"], "command": [hog], "memory": 64}
    arn = account.start(None, until="STOPPED", container=container)
    main = account.main(arn)
    assert (main["exitCode"], main["memory"]) == (137, "64")
    assert main["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    assert account.task(arn)["stopCode"] == "EssentialContainerExited"


def test_command_entry_point_environment_and_overrides(account: Ecs) -> None:
    container = {"entryPoint": ["/bin/sh", "-c"], "command": ["echo defined $A $B $AWS_REGION"],
                 "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}  # fmt: skip
    override = {"name": "main", "environment": [{"name": "B", "value": "9"}]}
    overrides = {"containerOverrides": [override]}
    arn = account.start(None, until="STOPPED", container=container, overrides=overrides)
    account.until(lambda: account.output(arn) == ["defined 1 9 eu-central-1"])
    assert account.task(arn)["overrides"]["containerOverrides"] == [override]
    overrides = {"containerOverrides": [{"name": "main", "command": ["echo overridden"]}]}
    arn = account.start(None, until="STOPPED", container=container, overrides=overrides)
    account.until(lambda: account.output(arn) == ["overridden"])
    arn = account.start(None, until="STOPPED", container={"image": "own:1"})
    account.until(lambda: account.output(arn) == ["image"])


def test_secrets_reach_the_container(account: Ecs) -> None:
    secret = account.secrets.create_secret(Name="word", SecretString="hidden")["ARN"]
    container = {"secrets": [{"name": "WORD", "valueFrom": secret}]}
    arn = account.start("echo got $WORD", until="STOPPED", container=container)
    account.until(lambda: account.output(arn) == ["got hidden"])
    account.secrets.delete_secret(SecretId="word", ForceDeleteWithoutRecovery=True)
    arn = account.start("echo got $WORD", until="STOPPED", container=container)
    task = account.task(arn)
    assert task["stopCode"] == "TaskFailedToStart"
    assert "ResourceInitializationError: unable to pull secrets" in task["stoppedReason"]
    assert "hidden" not in str(task)


def test_one_value_of_a_secret_reaches_the_container(account: Ecs) -> None:
    values = json.dumps({"A": "it's\nhidden", "B.b-1": ""})
    name = f"values/{uuid.uuid4().hex}/one"
    secret = account.secrets.create_secret(Name=name, SecretString=values)["ARN"]
    chosen = [{"name": "A", "valueFrom": f"{secret}:A::"}, {"name": "B", "valueFrom": f"{secret}:B.b-1:AWSCURRENT:"}]
    arn = account.start('echo "$A" "<$B>"', until="STOPPED", container={"secrets": chosen})
    account.until(lambda: account.output(arn) == ["it's", "hidden <>"])
    for wrong, words in ((f"{secret}:C::", "did not contain json key C"), (f"{secret}:A:OTHER:", "can't find")):
        arn = account.start("true", until="STOPPED", container={"secrets": [{"name": "A", "valueFrom": wrong}]})
        assert words in account.task(arn)["stoppedReason"]
        assert "hidden" not in str(account.task(arn))


def test_a_log_group_that_is_not_there(account: Ecs) -> None:
    options = {"awslogs-group": "/none", "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "agora"}
    container = {"logConfiguration": {"logDriver": "awslogs", "options": options}}
    task = account.task(account.start("true", until="STOPPED", container=container))
    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"].startswith("ResourceInitializationError: failed to validate logger args")
    container["logConfiguration"]["options"] = {**options, "awslogs-create-group": "true"}
    arn = account.start("echo made", until="STOPPED", container=container)
    assert account.main(arn)["exitCode"] == 0
    account.logs.delete_log_group(logGroupName="/none")


def test_an_end_is_told_with_its_exit_code(account: Ecs) -> None:
    arn = account.start("sleep 0.2; exit 6", until="")
    looks = [account.task(arn)]

    def over() -> bool:
        looks.append(account.task(arn))
        return bool(looks[-1]["lastStatus"] == "STOPPED")

    account.until(over)
    assert {one["containers"][0].get("exitCode") for one in looks if one["desiredStatus"] == "STOPPED"} == {6}


def test_the_end_of_an_essential_container_ends_the_others(account: Ecs, tmp_path: Path) -> None:
    side = {"name": "side", "image": "any:1", "essential": False, "stopTimeout": 2, "entryPoint": ["/bin/sh", "-c"]}
    set_up = tmp_path / "set-up"
    stubborn = f"trap '' TERM; : > {set_up}; {READY}"
    waits = f"while ! [ -e {set_up} ]; do sleep 0.05; done; exit 4"
    arn = account.start(waits, until="STOPPED", more=[{**side, "command": [stubborn]}])
    codes = {one["name"]: one["exitCode"] for one in account.task(arn)["containers"]}
    assert codes == {"main": 4, "side": 137}
    arn = account.start(READY, more=[{**side, "command": ["exit 5"]}])
    account.until(lambda: account.task(arn)["containers"][1].get("exitCode") == 5)
    assert (account.task(arn)["lastStatus"], account.task(arn)["desiredStatus"]) == ("RUNNING", "RUNNING")
    account.ecs.stop_task(task=arn)


def test_nothing_survives_in_the_container(account: Ecs, tmp_path: Path) -> None:
    goes_on = tmp_path / "goes-on"
    goes_on.touch()
    program = f"setsid sleep 600 & setsid sleep 600 & while [ -e {goes_on} ]; do sleep 0.05; done"
    arn = account.start(program, until="RUNNING")
    account.until(lambda: len(account.emulator.processes(arn)) >= 3)
    pids = account.emulator.processes(arn)
    goes_on.unlink()
    account.reaches(arn, "STOPPED")
    account.gone(pids)


@pytest.mark.parametrize("code", ["SpotInterruption", "TerminationNotice", "InfrastructureHealth"])
def test_what_aws_ends(account: Ecs, code: str) -> None:
    arn = account.start(TRAPS)
    account.emulator.interrupt(arn, code)
    task = account.reaches(arn, "STOPPED")
    assert task["stopCode"] == code
    assert task["containers"][0]["exitCode"] == (137 if code == "InfrastructureHealth" else 42)


def test_while_the_agents_are_away_nothing_is_reported_or_stopped(account: Ecs) -> None:
    arn = account.start(TRAPS)
    account.emulator.agents_away()
    account.ecs.stop_task(task=arn)
    assert account.task(arn)["desiredStatus"] == "STOPPED"
    time.sleep(0.2)  # longer than a stop takes otherwise
    assert account.task(arn)["lastStatus"] == "RUNNING"
    assert account.emulator.terms(arn) == []
    assert account.emulator.processes(arn)
    account.emulator.agents_back()
    assert account.reaches(arn, "STOPPED")["containers"][0]["exitCode"] == 42


def test_a_stopped_task_expires(account: Ecs) -> None:
    with EcsEmulator(timing=Timing(second=0.001).hurried(0.002), log_groups=(GROUP,), throttle=False) as emulator:
        quick = Ecs(emulator)
        arn = quick.start("exit 1", until="")
        assert quick.reaches(arn, "STOPPED")["containers"][0]["exitCode"] == 1
        assert quick.ecs.list_tasks(desiredStatus="STOPPED")["taskArns"] == [arn]
        quick.until(lambda: quick.ecs.describe_tasks(tasks=[arn])["tasks"] == [])
        assert quick.ecs.describe_tasks(tasks=[arn])["failures"] == [{"arn": arn, "reason": "MISSING"}]
        assert quick.ecs.list_tasks(desiredStatus="STOPPED")["taskArns"] == []
        refused(quick.ecs.stop_task, "InvalidParameterException", "The referenced task was not found", task=arn)
        quick.close()


def test_closing_leaves_nothing() -> None:
    timing = Timing().hurried(0.002)
    with EcsEmulator(timing=timing, log_groups=(GROUP,)) as emulator:
        made = Ecs(emulator)
        made.start(STUBBORN)
        pids = emulator.processes()
        assert pids
        made.close()
    made.gone(pids)
