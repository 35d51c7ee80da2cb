"""Exit codes, as a table."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest
from agora import errors
from agora.cli.base import Exit, Session, record_exit_code
from agora.cli.cancel import waited_code, worst
from agora.cli.failures import explain
from agora.cli.output import OutputClosed
from agora.model.record import Record

Make = Callable[..., Record]


@pytest.mark.parametrize(
    ("state", "fields", "code"),
    [
        ("succeeded", {"exit_code": 0}, 0),
        ("cancelled", {"exit_code": 0}, 130),
        ("cancelled", {"exit_code": 42}, 130),
        ("cancelled", {"exit_code": 137, "signal": 9}, 130),
        ("cancelled", {}, 130),
        ("timed_out", {"exit_code": 143, "signal": 15}, 124),
        ("timed_out", {"exit_code": 0}, 124),
        ("lost", {}, 125),
        ("lost", {"exit_code": 3}, 125),
        ("failed", {"exit_code": 3}, 3),
        ("failed", {"exit_code": 139, "signal": 11}, 139),
        ("failed", {"signal": 9}, 137),
        ("failed", {}, 125),
        ("failed", {"exit_code": 0}, 125),
        ("failed", {"exit_code": 0, "signal": 9}, 125),
        ("running", {}, 125),
        ("stopping", {}, 125),
    ],
)
def test_run_and_wait_exit_by_the_state_first(make_record: Make, state: str, fields: Any, code: int) -> None:
    assert record_exit_code(make_record(state, **fields)) == code


@pytest.mark.parametrize(
    ("codes", "code"),
    [([], 0), ([0, 0], 0), ([0, 3], 3), ([7, 3], 7), ([7, 4, 0], 4), ([4, 5], 5), ([5, 2], 2), ([2, 1, 7], 1)],
)
def test_the_worst_of_several_cancels_counts(codes: list[int], code: int) -> None:
    assert worst(codes) == code


@pytest.mark.parametrize(
    ("state", "confirmed", "code"),
    [("cancelled", True, 0), ("cancelled", False, 7), ("stopping", None, 7), ("running", None, 7),
     ("succeeded", True, 3), ("failed", True, 3), ("timed_out", True, 3), ("lost", False, 3)],
)  # fmt: skip
def test_cancel_with_wait_exits_by_the_end(make_record: Make, state: str, confirmed: bool | None, code: int) -> None:
    assert waited_code(make_record(state, confirmed=confirmed)) == code


@pytest.mark.parametrize(
    ("error", "code", "waiting"),
    [
        (errors.InvalidRequest("x"), 2, 2),
        (errors.UnknownTarget("x"), 2, 2),
        (errors.AmbiguousId("x"), 2, 2),
        (errors.DispatchNotFound("x"), 4, 125),
        (errors.DispatchConflict("x"), 1, 125),
        (errors.StoreError("x"), 1, 125),
        (errors.Unreachable("x"), 1, 125),
        (errors.Vetoed("x"), 1, 125),
        (RuntimeError("x"), 1, 125),
        (ExceptionGroup("several", [ExceptionGroup("inner", [errors.StoreError("x")])]), 1, 125),
        (click.UsageError("x"), 2, 2),
        (KeyboardInterrupt(), 130, 130),
        (click.Abort(), 130, 130),
        (OutputClosed(BrokenPipeError()), 141, 141),
        (OutputClosed(OSError(28, "No space left on device")), 1, 125),
    ],
)
def test_every_error_has_its_code(error: BaseException, code: int, waiting: int) -> None:
    assert explain(error, Session()).code == code
    assert explain(error, Session(own_error=Exit.UNKNOWN)).code == waiting


HANGING = """
import sys, threading
import agora.cli, agora.cli.app
def invoke(args):
    threading.Thread(target=threading.Event().wait).start()
    print("before the end")
    return 7
agora.cli.app.invoke = invoke
agora.cli.main()
"""


def test_a_call_that_never_returns_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (7, "before the end\n")


def test_after_something_was_sent_a_refusal_is_no_usage_error() -> None:
    session = Session(own_error=Exit.UNKNOWN, sent=True)
    assert explain(errors.InvalidRequest("x"), session).code == 125


def test_an_unexpected_error_says_what_it_is_and_where_to_look() -> None:
    message = explain(KeyError("colour"), Session()).message
    assert message == "unexpected error: KeyError: 'colour' (-v shows where)"
