"""Watching: what changes is pushed, and thousands of tasks stay under the published rates."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from agora.model.observation import Handle, Observation, Phase
from agora_conformance.emulators.ecs import EcsEmulator, Throttle, Timing
from agora_fargate import events, watch
from agora_fargate.api import OutOfBudget
from agora_fargate.budget import RATES, Bucket, Budget, Rate
from agora_fargate.watch import Plan
from fargate_harness import GROUP, Hands, Sink, eventually

pytestmark = pytest.mark.backend("fargate")

LIVE = 5_000


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(Rate(10, 2), clock, clock.sleep)
    for _ in range(10):
        assert bucket.take(0)
    assert clock.now == 0
    for _ in range(20):
        assert bucket.take(1000)
    assert 9.9 < clock.now < 10.1
    assert not bucket.take(clock.now + 0.1), "a turn that comes too late is not waited for"


def test_a_wait_for_a_turn_looks_at_least_once_a_second() -> None:
    clock = Clock()
    bucket = Bucket(Rate(1, 0.1), clock, clock.sleep)
    looks: list[float] = []
    assert bucket.take(60, look=lambda: looks.append(clock.now))
    assert looks == [], "what need not wait need not look"
    assert bucket.take(60, look=lambda: looks.append(clock.now))
    assert 9.9 < clock.now < 10.1
    assert max(after - before for before, after in pairwise([*looks, clock.now])) <= 1


def test_the_background_leaves_a_reserve() -> None:
    clock = Clock()
    bucket = Bucket(Rate(9, 1), clock, clock.sleep)
    taken = 0
    while bucket.take(clock.now, background=True):
        taken += 1
    assert taken == 7
    assert bucket.take(clock.now)
    bucket.drain()
    assert not bucket.take(clock.now), "after a throttle nobody has anything"


@pytest.mark.parametrize(("changing", "share"), [(0, 1.0), (50, 0.5), (LIVE, 1.0)])
def test_five_thousand_live_tasks_stay_under_the_published_rates(changing: int, share: float) -> None:
    """Five minutes against the emulator's own throttle, in simulated time; the core observes all every 30 s too."""
    clock = Clock()
    throttle = Throttle(clock=clock)
    published = RATES["describe"]
    bucket = Bucket(Rate(published.burst * share, published.per_second * share), clock, clock.sleep)
    plan = Plan(published.per_second * share / 2)
    handles = {f"t{number}": Handle(id=f"t{number}", backend="b", data={}) for number in range(LIVE)}
    steady = Observation(phase=Phase.RUNNING)
    stopping = Observation(phase=Phase.RUNNING, effective_grace=30)
    looked: dict[str, float] = {}
    longest = calls = 0.0
    backstop = 0.0

    def describe(background: bool) -> None:
        nonlocal calls
        assert bucket.take(clock.now + 60, background=background)
        assert throttle.admits("ecs", "DescribeTasks"), throttle.refused
        calls += 1

    while clock.now < 300:
        if clock.now >= backstop:
            backstop = clock.now + 30
            for _ in range(LIVE // 100):
                describe(background=False)
        due = plan.due(handles, clock.now)
        for start in range(0, len(due), 100):
            describe(background=True)
            for handle in due[start : start + 100]:
                if handle.id in looked:
                    longest = max(longest, clock.now - looked[handle.id])
                looked[handle.id] = clock.now
                plan.is_news(handle.id, stopping if int(handle.id[1:]) < changing else steady, clock.now)
        clock.now += 0.1
    assert throttle.refused == {}
    assert len(looked) == LIVE
    assert calls <= published.burst + published.per_second * share * clock.now
    assert longest <= 60, "every task is looked at within the declared lag"


def test_few_tasks_are_looked_at_often_and_many_as_the_rate_allows() -> None:
    plan = Plan(10)
    assert (plan.interval(1, soon=True), plan.interval(1, soon=False)) == (watch.SOON, watch.LATER)
    assert plan.interval(LIVE, soon=False) == 2 * math.ceil(LIVE / 100) / 10
    assert Plan(10, watch.BACKSTOP).interval(1, soon=False) == watch.BACKSTOP


def test_one_budget_for_every_target_of_a_process() -> None:
    from agora_fargate.budget import shared

    assert shared("here", 0.5) is shared("here", 0.5)
    assert shared("here", 0.5) is not shared("there", 0.5)
    modest = Budget(0.1)
    assert modest.bucket("define").rate == Rate(2, 0.1)
    assert modest.bucket("delete definitions").rate.burst == 1, "a bucket holds one call at least"


def watching(hands: Hands, sink: Sink) -> threading.Thread:
    thread = threading.Thread(target=lambda: hands.provider.watch(sink), daemon=True)
    thread.start()
    return thread


def test_a_life_is_pushed(hands: Hands) -> None:
    handle = hands.start()
    sink = Sink()
    sink.live[handle.id] = handle
    thread = watching(hands, sink)
    eventually(lambda: sink.up)
    eventually(lambda: sink.last(handle).phase is Phase.RUNNING)
    hands.stop(handle)
    eventually(lambda: sink.last(handle).phase is Phase.ENDED)
    assert sink.last(handle).exit_code == 42
    assert len(sink.seen[handle.id]) == len({one.model_dump_json() for one in sink.seen[handle.id]})
    sink.over.set()
    thread.join(50)
    assert not thread.is_alive()


def test_what_is_missing_is_asked_for_and_not_told(hands: Hands) -> None:
    handle = hands.start("exit 0")
    hands.end(handle)
    hands.emulator.forget(handle.data["task"])
    hands.provider._new.clear()
    sink = Sink()
    sink.live[handle.id] = handle
    thread = watching(hands, sink)
    eventually(lambda: handle.id in sink.asked)
    sink.over.set()
    thread.join(50)
    assert not thread.is_alive()
    assert handle.id not in sink.seen


def test_a_used_up_rate_does_not_break_the_watch() -> None:
    handle = Handle(id="a", backend="b", data={})
    sink = Sink()
    sink.live["a"] = handle
    answers = [OutOfBudget("none left", sent=False), None]

    def observe(handles: Sequence[Handle]) -> Sequence[Observation]:
        if (answer := answers.pop(0)) is not None:
            raise answer
        sink.over.set()
        return [Observation(phase=Phase.RUNNING) for _ in handles]

    watch.run(sink, observe, Plan(100), lambda: False, None)
    assert sink.last(handle).phase is Phase.RUNNING


def test_an_event_asks_for_a_look_at_its_task_alone() -> None:
    sink = Sink()
    for name in ("a", "b"):
        sink.live[name] = Handle(id=name, backend="x", data={"task": f"arn:{name}"})
    began = time.monotonic()

    def listen(seconds: float) -> Sequence[str]:
        if time.monotonic() - began > 0.2:
            sink.over.set()
        return ["arn:b", "arn:unknown"]

    watch.run(sink, lambda some: [Observation(phase=Phase.RUNNING) for _ in some], Plan(100), lambda: False, listen)
    assert set(sink.asked) == {"b"}


def test_only_events_of_tasks_count() -> None:
    event = {"detail-type": "ECS Task State Change", "detail": {"taskArn": "arn:x", "version": 3}}
    assert events.task_of(json.dumps(event)) == "arn:x"
    for other in (
        "",
        "[]",
        "{}",
        "null",
        json.dumps({**event, "detail-type": "x"}),
        json.dumps({**event, "detail": 1}),
    ):
        assert events.task_of(other) is None


def test_events_of_a_queue_ask_for_a_look_at_once(tmp_path: Path) -> None:
    timing = Timing().hurried(0.02)
    with EcsEmulator(timing=timing, log_groups=(GROUP,), events="tasks", throttle=False) as emulator:
        hands = Hands(emulator, tmp_path, queue_url=emulator.queue_url("tasks"))
        handle = hands.start()
        hands.ready(handle)
        sink = Sink()
        sink.live[handle.id] = handle
        thread = watching(hands, sink)
        eventually(lambda: sink.last(handle).phase is Phase.RUNNING)
        eventually(lambda: handle.id in sink.asked)  # what happened before is in the queue
        hands.stop(handle)
        sink.asked.clear()
        eventually(lambda: handle.id in sink.asked)
        sink.over.set()
        thread.join(50)
        assert not thread.is_alive()
        queue = {"QueueUrl": emulator.queue_url("tasks"), "AttributeNames": ["ApproximateNumberOfMessagesNotVisible"]}
        told = hands.api._connection.client("sqs").get_queue_attributes(**queue)["Attributes"]
        assert told["ApproximateNumberOfMessagesNotVisible"] == "0", "what was read is out of the queue"
        hands.clean()
