"""Each stage has its own time: what hangs in one is left behind, and the next ones are done all the same."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agora.worker import STAGES, BlockingWorker, budgets
from agora.worker.stages import run

Start = Callable[..., Any]
Eventually = Callable[[Callable[[], Any]], Any]

#: Everything that a stage does can be seen from outside; `HANGS` says which of it does not come to an end.
SOURCE = """
import http.client, json, os, subprocess, sys, time  # two of them for the report, which has little time
from agora.worker import BlockingWorker
hangs = os.environ["HANGS"]
def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())  # in one piece, from any thread
def hang():
    say("hanging")
    while True:
        time.sleep(60)
class Channel:
    def __init__(self, name):
        self.name = name
    def release(self):
        if self.name == hangs:
            hang()
        say("released", self.name)
ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
with BlockingWorker(budgets={"report": 3.0}) as worker:
    worker.use(Channel("channel"))
    worker.use(Channel("other"))
    worker.on_cancel(hang if hangs == "callback" else lambda: say("called back"))
    child = subprocess.Popen([sys.executable, "-c", ignores], stdout=subprocess.PIPE)
    child.stdout.readline()
    say(str(child.pid))
    try:
        say("ready")
        time.sleep(99)
    finally:
        if hangs == "program":
            hang()
        if hangs == "exit":
            import atexit
            atexit.register(hang)
        say("cleaned up")
"""


def gone(pid: int) -> bool:
    """Whether a process is no more, or only its exit status is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("hangs", ["nothing", "callback", "program", "report", "channel", "exit"])
def test_a_hanging_stage_never_eats_the_next_one_s_time(
    program: Start, control_plane: Callable[..., Any], eventually: Eventually, hangs: str
) -> None:
    plane = control_plane(None if hangs == "report" else 204)
    one = program(SOURCE, HANGS=hangs, AGORA_WORKER_GRACE="8", AGORA_WORKER_URL=plane.url, AGORA_WORKER_SECRETS="KEY",
                  KEY="the-value")  # fmt: skip
    one.says("ready")
    child = int(one.output.split()[0])
    begun = time.monotonic()
    one.tell()
    assert one.ends() == 143
    assert time.monotonic() - begun < 8, "longer than the grace"
    eventually(lambda: gone(child))
    said = one.output.splitlines()
    assert ("called back" in said) is (hangs != "callback")
    assert ("cleaned up" in said) is (hangs != "program")
    assert ("released channel" in said) is (hangs != "channel")
    assert "released other" in said
    events = [event for event in plane.events if event["type"] == "dispatch.cancelled"]
    # What a peer that hangs did not take is in the output, where the engine reads it.
    assert len(events) == (0 if hangs == "report" else 1)
    assert len(one.told("dispatch.cancelled")) == (1 if hangs == "report" else 0)
    (told,) = events + one.told("dispatch.cancelled")
    assert told["data"]["clean"] is (hangs not in ("callback", "program"))


@pytest.mark.parametrize("late", ["in a round", "before a round"])
def test_a_stop_of_children_that_comes_to_run_too_late_kills_them_all_the_same(
    program: Start, eventually: Eventually, late: str
) -> None:
    one = program(
        """
        import os, subprocess, time
        from agora.worker import BlockingWorker, children
        deaf = "trap '' TERM; echo up; while :; do sleep 9; done"
        child = subprocess.Popen(["sh", "-c", deaf], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        if os.environ["LATE"] == "in a round":
            children._PAUSE = 2.0  # asleep while the last quarter of its time goes by
            children.stop(0.5)
            print("ready", flush=True)
        else:
            children.descendants, found = lambda: time.sleep(60), children.descendants
            def overran():
                children.descendants = found
                return original()
            original, children.kill = children.kill, overran
            with BlockingWorker():
                print("ready", flush=True)
                time.sleep(60)
        """,
        LATE=late,
        AGORA_WORKER_GRACE="4",
    )
    one.says("ready")
    child = int(one.output.split()[0])
    if late != "in a round":
        one.tell()
        assert one.ends() == 143
    eventually(lambda: gone(child))


def test_stages_are_data_and_fit_into_the_grace() -> None:
    names = ["program", "report", "channels", "secrets", "children", "workspace", "exit"]
    assert [stage.name for stage in STAGES] == names
    for grace in (2, 3, 10, 30, 120, 3600):
        seconds = budgets(grace)
        assert list(seconds) == [stage.name for stage in STAGES]
        assert sum(seconds.values()) == pytest.approx(0.9 * grace)
        assert all(value > 0 for value in seconds.values())
        assert seconds["program"] == max(seconds.values())
    assert budgets(3600)["program"] > 3200, "the program gets what is there"


def test_a_budget_can_be_chosen_and_a_misspelt_one_is_refused() -> None:
    with pytest.raises(ValueError, match="porgram"):
        BlockingWorker(budgets={"porgram": 1})


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(wrong: float) -> None:
    for settings in ({"grace": wrong}, {"budgets": {"exit": wrong}}):
        with pytest.raises(ValueError, match="seconds above 0"):
            BlockingWorker(**settings)


def test_what_is_no_channel_is_refused_where_it_is_said(program: Start) -> None:
    one = program(
        """
        import os, time
        from agora.worker import BlockingWorker
        with BlockingWorker() as worker:
            try:
                worker.use(object())
            except AttributeError as error:
                print("refused", flush=True)
            print("ready", flush=True)
            time.sleep(60)
        """,
        AGORA_WORKER_GRACE="6",
    )
    one.says("refused")
    one.says("ready")
    one.tell()
    assert one.ends() == 143
    assert one.errors() == ""
    assert one.told("dispatch.cancelled")


def test_one_of_many_that_hangs_keeps_no_other_from_being_done() -> None:
    done: list[int] = []
    released = threading.Event()
    works: list[Callable[[], object]] = [partial(done.append, number) for number in range(3)]
    assert run([released.wait, *works], 1, "test") == "overran", "it came back though that one had not"
    released.set()
    assert sorted(done) == [0, 1, 2]
    assert run([lambda: Path("/nowhere").stat()], 1, "test") == "failed: FileNotFoundError"
    assert run([], 1, "test") == "done"
