"""What people read."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from agora.cli.follow import event_words
from agora.cli.look import record_pairs
from agora.cli.output import end_line, print_table, printable, span, state_words
from agora.cli.progress import progress_words
from agora.model.cause import Cause, Via
from agora.model.events import Event, EventType
from agora.model.record import Record

Make = Callable[..., Record]
CAUSE = Cause(actor="alice", via=Via.CLI, reason="too slow")


@pytest.mark.parametrize(
    ("state", "fields", "words"),
    [
        ("running", {}, "running"),
        ("running", {"reachable": False}, "running (not reachable)"),
        ("cancelled", {"forced": True, "evidence": "proven", "confirmed": True}, "cancelled (forced, proven)"),
        ("cancelled", {"forced": True, "evidence": "inferred"}, "cancelled (forced, inferred)"),
        ("cancelled", {"confirmed": False}, "cancelled (not confirmed)"),
        ("cancelled", {"acknowledged": True}, "cancelled (acknowledged by the worker)"),
        ("failed", {"exit_code": 3}, "failed (exit code 3)"),
        ("failed", {"exit_code": 137, "oom": True}, "failed (exit code 137, out of memory)"),
        ("failed", {"reason": "never_submitted"}, "failed (never_submitted)"),
        ("stopping", {"delivered": False}, "stopping (stop not delivered yet)"),
    ],
)
def test_the_state_comes_with_what_is_known(make_record: Make, state: str, fields: Any, words: str) -> None:
    assert state_words(make_record(state, **fields)) == words


def test_one_line_says_who_and_why(make_record: Make) -> None:
    record = make_record("cancelled", forced=True, evidence="proven", confirmed=True, cause=CAUSE)
    assert end_line(record) == f"{record.id} cancelled (forced, proven) by alice via cli: too slow"


def test_one_line_says_why_it_failed_in_the_backends_words(make_record: Make) -> None:
    note = {"type": "backend_said", "at": "2031-01-01T00:00:00Z", "data": {"message": "over\x1b[2J budget"}}
    record = make_record("failed", reason="vetoed", notes=[note])
    assert end_line(record) == f"{record.id} failed (vetoed): over?[2J budget"


def test_the_details_tell_cause_grace_and_what_is_missing(make_record: Make) -> None:
    record = make_record(
        "stopping", cause=CAUSE, effective_grace=10.0, delivered=False, reachable=False, labels={"team": "data"}
    )
    pairs = dict(record_pairs(record))
    assert pairs["Cause"] == "alice via cli: too slow"
    assert pairs["Grace"] == "30 s asked, 10 s in force"
    assert pairs["Delivered"] == "no: no backend accepted the stop yet"
    assert pairs["Reachable"].startswith("no: the backend did not answer")
    assert pairs["Labels"] == "team=data"
    assert "Exit code" not in pairs


def test_progress_tells_the_time_left_of_the_grace(make_record: Make) -> None:
    now = datetime.now(UTC)
    words = progress_words(make_record("stopping", stopping_at=now, effective_grace=20.9, cause=CAUSE))
    assert "stopping  by alice via cli: too slow  20s of 20s grace left" in words
    over = progress_words(make_record("stopping", stopping_at=datetime(2020, 1, 1, tzinfo=UTC)))
    assert over.endswith("grace is over")


def test_an_event_is_one_line_with_its_cause() -> None:
    event = Event(
        id="1", source="i", subject="d", sequence=4, type=EventType.CANCEL_REQUESTED, time=datetime.now(UTC),
        data={"cause": CAUSE.model_dump(mode="json"), "grace": 5, "none": None, "empty": []},
    )  # fmt: skip
    assert event_words(event).split("  ") == ["cancel_requested", "by alice via cli: too slow", "grace=5"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-3, "0s"), (59.9, "59s"), (60, "1m"), (3_725, "1h 2m"), (90_000, "1d 1h"), (86_401, "1d 1s")],
)
def test_lengths_of_time_have_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a?[2Jb?c"
    assert printable("a\nb", keep_lines=True) == "a\nb"


def test_a_table_without_a_terminal_is_plain_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID", "STATE"), [("abc", "running"), ("d", "a\x07")])
    assert capsys.readouterr().out == "ID   STATE\nabc  running\nd    a?\n"
