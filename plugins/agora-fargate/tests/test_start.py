"""How workloads are started: once, whatever happens to the request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from agora.errors import DispatchConflict, InvalidRequest, StopRequested, SubmitRefused, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Phase
from agora_fargate import api, connect, definitions, starting
from agora_fargate.api import Refusal
from agora_fargate.names import Mark
from fargate_harness import Hands, eventually, never

pytestmark = pytest.mark.backend("fargate")


def test_twenty_at_once_are_one_task_and_one_definition(hands: Hands) -> None:
    id = new_dispatch_id()
    spec = hands.spec(cwd="/usr")
    others = [Hands(hands.emulator, hands.directory, hands.installation) for _ in range(2)]
    handles: list[Handle] = []

    def dispatch(one: Hands) -> None:
        handles.append(one.provider.dispatch(id, spec, never))

    threads = [threading.Thread(target=dispatch, args=(one,)) for one in (hands, *others) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len(handles) == 21
    assert len({handle.data["task"] for handle in handles}) == 1
    assert len(hands.api.call("ListTasks", cluster="default", startedBy=id)["taskArns"]) == 1
    hands.ready(handles[0])
    again = hands.start(cwd="/usr")
    assert again.data["task"] != handles[0].data["task"]
    families = {hands.task(handle)["taskDefinitionArn"].rpartition(":")[0] for handle in (handles[0], again)}
    assert len(families) == 1
    for one in others:
        one.provider.close()


def test_a_definition_is_registered_once_and_found_by_another_process(hands: Hands) -> None:
    def registered() -> int:
        return len([body for body in hands.requests("RegisterTaskDefinition") if hands.installation in str(body)])

    image = {"image": f"busybox:{hands.installation}"}
    first = hands.start(**image)
    assert registered() == 1
    hands.start("exit 0", **image)
    other = Hands(hands.emulator, hands.directory, hands.installation)
    other.start("exit 1", env={"X": "1"}, **image)
    assert registered() == 1
    # Somebody removes it behind our back.
    revision = hands.task(first)["taskDefinitionArn"]
    hands.api.call("DeregisterTaskDefinition", taskDefinition=revision)
    again = hands.start("exit 2", **image)
    assert registered() == 2
    assert hands.task(again)["taskDefinitionArn"] != revision
    assert hands.end(again).exit_code == 2
    other.provider.close()


def test_another_spec_under_the_id_is_a_conflict(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    with pytest.raises(DispatchConflict, match="another spec"):
        hands.start("exit 1", id=handle.id)
    assert hands.observe(handle).phase is Phase.RUNNING
    assert hands.emulator.terms(handle.data["task"]) == []


def test_the_same_spec_with_another_revision_is_adopted(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    revision = hands.task(handle)["taskDefinitionArn"]
    hands.api.call("DeregisterTaskDefinition", taskDefinition=revision)
    other = Hands(hands.emulator, hands.directory, hands.installation)
    assert other.start(id=handle.id).data == handle.data
    other.provider.close()


def test_an_ended_dispatch_is_returned_and_not_started_again(hands: Hands) -> None:
    handle = hands.start("exit 3")
    assert hands.end(handle).exit_code == 3
    again = hands.start("exit 3", id=handle.id)
    assert again.data == handle.data
    assert hands.observe(again).exit_code == 3


def test_nothing_is_sent_again_once_its_token_may_be_forgotten(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = hands.start("exit 0")
    hands.end(handle)
    sent = len(hands.requests("RunTask", handle))
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + starting.RESEND_SECONDS + 1)
    with pytest.raises(Unreachable, match="too long ago"):
        hands.start("exit 0", id=handle.id)
    assert len(hands.requests("RunTask", handle)) == sent


@pytest.mark.parametrize("after", [False, True])
def test_a_lost_answer_is_asked_for_again_with_the_same_token(hands: Hands, after: bool) -> None:
    hands.emulator.faults.cut(1, after=after, action="RunTask")
    handle = hands.start()
    hands.ready(handle)
    sent = hands.requests("RunTask", handle)
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert len(hands.api.call("ListTasks", cluster="default", startedBy=handle.id)["taskArns"]) == 1


def test_no_answer_at_all_is_unknown_and_found_later(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "READ_SECONDS", 2.5)
    id = new_dispatch_id()
    hands.emulator.faults.slow(6, 1, action="RunTask")
    with pytest.raises(Unreachable) as caught:
        hands.start(id=id)
    assert caught.value.sent is True
    found = hands.provider.find(id)
    assert found is not None
    assert hands.start(id=id).data == found.data


def throttled_network(hands: Hands) -> None:
    hands.emulator.faults.throttle_network(2)


def full_provisioning(hands: Hands) -> None:
    hands.emulator.faults.throttle_provisioning(1)


def no_place(hands: Hands) -> None:
    hands.emulator.faults.fail_placement(1)


def plain_throttle(hands: Hands) -> None:
    hands.emulator.faults.throttle(2, action="RunTask")


@pytest.mark.parametrize("trouble", [throttled_network, full_provisioning, no_place, plain_throttle])
def test_what_passes_is_waited_for(
    hands: Hands, trouble: Callable[[Hands], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Throttling, also under the name of InvalidParameterException, and capacity: the same token again."""
    monkeypatch.setattr(starting, "_PAUSE", 0.2)
    trouble(hands)
    handle = hands.start()
    hands.ready(handle)
    tokens = {body["clientToken"] for body in hands.requests("RunTask", handle)}
    assert len(tokens) == 1


