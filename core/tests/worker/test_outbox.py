"""Events get out: in order, not too often, and never at the price of the program."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agora.worker.outbox import KEPT, Outbox
from agora.worker.sinks import File, Http, Marked

Start = Callable[..., Any]
Eventually = Callable[[Callable[[], Any]], Any]

TELL = """
import os, sys, time
from agora.worker import BlockingWorker
with BlockingWorker(progress_every=float(os.environ.get("EVERY", "1"))) as worker:
    for number in range(int(os.environ.get("COUNT", "3"))):
        worker.progress(number, 100, step="a")
        worker.heartbeat()
    if os.environ.get("WAIT"):
        print("ready", flush=True)
        time.sleep(60)
"""


class Broken:
    """Takes nothing."""

    def send(self, event: bytes, seconds: float) -> None:
        """Refuse it."""
        raise ConnectionError

    def close(self) -> None:
        """Nothing is open."""


class Kept:
    """Takes everything."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def send(self, event: bytes, seconds: float) -> None:
        """Take it."""
        self.events.append(json.loads(event))

    def close(self) -> None:
        """Nothing is open."""


def test_what_comes_too_often_becomes_one_with_the_latest_word(program: Start) -> None:
    one = program(TELL, COUNT="500", EVERY="30")
    begun = time.monotonic()
    assert one.ends() == 0, one.errors()
    assert time.monotonic() - begun < 20, "the last word waited for its turn"
    progress = one.told("dispatch.progress")
    assert 1 <= len(progress) <= 2
    assert progress[-1]["data"] == {"done": 499, "total": 100, "step": "a"}
    assert 1 <= len(one.told("dispatch.heartbeat")) <= 2
    assert [event["sequence"] for event in one.events] == list(range(1, len(one.events) + 1))
    assert len({event["id"] for event in one.events}) == len(one.events)


def test_a_control_plane_gets_cloudevents(
    program: Start, control_plane: Callable[..., Any], eventually: Eventually
) -> None:
    plane = control_plane()
    one = program(TELL, AGORA_WORKER_URL=plane.url, AGORA_WORKER_TOKEN="t0ken", WAIT="1")
    one.says("ready")
    # Later it has the time of one stage, and what did not go there is output.
    eventually(lambda: {"dispatch.progress", "dispatch.heartbeat"} <= {event["type"] for event in plane.events})
    one.tell()
    assert one.ends() == 143, one.errors()
    assert {event["type"] for event in plane.events} == {
        "dispatch.progress", "dispatch.heartbeat", "dispatch.cancelled",
    }  # fmt: skip
    for event in plane.events:
        assert (event["specversion"], event["subject"], event["source"]) == ("1.0", "d1", "agora-worker")
    assert plane.tokens == {"Bearer t0ken"}
    assert one.events == [], "told twice"


@pytest.mark.parametrize("answer", [None, 500, 400], ids=["hangs", "fails", "refuses"])
def test_what_the_control_plane_did_not_take_is_in_the_output(
    program: Start, control_plane: Callable[..., Any], answer: int | None
) -> None:
    plane = control_plane(answer)
    one = program(TELL, AGORA_WORKER_URL=plane.url, AGORA_WORKER_GRACE="10", WAIT="1")
    one.says("ready")
    assert plane.asked.wait(30)
    begun = time.monotonic()
    one.tell()
    assert one.ends() == 143, one.errors()
    assert time.monotonic() - begun < 8, "longer than the stage of the report"
    assert [event["type"] for event in one.events].count("dispatch.cancelled") == 1
    assert one.told("dispatch.progress")


