"""Inline secrets: they reach the workload, show nowhere else, and go with the dispatch."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.errors import DispatchConflict, InvalidRequest, PermissionDenied, StopRequested, SubmitRefused, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase, ReceiptKind
from agora_conformance.emulators.ecs import EcsEmulator
from agora_fargate import api, names
from fargate_harness import Hands, never, table

pytestmark = pytest.mark.backend("fargate")

VALUE = 'it\'s a "hidden"\nväl$ue'
SECRETS = {"TOKEN": VALUE, "EMPTY": ""}
TELL = "printf '%s|%s' \"$TOKEN\" \"$EMPTY\" | od -An -v -tx1 | tr -d ' \\n'; echo"
SHOW = f"{TELL}; echo ready; while :; do sleep 0.05; done"


def test_values_reach_the_workload_and_show_nowhere_else(hands: Hands, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    handle = hands.start(SHOW, secrets=SECRETS)
    hands.ready(handle)
    assert bytes.fromhex(hands.output(handle).decode().splitlines()[0]).decode() == f"{VALUE}|"
    [name] = hands.secrets()
    assert name == f"agora/{hands.installation}/{handle.id}"
    task = hands.task(handle)
    revision = task["taskDefinitionArn"]
    told = [
        task,
        hands.api.call("DescribeTaskDefinition", taskDefinition=revision),
        hands.requests("RunTask", handle),
        hands.requests("RegisterTaskDefinition"),
        hands.api.call("DescribeSecret", SecretId=name),
        handle.model_dump_json(),
        hands.observe(handle).model_dump_json(),
        [one.model_dump_json() for one in hands.provider.list_owned(hands.installation)],
    ]
    assert "hidden" not in str(told)
    assert "CreateSecret" in caplog.text, "botocore tells of its requests at this level"
    assert "hidden" not in caplog.text
    assert hands.own_definitions(handle.id) == [revision]
    hands.provider.remove_secrets(handle.id)  # a running task has them already
    assert hands.observe(handle).phase is Phase.RUNNING


def test_they_go_with_the_dispatch_and_those_of_others_stay(hands: Hands) -> None:
    theirs = Hands(hands.emulator, hands.directory, f"{hands.installation}-x")
    first, second = (hands.start("exit 0", secrets=SECRETS) for _ in range(2))
    third = theirs.start("exit 0", id=first.id, secrets=SECRETS)
    for handle in (first, second):
        hands.end(handle)
    for _ in range(2):
        hands.provider.remove_secrets(first.id)
    assert hands.secrets() == [names.secret(second.id, hands.installation)]
    assert hands.own_definitions(first.id) == []
    assert len(hands.own_definitions(second.id)) == 1
    assert theirs.secrets() == [names.secret(third.id, theirs.installation)]
    assert hands.observe(first).exit_code == 0
    hands.provider.release(second)
    assert (hands.secrets(), hands.own_definitions(second.id)) == ([], [])
    theirs.end(third)
    theirs.provider.release(third)
    theirs.clean()


def test_a_definition_that_was_only_deregistered_is_removed_too(hands: Hands) -> None:
    handle = hands.start("exit 0", secrets=SECRETS)
    [revision] = hands.own_definitions(handle.id)
    hands.api.call("DeregisterTaskDefinition", taskDefinition=revision)
    hands.end(handle)
    hands.provider.remove_secrets(handle.id)
    assert hands.own_definitions(handle.id) == []


def test_a_refused_start_leaves_nothing(hands: Hands) -> None:
    id = new_dispatch_id()
    with pytest.raises(SubmitRefused, match="does not exist"):
        hands.start(id=id, secrets=SECRETS, options={"subnets": ["subnet-missing"]})
    assert hands.requests("CreateSecret")[-1]["Name"] == names.secret(id, hands.installation)
    assert (hands.secrets(), hands.own_definitions(id)) == ([], [])


def test_a_stop_at_any_step_of_the_start_leaves_nothing(hands: Hands) -> None:
    steps, allowed = 0, -1
    handle = None
    while handle is None:
        allowed, steps = allowed + 1, 0

        def check(allowed: int = allowed) -> None:
            nonlocal steps
            steps += 1
            if steps > allowed:
                raise StopRequested("a test")

        id = new_dispatch_id()
        try:
            handle = hands.provider.dispatch(id, hands.spec("exit 0", secrets=SECRETS), check)
        except StopRequested:
            assert (hands.secrets(), hands.own_definitions(id)) == ([], [])
            assert [body for body in hands.requests("RunTask") if body.get("startedBy") == id] == []
    assert allowed >= 4, "before anything, before the secret, before the definition, and before the task"
    made = {body["Name"] for body in hands.requests("CreateSecret", handle)}
    assert made == {names.secret(handle.id, hands.installation)}


@pytest.mark.parametrize("action", ["CreateSecret", "RegisterTaskDefinition"])
@pytest.mark.parametrize("after", [False, True])
def test_a_lost_answer_makes_no_second_secret(hands: Hands, action: str, after: bool) -> None:
    hands.emulator.faults.cut(1, after=after, action=action)
    handle = hands.start(SHOW, secrets=SECRETS)
    hands.ready(handle)
    assert hands.secrets() == [names.secret(handle.id, hands.installation)]
    sent = hands.requests("CreateSecret", handle)
    assert len(sent) == (2 if action == "CreateSecret" else 1)
    assert all(one == sent[0] for one in sent)
    assert len(hands.api.call("ListTasks", cluster="default", startedBy=handle.id)["taskArns"]) == 1
    hands.provider.remove_secrets(handle.id)
    assert hands.own_definitions(handle.id) == []


def test_the_same_dispatch_again_is_the_same_task(hands: Hands) -> None:
    handle = hands.start(SHOW, secrets=SECRETS)
    hands.ready(handle)
    other = Hands(hands.emulator, hands.directory, hands.installation)
    assert other.start(SHOW, id=handle.id, secrets=SECRETS).data == handle.data
    # Values are no part of what was asked for: whoever was first decides.
    assert other.start(SHOW, id=handle.id, secrets={**SECRETS, "TOKEN": "x"}).data == handle.data
    with pytest.raises(DispatchConflict, match="another spec"):
        other.start("exit 1", id=handle.id, secrets=SECRETS)
    assert len(hands.secrets()) == 1
    other.provider.close()


def test_what_cannot_be_passed_is_refused_before_anything_is_sent(hands: Hands) -> None:
    before = len(hands.emulator.faults.requests())
    with pytest.raises(InvalidRequest, match="65536 bytes"):
        hands.provider.check(hands.spec(secrets={"LARGE": "x" * 65_536}))
    assert len(hands.emulator.faults.requests()) == before


def test_a_refusal_of_secrets_manager_tells_no_value(hands: Hands) -> None:
    id = new_dispatch_id()
    client = hands.api._connection.client("secretsmanager")
    client.create_secret(Name=names.secret(id, hands.installation), SecretString="x")
    with pytest.raises(DispatchConflict, match="another spec, or of nobody's"):
        hands.start(id=id, secrets=SECRETS)
    client.delete_secret(SecretId=names.secret(id, hands.installation))
    with pytest.raises(SubmitRefused, match=r"refuses the secret agora/.*: InvalidRequestException$") as caught:
        hands.start(id=id, secrets=SECRETS)
    assert caught.value.reason == "secret_refused"
    hands.emulator.faults.deny(action="CreateSecret", service="secretsmanager")
    with pytest.raises(PermissionDenied, match="secretsmanager:CreateSecret") as denied:
        hands.start(secrets=SECRETS)
    assert denied.value.sent is False, "nothing was started"
    client.delete_secret(SecretId=names.secret(id, hands.installation), ForceDeleteWithoutRecovery=True)


def test_what_was_left_behind_is_owned_until_it_is_released(
    hands: Hands, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "CALL_SECONDS", 3.0)
    handle = hands.start("exit 0", secrets=SECRETS)
    hands.end(handle)
    assert [one.handle.data for one in hands.provider.list_owned(hands.installation)] == [handle.data]
    hands.emulator.forget(handle.data["task"])
    hands.provider._new.clear()
    [left] = hands.provider.list_owned(hands.installation)
    assert (left.handle.id, left.ended, left.spec_digest) == (
        handle.id,
        True,
        hands.spec("exit 0", secrets=SECRETS).digest(),
    )
    assert time.time() - left.created_at.timestamp() < 300
    assert hands.observe(left.handle).phase is Phase.ABSENT
    assert hands.stop(left.handle).kind is ReceiptKind.NOT_FOUND
    assert hands.output(left.handle) == b""
    for trouble in (hands.emulator.faults.deny, hands.emulator.faults.throttle):
        trouble(None, action="ListSecrets", service="secretsmanager")
        assert list(hands.provider.list_owned(hands.installation)) == []
        hands.emulator.faults.clear()
    assert caplog.text.count("left behind are not listed") == 1
    # Another installation takes them over, as `reap --installation` does.
    other = Hands(hands.emulator, hands.directory, f"{hands.installation}-x")
    [found] = other.provider.list_owned(hands.installation)
    other.provider.release(found.handle)
    assert (hands.secrets(), hands.own_definitions(handle.id)) == ([], [])
    assert list(hands.provider.list_owned(hands.installation)) == []
    other.provider.close()


def test_nothing_is_removed_under_a_start(hands: Hands) -> None:
    id = new_dispatch_id()
    seen = []

    def check() -> None:
        with pytest.raises(Unreachable, match="under way"):
            hands.provider.remove_secrets(id)
        seen.append(len(hands.secrets()))

    hands.provider._made.starter._making.add(id)
    check()
    hands.provider._made.starter._making.discard(id)
    handle = hands.provider.dispatch(id, hands.spec("exit 0", secrets=SECRETS), never)
    hands.end(handle)
    hands.provider.remove_secrets(id)
    assert hands.secrets() == []


@pytest.mark.anyio
async def test_the_engine_removes_them_after_the_end(emulator: EcsEmulator, tmp_path: Path) -> None:
    target = TargetConfig("c", "fargate", table(tmp_path, emulator), "a test")
    settings = Settings(default_target="c", targets={"c": target}, supervisor=False)
    async with AgoraClient(tmp_path / "home", settings=settings, supervisor=False) as agora:
        done = await agora.dispatch(command=("sh", "-c", 'test -n "$TOKEN"'), grace=2, secrets=SECRETS)
        record = await agora.wait(done.id, timeout=50, confirmed=True)
        assert record.exit_code == 0
        hands = Hands(emulator, tmp_path, (tmp_path / "home" / "installation").read_text().strip())
        until = time.monotonic() + 50
        while hands.secrets() and time.monotonic() < until:
            await agora.reconcile()
        assert (hands.secrets(), hands.own_definitions(done.id)) == ([], [])
        events = [event.model_dump_json() async for event in agora.events(done.id)]
        assert "hidden" not in json.dumps([record.model_dump(mode="json"), events])
    hands.clean()