def test_capacity_that_does_not_come_is_a_refusal_in_ecs_words(hands: Hands) -> None:
    bare = Hands(hands.emulator, hands.directory, hands.installation, capacity_patience=0)
    hands.emulator.faults.fail_placement(1)
    with pytest.raises(SubmitRefused, match="Capacity is unavailable at this time") as caught:
        bare.start()
    assert caught.value.reason == "no_capacity"
    hands.emulator.faults.fail_placement(1, reason="ATTRIBUTE")
    with pytest.raises(SubmitRefused, match="ATTRIBUTE"):
        bare.start()
    bare.provider.close()


def test_a_stop_while_it_waits_for_capacity_ends_the_start(hands: Hands) -> None:
    hands.emulator.faults.fail_placement(100)
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > 4:
            raise StopRequested("a test")

    id = new_dispatch_id()
    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, hands.spec(), check)
    assert hands.provider.find(id) is None


class Asked:
    """A check that asks to stop once something holds; keeps the longest time between two looks, in seconds."""

    def __init__(self, after: float) -> None:
        self.began = self.last = time.monotonic()
        self.after = after
        self.looks = 0

    def __call__(self) -> None:
        self.looks += 1
        self.last = time.monotonic()
        if self.last - self.began > self.after:
            raise StopRequested("a test")


def test_a_stop_ends_the_wait_for_a_registration(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands.api.budget.bucket("define"), "_tokens", -40.0)  # the next turn comes in 41 s
    image = f"busybox:{hands.installation}-w"
    asked = Asked(5)
    others = [Asked(5), Asked(5)]  # two that wait for the same definition
    threads = [threading.Thread(target=lambda one=one: stopped(hands, one, image)) for one in others]
    for thread in threads:
        thread.start()
    stopped(hands, asked, image)
    for thread in threads:
        thread.join(50)
    for one in (asked, *others):
        assert one.looks >= 4
        assert one.last - one.began < 20, "not after the 41 s of the wait"
    assert [body for body in hands.requests("RegisterTaskDefinition") if image in str(body)] == []


def stopped(hands: Hands, check: Asked, image: str) -> None:
    with pytest.raises(StopRequested):
        hands.provider.dispatch(new_dispatch_id(), hands.spec(image=image), check)


@pytest.mark.parametrize("trouble", ["capacity", "throttle"])
def test_a_stop_ends_a_wait_within_a_second(hands: Hands, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = hands.emulator.faults
    faults.fail_placement(1000) if trouble == "capacity" else faults.throttle(None, action="RunTask")
    # Throttled, the pauses between two tries would be longer than a second.
    monkeypatch.setattr(api, "_FIRST_PAUSE", 12.0)
    monkeypatch.setattr(api, "_LONGEST_PAUSE", 12.0)
    monkeypatch.setattr(starting, "_PAUSE", 12.0)
    asked = Asked(1)
    id = new_dispatch_id()
    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, hands.spec(), asked)
    assert asked.last - asked.began < 9, "not after the pause"
    faults.clear()
    assert hands.provider.find(id) is None


