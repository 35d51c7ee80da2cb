"""What a program has spent is told with its progress: nothing of it is lost, and too much of it waits for nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from agora.worker.marks import pack
from agora.worker.outbox import DATA_BYTES, Outbox
from agora.worker.spending import LONGEST_UNIT, MOST, MOST_UNITS, Spending

Start = Callable[..., Any]
Eventually = Callable[[Callable[[], Any]], Any]
HEAD = """
import sys, time
from agora.worker import BlockingWorker
"""


def test_the_last_total_is_told_and_progress_of_the_program_stays(program: Start) -> None:
    one = program(
        HEAD
        + """
with BlockingWorker(progress_every=30) as worker:
    worker.progress(0, 100)
    for number in range(500):
        worker.progress(number, 100, step="a")
        worker.spend(tokens=2, usd=0.25)
    assert worker.spent == {"tokens": 1000, "usd": 125}, worker.spent
    assert worker.budget == {}
"""
    )
    assert one.ends() == 0, one.errors()
    progress = [event["data"] for event in one.told("dispatch.progress")]
    assert progress[-1] == {"done": 499, "total": 100, "step": "a", "spent": {"tokens": 1000, "usd": 125}}
    assert len(progress) <= 3


def test_what_exceeds_the_budget_is_told_at_once_and_that_once(
    program: Start, eventually: Eventually, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    one = program(
        HEAD
        + f"""
import os
with BlockingWorker(progress_every=600) as worker:
    worker.progress(1, 2)
    worker.spend(tokens=10)
    while not os.path.exists({str(go_on)!r}):
        time.sleep(0.02)
    worker.spend(tokens=90)
    print("all of it", flush=True)
    time.sleep(0.3)
    worker.spend(tokens=1)
    worker.spend(tokens=1)
    time.sleep(600)
""",
        AGORA_WORKER_BUDGET="usd=1,tokens=100.0,odd=,worse=-1,=3",
    )
    eventually(lambda: one.told("dispatch.progress"))
    go_on.touch()
    one.says("all of it")
    eventually(lambda: one.told("dispatch.progress")[-1]["data"].get("spent", {}).get("tokens", 0) > 100)
    one.tell()
    assert one.ends() == 143, one.errors()
    told = one.told("dispatch.progress")
    spent = [event["data"]["spent"]["tokens"] for event in told if "spent" in event["data"]]
    assert 100 not in spent, "all of it, and no more"
    assert spent[-1] == 102, "once more at the end"
    assert len(told) <= 4
    assert one.told("dispatch.cancelled")


@pytest.mark.parametrize("closed", [False, True], ids=["waits", "ends"])
def test_a_total_waits_for_its_turn_beside_what_the_program_says(closed: bool, eventually: Eventually) -> None:
    class Kept:
        def __init__(self) -> None:
            self.events: list[bytes] = []

        def send(self, event: bytes, seconds: float) -> None:
            self.events.append(event)

        def close(self) -> None:
            pass

    sink, spending = Kept(), Spending({})
    box = Outbox("d1", [sink], {"dispatch.progress": 600 if closed else 1.5}, {"dispatch.progress": spending.told})
    box.put("dispatch.progress", {"done": 1})
    eventually(lambda: len(sink.events) == 1)
    box.put("dispatch.progress", {"done": 2})
    spending.add({"tokens": 7})
    box.nudge("dispatch.progress", at_once=False)
    if closed:
        box.close(10)
    else:
        eventually(lambda: len(sink.events) == 2)
        box.close(10)
    assert b'"data":{"done":1}' in sink.events[0]
    assert all(b'"data":{"done":2,"spent":{"tokens":7.0}}' in event for event in sink.events[1:])
    assert len(sink.events) == (2 if closed else 3), "what was told long ago is told again at the end"


def test_the_largest_totals_fit_into_a_line_beside_the_largest_data() -> None:
    class Lines:
        lines: ClassVar[list[bytes]] = []

        def send(self, event: bytes, seconds: float) -> None:
            self.lines.append(pack("d" * 32, event))

        def close(self) -> None:
            pass

    spending = Spending({})
    units = [f"{number:x}{'u' * (LONGEST_UNIT - 1)}" for number in range(MOST_UNITS)]
    spending.add(dict.fromkeys(units[1:], 1.23456789012e-300) | {units[0]: MOST - 0.5})
    box = Outbox("d" * 32, [Lines()], {"dispatch.progress": 0}, {"dispatch.progress": spending.told})
    box._number = 10**9
    box.put("dispatch.progress", {"text": "x" * (DATA_BYTES - len('{"text":""}'))})
    box.close(10)
    assert len(Lines.lines[0]) > DATA_BYTES
    assert json.loads(Lines.lines[0].split(b" ", 1)[1])["data"]["spent"] == spending.totals()


def test_what_is_no_amount_is_refused_where_it_is_said(program: Start) -> None:
    one = program(
        HEAD
        + """
from decimal import Decimal
with BlockingWorker() as worker:
    for wrong in (float("nan"), float("inf"), -0.1, "7", None, True, [1], 10**400, Decimal("NaN")):
        try:
            worker.spend(tokens=wrong)
        except ValueError as error:
            assert "tokens" in str(error), error
        else:
            raise SystemExit(f"{wrong!r} was taken")
    for wrong in ({"a b": 1}, {"": 1}, {"a" * 25: 1}):
        try:
            worker.spend(**wrong)
        except ValueError:
            continue
        raise SystemExit(f"{wrong!r} was taken")
    try:
        worker.progress(1, 2, spent="3 hours")
    except ValueError as error:
        assert "spent" in str(error), error
    else:
        raise SystemExit("progress took `spent`")
    worker.spend()
    worker.spend(tokens=0, usd=Decimal("0.5"))
    assert worker.spent == {"tokens": 0, "usd": 0.5}
"""
    )
    assert one.ends() == 0, one.errors()
    assert one.told("dispatch.progress")[-1]["data"] == {"spent": {"tokens": 0, "usd": 0.5}}
