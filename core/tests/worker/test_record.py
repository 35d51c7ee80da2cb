"""What a worker says, by the rules of the record."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.record import Entry, State
from agora.model.spec import WORKER_VARIABLES, Spec
from agora.state import Noted, WorkerSaid, apply
from agora.state.machine import MAX_WORKER_EVENTS, MAX_WORKER_SOURCES
from pydantic import SecretStr

NOW = datetime.now(UTC)


def tell(entry: Entry, *facts: WorkerSaid) -> tuple[Entry, list[Any]]:
    """Apply facts; return the entry, and the data of the events."""
    events: list[Any] = []
    for fact in facts:
        change = apply(entry, fact, NOW)
        entry = change.entry
        events += [(event.type, event.data) for event in change.events]
    return entry, events


def progress(source: str, number: int) -> WorkerSaid:
    """Return a worker's word."""
    return WorkerSaid(EventType.PROGRESS, {"done": number}, source, number)


@pytest.fixture
def running(make_entry: Callable[..., Entry]) -> Entry:
    """A dispatch that is being stopped."""
    cause = Cause(actor="alice", via=Via.CLI)
    return make_entry("d1", state=State.STOPPING, submitter=None, cause=cause)


def test_what_is_read_twice_is_told_once(running: Entry) -> None:
    _, events = tell(running, progress("a", 1), progress("a", 2), progress("a", 1), progress("b", 1), progress("a", 2))
    assert [data["done"] for _, data in events] == [1, 2, 1]


def test_what_is_not_for_a_worker_to_say_is_noted_once_however_often_it_is_said(running: Entry) -> None:
    noted = apply(running, Noted("unreachable"), NOW).entry
    entry, events = tell(noted, *(WorkerSaid(EventType.TERMINATED, {}, "a", number) for number in range(1, 200)))
    assert events == []
    assert [note.type for note in entry.notes] == ["unreachable", "refused_worker_event"]


def test_events_of_one_workload_are_bounded(running: Entry) -> None:
    entry, events = tell(running, progress("a", MAX_WORKER_EVENTS), progress("a", MAX_WORKER_EVENTS + 1))
    assert len(events) == 1
    entry, _ = tell(running, *(progress(f"{number:x}", 1) for number in range(20)))
    assert list(entry.heard) == [f"{number:x}" for number in range(20 - MAX_WORKER_SOURCES, 20)]


@pytest.mark.parametrize(("data", "flag"), [({"clean": True}, True), ({}, True), ({"clean": False}, False)])
def test_the_first_word_of_a_cancel_stands(running: Entry, data: dict[str, Any], flag: bool) -> None:
    other = WorkerSaid(EventType.CANCELLED, {"clean": not flag}, "b", 1)
    entry, events = tell(running, WorkerSaid(EventType.CANCELLED, data, "a", 1), other)
    assert entry.acknowledged is flag
    ((kind, told),) = events
    assert kind is EventType.CANCELLED
    assert told["cause"]["actor"] == "alice", "the record knows who asked, the worker does not"


def test_what_the_workload_is_told_is_no_part_of_the_spec() -> None:
    spec = Spec(command=("true",), env={"A": "1"}, secrets={"B": SecretStr("x"), "C": SecretStr("y")}, grace=7)
    sent = spec.with_worker("d1")
    assert sent.digest() == spec.digest()
    some_have = {"AGORA_OWNER", "AGORA_WORKER_BUDGET", "AGORA_WORKER_HEARTBEAT", "AGORA_WORKER_INBOX"}
    assert sent.env.keys() - spec.env.keys() == WORKER_VARIABLES - some_have
    assert sent.env["AGORA_WORKER_SECRETS"] == "B=C"
    assert Spec(command=("true",), env={"A": "2"}).digest() != Spec(command=("true",), env={"A": "1"}).digest()
    chosen = Spec(command=("true",), env={"AGORA_WORKER_GRACE": "3", "AGORA_DISPATCH_ID": "other"}).with_worker("d1")
    assert (chosen.env["AGORA_WORKER_GRACE"], chosen.env["AGORA_DISPATCH_ID"]) == ("3", "d1")