def test_a_stop_while_an_answer_is_missing_is_told_as_unknown(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task may be there: so nobody says that it never will."""
    monkeypatch.setattr(api, "_FIRST_PAUSE", 12.0)
    hands.emulator.faults.cut(None, after=True, action="RunTask")
    asked = Asked(6)  # when the call was made, on a busy machine too
    id = new_dispatch_id()
    with pytest.raises(Unreachable) as caught:
        hands.provider.dispatch(id, hands.spec(), asked)
    assert caught.value.sent is True
    hands.emulator.faults.clear()
    found = hands.provider.find(id)
    assert found is not None
    assert hands.stop(found).kind.value == "signalled"


def test_a_registration_without_an_answer_has_started_nothing(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "REGISTER_SECONDS", 1.0)
    hands.emulator.faults.fail(None, action="RegisterTaskDefinition")
    with pytest.raises(Unreachable) as caught:
        hands.start(image=f"busybox:{hands.installation}-r")
    assert caught.value.sent is False


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_stop_before_the_start_leaves_nothing(hands: Hands, allowed: int) -> None:
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > allowed:
            raise StopRequested("a test")

    id = new_dispatch_id()
    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, hands.spec(), check)
    assert [body for body in hands.requests("RunTask") if body.get("startedBy") == id] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"subnets": ["subnet-missing"]}}, "does not exist"),
        ({"options": {"capacity_providers": [{"provider": "nobody"}]}}, "capacity provider was not found"),
        ({"options": {"platform_version": "9.9.9"}}, "PlatformUnknownException|platform version"),
    ],
)
def test_what_ecs_refuses_is_a_definite_refusal_in_its_words(hands: Hands, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SubmitRefused, match=words):
        hands.start(**fields)


def test_what_the_target_cannot_do_is_refused_before_anything_is_sent(hands: Hands) -> None:
    before = len(hands.emulator.faults.requests())
    with pytest.raises(InvalidRequest, match="8192"):
        hands.provider.check(hands.spec("x" * 9000))
    assert len(hands.emulator.faults.requests()) == before


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"image": "missing/image"}, "image_missing", "CannotPullContainerError"),
        ({"command": ("/no/such/program",)}, None, None),
    ],
)
def test_a_start_that_fails_is_an_end_in_ecs_words(
    hands: Hands, fields: dict[str, Any], reason: str | None, words: str | None
) -> None:
    handle = hands.provider.dispatch(new_dispatch_id(), hands.spec().model_copy(update=fields), never)
    seen = hands.end(handle)
    if reason is None:
        # The init runs, and finds no program.
        assert seen.exit_code == 127 or seen.reason == "program_not_found"
    else:
        assert (seen.never_started, seen.exit_code, seen.reason) == (True, None, reason)
        assert words is not None
        assert words in (seen.message or "")


def test_a_task_that_ecs_does_not_show_yet_is_not_gone(hands: Hands) -> None:
    hands.emulator.faults.hide_created(5)
    handle = hands.start()
    assert hands.observe(handle).phase is Phase.PENDING
    assert hands.stop(handle).kind.value == "signalled", "ECS's own answer to the stop decides"
    seen = hands.end(handle)
    assert seen.phase is Phase.ENDED


def test_every_word_reaches_the_workload_unchanged(hands: Hands) -> None:
    awkward = ("$HOME", "$(X)", "$$", "", "-n", "two\nlines", "naïve 🦜", '"')
    show = "for one in \"$@\"; do printf '%s' \"$one\" | od -An -v -tx1 | tr -d ' \\n'; echo :; done; echo ready"
    spec = hands.spec().model_copy(update={"command": ("sh", "-c", show, "show", *awkward)})
    handle = hands.provider.dispatch(new_dispatch_id(), spec, never)
    hands.ready(handle)
    shown = hands.output(handle).decode().split("ready")[0].replace(":", "").split("\n")
    assert [bytes.fromhex(one).decode() for one in shown[: len(awkward)]] == list(awkward)
    mark = Mark.of(hands.task(handle))
    assert mark == Mark(handle.id, hands.installation, spec.digest(), 5)


def test_a_conflict_about_a_task_that_nobody_shows_is_still_one(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_SHOWN", 0.1)
    starter = hands.provider._made.starter
    gone = "arn:aws:ecs:eu-central-1:123456789012:task/default/" + "0" * 32
    error = Refusal("ConflictException", "in use", {"resourceIds": [gone]})
    with pytest.raises(DispatchConflict, match="another request"):
        starter._taken(Mark("x", "y", "z", 5), error)


def test_an_end_of_memory_is_told(hands: Hands) -> None:
    script = "data=0123456789abcdef; while :; do data=$data$data; done"
    handle = hands.start(script, resources={"memory": 64 << 20})
    seen = hands.end(handle)
    assert (seen.exit_code, seen.oom, seen.reason) == (137, True, "oom_killed")
    eventually(lambda: not hands.processes(handle))
