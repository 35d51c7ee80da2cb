"""Logs, what is ours and what is not, what is left in the account, what expires."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.errors import InvalidRequest, ProviderError, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase
from agora.model.record import State
from agora_conformance.emulators.ecs import EcsEmulator, Timing
from agora_fargate import PROVIDER, budget, definitions, logs, names, released
from agora_fargate.definitions import Definitions
from agora_fargate.released import Released
from fargate_harness import GROUP, STUBBORN, Hands, aws_config, eventually, table

pytestmark = pytest.mark.backend("fargate")

LINES = "for n in 1 2 3 4 5; do echo line $n; done; echo error >&2; exit 0"


def test_logs_are_read_whole_from_the_end_and_since(hands: Hands) -> None:
    handle = hands.start(LINES)
    hands.end(handle)
    whole = hands.output(handle)
    assert sorted(whole.splitlines()) == [b"error", *(b"line %d" % n for n in range(1, 6))]
    assert hands.output(handle, tail=2) == b"".join(whole.splitlines(keepends=True)[-2:])
    assert hands.output(handle, tail=0) == b""
    [chunk] = hands.provider.logs(handle, False, None, None)
    assert chunk.at is not None
    assert hands.output(handle, since=chunk.at) == b""
    assert hands.output(handle, since=chunk.at - timedelta(hours=1)) == whole


def test_a_followed_log_waits_for_lines_that_come_late(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LOOK", 0.5)
    patient = Hands(hands.emulator, hands.directory, hands.installation, log_lag=3)
    hands.emulator.faults.lag_logs(1.2)
    handle = patient.start("echo first; echo last")
    began = time.monotonic()
    chunks = list(patient.provider.logs(handle, True, None, None))
    assert b"".join(chunk.data for chunk in chunks) == b"first\nlast\n"
    assert any(chunk.data == b"" for chunk in chunks), "an empty chunk every second"
    assert time.monotonic() - began < 30
    assert hands.output(handle, follow=True, tail=1) == b"last\n"
    patient.provider.close()


def test_a_plain_read_waits_for_the_last_lines_of_an_end_just_seen(hands: Hands) -> None:
    patient = Hands(hands.emulator, hands.directory, hands.installation, log_lag=2)
    hands.emulator.faults.lag_logs(0.5)
    handle = patient.start("echo late; exit 0")
    patient.end(handle)
    assert patient.output(handle) == b"late\n"
    patient.provider.close()


def test_a_task_that_wrote_nothing_has_an_empty_log(hands: Hands) -> None:
    handle = hands.start("exit 0", image="missing/image")
    assert hands.output(handle) == b""
    hands.end(handle)
    assert hands.output(handle, follow=True) == b""


def test_a_live_workload_is_not_released_and_an_ended_one_leaves_no_log(hands: Hands) -> None:
    handle = hands.start(STUBBORN, grace=2)
    hands.ready(handle)
    for _ in range(2):
        with pytest.raises(ProviderError, match="has not ended"):
            hands.provider.release(handle)
        hands.stop(handle, grace=2)
    hands.end(handle)
    assert hands.output(handle) != b""
    hands.provider.release(handle)
    hands.provider.release(handle)
    assert hands.output(handle) == b""
    assert hands.provider.find(handle.id) is None
    assert list(hands.provider.list_owned(hands.installation)) == []
    other = Hands(hands.emulator, hands.directory, hands.installation)
    assert other.provider.find(handle.id) is None
    other.provider.close()


def test_releases_are_remembered_for_as_long_as_ecs_shows_the_task(tmp_path: Path) -> None:
    kept = Released(tmp_path / "released")
    assert "arn:x/1" not in kept
    kept.add("arn:x/1")
    kept.add("arn:x/1")
    assert "arn:x/1" in Released(tmp_path / "released")
    old = time.time() - released.KEPT - 1
    os.utime(tmp_path / "released" / "1", (old, old))
    kept.add("arn:x/2")
    assert ("arn:x/1" in kept, "arn:x/2" in kept) == (False, True)


def test_only_what_carries_our_mark_is_ours(hands: Hands) -> None:
    mine = hands.start()
    stranger = hands.api.call(
        "RunTask",
        cluster="default",
        taskDefinition=hands.task(mine)["taskDefinitionArn"],
        launchType="FARGATE",
        startedBy=mine.id,
        networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
    )["tasks"][0]["taskArn"]
    theirs = Hands(hands.emulator, hands.directory, f"{hands.installation}-theirs")
    other = theirs.start(id=mine.id)
    assert other.data["task"] != mine.data["task"]
    assert [one.handle.data["task"] for one in hands.provider.list_owned(hands.installation)] == [mine.data["task"]]
    found = hands.provider.find(mine.id)
    assert found is not None
    assert found.data == mine.data
    owned = hands.provider.list_owned(theirs.installation)
    assert [(one.installation, one.ended, one.spec_digest) for one in owned] == [
        (theirs.installation, False, theirs.spec().digest())
    ]
    hands.api.call("StopTask", cluster="default", task=stranger)
    theirs.clean()


def test_a_second_copy_is_stopped_and_the_first_one_found(hands: Hands) -> None:
    first = hands.start()
    hands.ready(first)
    request = hands.requests("RunTask", first)[0]
    copy = hands.api.call("RunTask", **{**request, "clientToken": "forgotten"})["tasks"][0]["taskArn"]
    eventually(lambda: hands.emulator.processes(copy))
    found = hands.provider.find(first.id)
    assert found is not None
    assert found.data == first.data
    eventually(lambda: not hands.emulator.processes(copy))
    assert hands.observe(first).phase is Phase.RUNNING
    assert hands.emulator.terms(first.data["task"]) == []


def test_a_start_under_way_is_no_absence(hands: Hands) -> None:
    id = new_dispatch_id()
    seen: list[str] = []

    def check() -> None:
        with pytest.raises(Unreachable, match="under way"):
            hands.provider.find(id)
        seen.append(id)

    hands.provider._made.starter._making.add(id)
    check()
    hands.provider._made.starter._making.discard(id)
    assert hands.provider.find(id) is None


def test_a_hundred_and_more_are_described_in_batches(tmp_path: Path) -> None:
    with EcsEmulator(timing=Timing().hurried(0.02), log_groups=(GROUP,), throttle=False) as emulator:
        hands = Hands(emulator, tmp_path)
        handle = hands.start("exit 0")
        request = {key: value for key, value in hands.requests("RunTask", handle)[0].items() if key != "clientToken"}
        handles = [
            handle.model_copy(update={"id": f"h{number}", "data": {**handle.data, "task": arn}})
            for number, arn in enumerate(emulator.populate(230, request))
        ]
        seen = hands.provider.observe(handles)
        assert [one.phase for one in seen] == [Phase.RUNNING] * 230
        assert [len(body["tasks"]) for body in hands.requests("DescribeTasks")] == [100, 100, 30]
        hands.provider.close()


def test_nothing_is_left_in_the_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, its prune and the command for task definitions: no task, no log and no definition of ours is there."""
    for group in ("define", "delete definitions"):
        monkeypatch.setitem(budget.RATES, group, budget.Rate(50, 50))
    with EcsEmulator(timing=Timing().hurried(0.02), log_groups=(GROUP,), throttle=False) as emulator:
        hands = Hands(emulator, tmp_path)
        handles = [hands.start("echo x", image=f"image:{number}") for number in range(3)]
        live = hands.start(image="live")
        for handle in handles:
            hands.end(handle)
            hands.provider.release(handle)
        config = str(aws_config(tmp_path / "aws-config", emulator))
        where = ["--config-file", config, "--profile", "emulated"]
        assert definitions.main(where) == 0
        assert len(capsys.readouterr().out.splitlines()) == 3
        assert definitions.main([*where, "--remove"]) == 0
        assert "removed, 1 revisions" in capsys.readouterr().out
        hands.ready(live)
        hands.stop(live)
        assert hands.end(live).exit_code == 42, "a task goes on without its definition"
        hands.provider.release(live)
        assert definitions.main([*where, "--remove"]) == 0
        client = hands.api._connection.client("logs")
        assert client.describe_log_streams(logGroupName=GROUP)["logStreams"] == []
        for status in ("ACTIVE", "INACTIVE"):
            assert hands.api.call("ListTaskDefinitions", status=status)["taskDefinitionArns"] == []
        assert hands.api.call("ListTasks", cluster="default")["taskArns"] == []
        assert emulator.processes() == []
        assert definitions.main(["--config-file", config, "--profile", "nobody"]) == 1
        hands.clean()