def test_a_full_pipe_holds_up_nothing_and_the_event_is_in_the_spool(
    program: Start, tmp_path: Path, eventually: Eventually
) -> None:
    full = tmp_path / "full"
    one = program(
        f"""
        import os, time
        from agora.worker import BlockingWorker
        unread, written = os.pipe()
        os.dup2(written, 1)
        with BlockingWorker() as worker:
            os.set_blocking(1, False)
            try:
                while True:
                    os.write(1, b"x" * 4096)
            except BlockingIOError:
                pass
            os.set_blocking(1, True)
            open({str(full)!r}, "w").close()
            time.sleep(60)
        """,
        AGORA_WORKER_GRACE="10",
    )
    eventually(full.exists)
    begun = time.monotonic()
    one.tell()
    assert one.process.wait(30) == 143
    assert time.monotonic() - begun < 8
    spool = tmp_path / "agora-worker-d1.jsonl"
    (line,) = spool.read_text().splitlines()
    assert json.loads(line)["type"] == "dispatch.cancelled"
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    said = subprocess.run(
        [sys.executable, "-m", "agora.worker", "undelivered", str(spool)], capture_output=True, text=True, check=True
    )
    assert said.stdout == line + "\n"


def test_a_file_takes_events(program: Start, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    one = program(TELL, AGORA_WORKER_EVENTS=str(path))
    assert one.ends() == 0, one.errors()
    assert {json.loads(line)["type"] for line in path.read_text().splitlines()} == {
        "dispatch.progress", "dispatch.heartbeat",
    }  # fmt: skip
    assert one.events == []


@pytest.mark.parametrize("environment", [{"AGORA_WORKER_EVENTS": "none"}, {"AGORA_DISPATCH_ID": ""}])
def test_outside_of_a_dispatch_nothing_is_printed(program: Start, environment: dict[str, str]) -> None:
    one = program(TELL, **environment)
    assert one.ends() == 0, one.errors()
    assert one.output == ""
    assert one.events == []


def test_values_that_are_no_json_or_too_much_are_refused_where_they_are_said() -> None:
    outbox = Outbox("d1", [Kept()], {})
    with pytest.raises(TypeError):
        outbox.put("dispatch.progress", {"x": object()})
    with pytest.raises(ValueError, match="limit is 3000"):
        outbox.put("dispatch.progress", {"x": "x" * 4000})
    with pytest.raises(ValueError, match="not JSON compliant"):
        outbox.put("dispatch.progress", {"x": float("nan")})


def test_what_nobody_takes_is_kept_within_bounds_and_never_without_the_cancel(eventually: Eventually) -> None:
    outbox = Outbox("d1", [Broken()], {})
    outbox.put("dispatch.cancelled", {"clean": True})
    for number in range(KEPT + 50):
        outbox.put("dispatch.progress", {"done": number})
    with pytest.raises(TimeoutError, match=f"{KEPT} events"):
        outbox.close(0.5)
    kept = [json.loads(event) for event in outbox.undelivered]
    assert len(kept) == KEPT
    assert kept[0]["type"] == "dispatch.cancelled"
    assert kept[-1]["data"] == {"done": KEPT + 49}


def test_the_last_progress_is_told_before_the_cancel() -> None:
    kept = Kept()
    outbox = Outbox("d1", [kept], {"dispatch.progress": 60.0})
    for number in range(3):
        outbox.put("dispatch.progress", {"done": number})
    outbox.put("dispatch.cancelled", {})
    outbox.close(5)
    assert [event["type"] for event in kept.events][-2:] == ["dispatch.progress", "dispatch.cancelled"]
    assert kept.events[-2]["data"] == {"done": 2}
    assert [event["sequence"] for event in kept.events] == list(range(1, len(kept.events) + 1))


def test_the_next_best_way_takes_what_the_first_did_not() -> None:
    spool = Kept()
    outbox = Outbox("d1", [Broken(), Broken(), spool], {})
    outbox.put("dispatch.progress", {"done": 1})
    outbox.close(1)
    assert [event["data"] for event in spool.events] == [{"done": 1}]
    assert outbox.undelivered == ()


def test_much_that_nobody_took_is_in_the_spool_though_the_pipe_is_full(
    program: Start, tmp_path: Path, eventually: Eventually
) -> None:
    full = tmp_path / "full"
    one = program(
        f"""
        import os, threading, time
        from agora.worker import BlockingWorker
        unread, written = os.pipe()
        os.dup2(written, 1)
        with BlockingWorker(progress_every=0, budgets={{"report": 3.0}}) as worker:
            os.set_blocking(1, False)
            try:
                while True:
                    os.write(1, b"x" * 4096)
            except BlockingIOError:
                pass
            number = 0
            while len(worker.undelivered) < 100:
                worker.progress(number := number + 1)
                time.sleep(0.001)
            open({str(full)!r}, "w").close()
            time.sleep(60)
        """,
        AGORA_WORKER_GRACE="4",
        AGORA_WORKER_URL="http://127.0.0.1:1/nobody",
    )
    eventually(full.exists)
    one.tell()
    assert one.process.wait(30) == 143
    told = [json.loads(line)["type"] for line in (tmp_path / "agora-worker-d1.jsonl").read_text().splitlines()]
    assert told.count("dispatch.progress") >= 100
    assert told[-1] == "dispatch.cancelled"


def test_an_address_that_http_refuses_costs_no_event_and_is_not_repeated(program: Start) -> None:
    one = program(TELL, AGORA_WORKER_URL="http://user:s3cret@127.0.0.1:1/x")
    assert one.ends() == 0
    assert one.told("dispatch.progress")
    assert one.errors() == ""
    with pytest.raises(ValueError, match="AGORA_WORKER_URL") as wrong:
        Http("http://user:s3cret@host/x", None).send(b"{}", 1)
    assert "s3cret" not in str(wrong.value)


@pytest.mark.parametrize("end", ["cancelled", "finished"])
def test_where_no_thread_is_to_be_had_the_end_is_done_without(program: Start, tmp_path: Path, end: str) -> None:
    one = program(
        """
        import os, threading, time
        from agora.worker import BlockingWorker
        with BlockingWorker() as worker:
            def refused(self):
                raise RuntimeError("can't start new thread")
            threading.Thread.start = refused
            worker.on_cancel(lambda: os.write(1, b"called back\\n"))
            open(worker.workspace + "/file", "w").close()
            worker.progress(1)
            print("ready", flush=True)
            if os.environ["END"] == "cancelled":
                time.sleep(60)
        """,
        END=end,
        AGORA_WORKER_GRACE="10",
    )
    one.says("ready")
    if end == "cancelled":
        one.tell()
    assert one.ends() == (143 if end == "cancelled" else 0), one.errors()
    assert ("called back" in one.output) is (end == "cancelled")
    kinds = [event["type"] for event in one.events]
    assert kinds == ["dispatch.progress", *(["dispatch.cancelled"] if end == "cancelled" else [])]
    assert not list(tmp_path.glob("agora-workspace-*"))
    assert one.errors() == ""


def test_a_line_that_a_full_disk_took_a_part_of_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events"
    file = File(str(path))
    file.send(b'{"n":1}', 1)
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:4]))
        with pytest.raises(BlockingIOError):
            file.send(b'{"n":2}', 1)
    file.send(b'{"n":3}', 1)
    file.send(b'{"n":4}', 1)
    assert path.read_text().splitlines() == ['{"n":1}', '{"n"', '{"n":3}', '{"n":4}']


def test_a_spool_is_no_link_and_nobody_else_s(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("")
    link.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        File(str(link), private=True).send(b"{}", 1)
    os.chown(victim, 12345, -1)
    with pytest.raises(PermissionError):
        File(str(victim), private=True).send(b"{}", 1)
    assert victim.read_text() == ""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        File(str(tmp_path / "pipe")).send(b"{}", 1)


def test_a_closed_stream_and_a_wrong_address_are_errors() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Marked("d1", 9999)
    for wrong in ("ftp://host/x", "host", "http://"):
        with pytest.raises(ValueError, match="AGORA_WORKER_URL"):
            Http(wrong, None)