def test_families_of_others_are_left_alone(hands: Hands) -> None:
    for name in ("agora-mine", f"agora-{'g' * 32}", f"{names.PREFIX}-{'0' * 31}"):
        assert not names.is_family(name)
    hands.api.call(
        "RegisterTaskDefinition",
        family="agora-mine",
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "x", "image": "y"}],
    )
    assert "agora-mine" not in Definitions(hands.api).unused("default")


@pytest.mark.anyio
async def test_a_task_that_expired_is_lost_unless_its_end_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = PROVIDER.limits.model_copy(update={"settle_time": 1})
    monkeypatch.setattr("agora_fargate.PROVIDER", replace(PROVIDER, limits=brief))
    timing = Timing().hurried(0.02)
    with EcsEmulator(timing=timing, log_groups=(GROUP,), throttle=False) as emulator:
        target = TargetConfig("c", "fargate", table(tmp_path, emulator), "a test")
        settings = Settings(default_target="c", targets={"c": target}, supervisor=False)
        async with AgoraClient(tmp_path / "home", settings=settings, supervisor=False) as agora:
            known = await agora.dispatch(command=("sh", "-c", "exit 3"), grace=5)
            assert (await agora.wait(known.id, timeout=50)).exit_code == 3
            unseen = await agora.dispatch(command=("sh", "-c", "exit 4"), grace=5)
        arn = None
        hands = Hands(emulator, tmp_path, (tmp_path / "home" / "installation").read_text().strip())
        handle = hands.provider.find(unseen.id)
        assert handle is not None
        arn = handle.data["task"]
        hands.end(handle)
        emulator.forget()
        assert hands.api.call("DescribeTasks", tasks=[arn])["failures"][0]["reason"] == "MISSING"
        async with AgoraClient(tmp_path / "home", settings=settings, supervisor=False) as agora:
            record = await agora.wait(unseen.id, timeout=50)
            assert (record.state, record.exit_code, record.confirmed) == (State.LOST, None, False)
            assert (await agora.get(known.id)).exit_code == 3
            with pytest.raises(InvalidRequest, match="120"):
                await agora.dispatch(command=("sh", "-c", "exit 0"), grace=121)
        hands.provider.close()
