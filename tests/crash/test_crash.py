"""Kill -9 of the control plane at every step of dispatch and cancel; a fresh process sets everything right.

The background supervisor is left out where it would do the fresh process's work; the last tests are its own.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agora import BlockingClient, Record, State

# Several processes are started, one after the other: on a machine with other work that takes its time.
pytestmark = [pytest.mark.backend("local"), pytest.mark.timeout(400)]

HERE = Path(__file__).parent
PATIENCE = 50
CLAIM = 1.5
#: Workloads are found by it in /proc: another run of these tests at the same time has another one.
ID = f"crash-{os.getpid()}"

#: Says that it was started once it is ready for SIGTERM, then each one that it gets, and exits 7.
WORKLOAD = "trap 'echo TERM >> terms; exit 7' TERM; echo $$ >> starts; while :; do sleep 0.05; done"
STUBBORN = "trap 'echo TERM >> terms' TERM; echo $$ >> starts; while :; do sleep 0.05; done"


@dataclass
class World:
    """A state directory, the processes on it, and what can be seen of it from outside."""

    home: Path
    directory: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def control_plane(self, *words: str, fault: str = "", supervisor: bool = False, grace: int = 5) -> int:
        """Run a control plane to its end, which may be a violent one; return how it ended."""
        environment = {
            **os.environ, "PYTHONPATH": str(HERE), "AGORA_EXTENSIONS": "fault_points:FaultPoints",
            "AGORA_FAULT": fault, "AGORA_FAULT_LOG": str(self.directory / "points"), "AGORA_FAULT_CLAIM": str(CLAIM),
            "CRASH_SUPERVISOR": "yes" if supervisor else "no", "CRASH_GRACE": str(grace),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, str(HERE / "control_plane.py"), *words], env=environment, cwd=self.directory
        )
        self.started.append(process)
        return process.wait(PATIENCE)

    def lines(self, name: str) -> list[str]:
        """Return what was written to a file of the workload or of the fault points."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def workloads(self) -> list[int]:
        """Return every process that carries the marks of this dispatch, whoever knows it."""
        try:
            installation = (self.home / "installation").read_text().strip()
        except FileNotFoundError:
            return []
        marks = {f"AGORA_DISPATCH_ID={ID}".encode(), f"AGORA_DISPATCH_INSTALLATION={installation}".encode()}
        return [pid for pid in pids() if marks <= set(environ_of(pid))]

    def row(self) -> dict[str, Any]:
        """Read the stored record, without anybody who could change it meanwhile."""
        with closing(sqlite3.connect(self.home / "agora.db")) as connection:
            (body,) = connection.execute("SELECT body FROM dispatches WHERE id = ?", (ID,)).fetchone()
        found: dict[str, Any] = json.loads(body)
        return found

    def events(self) -> list[str]:
        """Read the types of the stored events, in order."""
        with closing(sqlite3.connect(self.home / "agora.db")) as connection:
            rows = connection.execute("SELECT sequence, type FROM events WHERE dispatch_id = ? ORDER BY 1", (ID,))
            found = rows.fetchall()
        assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
        return [kind.removeprefix("dispatch.") for _, kind in found]

    def reconcile_until(self, reached: Callable[[Record], bool]) -> Record:
        """Let a fresh process reconcile until the record is as expected."""
        until = time.monotonic() + PATIENCE
        with BlockingClient(self.home, supervisor=False, actor="fresh") as client:
            while True:
                client.reconcile()
                record = client.get(ID)
                if reached(record):
                    return record
                assert time.monotonic() < until, record
                time.sleep(0.05)


def pids() -> list[int]:
    """Return every process of this machine."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def environ_of(pid: int) -> list[bytes]:
    """Return a process's environment; nothing for one that has ended."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def eventually(question: Callable[[], Any]) -> Any:
    """Ask until the answer is true, and return it."""
    until = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < until, "never came true"
        time.sleep(0.02)
    return answer


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a world of this test's own; what is left of it is ended afterwards."""
    found = World(tmp_path / "agora-home", tmp_path)
    yield found
    for process in found.started:
        process.kill()
        process.wait()
    for pid in found.workloads():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def begun(world: World, *, script: str = WORKLOAD, supervisor: bool = False, grace: int = 5) -> None:
    """Dispatch a workload in peace and wait until it has its handler."""
    assert world.control_plane("dispatch", ID, "sh", "-c", script, supervisor=supervisor, grace=grace) == 0
    eventually(lambda: world.lines("starts"))
    assert len(world.workloads()) >= 1


def check_end(world: World, state: State, *, starts: int) -> None:
    """Look at everything that has to hold after the end, from outside."""
    assert world.row()["state"] == state.value
    assert Counter(world.events())["terminated"] == 1
    assert world.events()[-1] in ("terminated", "confirmed")
    assert world.workloads() == [], "a workload that nobody knows"
    assert len(world.lines("starts")) == starts, "started more than once"
    assert len(world.lines("terms")) <= 1, "more than one SIGTERM"


# --- dispatch ------------------------------------------------------------------------------------------------

BEFORE_THE_START = ["event:dispatch.requested", "event:dispatch.submitted", "dispatch:before"]
AFTER_THE_START = ["dispatch:after", "event:dispatch.started"]


@pytest.mark.parametrize("point", BEFORE_THE_START)
def test_a_submitter_killed_before_the_start_leaves_a_record_that_ends_and_no_workload(
    world: World, point: str
) -> None:
    assert world.control_plane("dispatch", ID, "sh", "-c", WORKLOAD, fault=point) == -signal.SIGKILL
    assert world.workloads() == []
    record = world.reconcile_until(lambda record: record.state.terminal)
    if point == "event:dispatch.requested":
        assert (record.state, record.reason, record.confirmed) == (State.FAILED, "never_submitted", True)
    else:
        assert (record.state, record.reason, record.confirmed) == (State.LOST, "never_started", True)
    check_end(world, record.state, starts=0)
    assert world.control_plane("dispatch", ID, "sh", "-c", WORKLOAD) == 0, "the same handle for the same id"
    assert world.lines("starts") == [], "an id that has ended is never used again"


@pytest.mark.parametrize("point", AFTER_THE_START)
def test_a_submitter_killed_after_the_start_leaves_a_workload_that_is_adopted(world: World, point: str) -> None:
    assert world.control_plane("dispatch", ID, "sh", "-c", WORKLOAD, fault=point) == -signal.SIGKILL
    eventually(lambda: world.lines("starts"))
    record = world.reconcile_until(lambda record: record.state is State.RUNNING)
    assert record.native["pid"] == int(world.lines("starts")[0])
    assert record.native["pid"] in world.workloads()
    assert world.control_plane("cancel", ID) == 0
    world.reconcile_until(lambda record: record.state.terminal)
    check_end(world, State.CANCELLED, starts=1)


@pytest.mark.parametrize("point", BEFORE_THE_START + AFTER_THE_START)
def test_a_cancel_recorded_after_the_submitter_was_killed_is_carried_out(world: World, point: str) -> None:
    assert world.control_plane("dispatch", ID, "sh", "-c", WORKLOAD, fault=point) == -signal.SIGKILL
    assert world.control_plane("cancel", ID, fault="event:dispatch.cancel_requested") == -signal.SIGKILL
    record = world.reconcile_until(lambda record: record.state.terminal)
    assert record.cause is not None
    assert (record.cause.actor, record.cause.reason) == ("crash", "crash test")
    assert record.confirmed is True
    started = len(world.lines("starts")) if point in AFTER_THE_START else 0
    check_end(world, State.CANCELLED, starts=started)


@pytest.mark.parametrize("point", ["find:before", "find:after", "event:dispatch.started"])
def test_who_adopts_may_be_killed_too(world: World, point: str) -> None:
    assert world.control_plane("dispatch", ID, "sh", "-c", WORKLOAD, fault="dispatch:after") == -signal.SIGKILL
    eventually(lambda: world.lines("starts"))
    codes = set[int]()
    until = time.monotonic() + PATIENCE
    while -signal.SIGKILL not in codes:
        codes.add(world.control_plane("reconcile", ID, fault=point))
        assert time.monotonic() < until
    world.reconcile_until(lambda record: record.state is State.RUNNING)
    assert Counter(world.events())["started"] == 1
    assert world.control_plane("cancel", ID) == 0
    world.reconcile_until(lambda record: record.state.terminal)
    check_end(world, State.CANCELLED, starts=1)


# --- cancel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["event:dispatch.cancel_requested", "stop:before", "stop:after", "event:dispatch.stopping"]
)
def test_a_canceller_killed_at_any_step_leaves_a_request_that_is_carried_out(world: World, point: str) -> None:
    begun(world)
    assert world.control_plane("cancel", ID, fault=point) == -signal.SIGKILL
    assert world.row()["cause"]["reason"] == "crash test", "the request was recorded first"
    record = world.reconcile_until(lambda record: record.state.terminal)
    assert (record.confirmed, record.exit_code) == (True, 7)
    check_end(world, State.CANCELLED, starts=1)
    assert world.lines("terms") == ["TERM"]
    assert Counter(world.events())["cancel_requested"] == 1


@pytest.mark.parametrize("point", ["event:dispatch.cancel_requested", "kill:before", "kill:after"])
def test_a_forcing_canceller_killed_at_any_step_leaves_a_force_that_is_carried_out(world: World, point: str) -> None:
    grace = 40
    begun(world, script=STUBBORN, grace=grace)
    assert world.control_plane("cancel", ID, "force", fault=point) == -signal.SIGKILL
    begin = time.monotonic()
    record = world.reconcile_until(lambda record: record.state.terminal)
    assert time.monotonic() - begin < grace - 10, "a force does not wait for the grace"
    assert (record.confirmed, record.forced) == (True, True)
    check_end(world, State.CANCELLED, starts=1)


def test_a_canceller_killed_in_the_grace_does_not_save_what_ignores_sigterm(world: World) -> None:
    begun(world, script=STUBBORN)
    assert world.control_plane("cancel", ID, fault="event:dispatch.stopping") == -signal.SIGKILL
    eventually(lambda: world.workloads() == [])
    record = world.reconcile_until(lambda record: record.state.terminal)
    assert (record.forced, record.signal, record.confirmed) == (True, 9, True)
    check_end(world, State.CANCELLED, starts=1)
    assert world.lines("terms") == ["TERM"]


@pytest.mark.parametrize("script", ["echo $$ >> starts; exit 3", WORKLOAD])
def test_who_wrote_the_end_down_may_be_killed_after_it(world: World, script: str) -> None:
    if script == WORKLOAD:
        begun(world)
        assert world.control_plane("cancel", ID) == 0
        code = world.control_plane("wait", ID, fault="event:dispatch.terminated")
    else:
        code = world.control_plane("run", ID, "sh", "-c", script, fault="event:dispatch.terminated")
    assert code == -signal.SIGKILL
    record = world.reconcile_until(lambda record: record.state.terminal)
    expected = (State.CANCELLED, 7) if script == WORKLOAD else (State.FAILED, 3)
    assert (record.state, record.exit_code) == expected
    check_end(world, expected[0], starts=1)


# --- a start that was put off -----------------------------------------------------------------------------------


def test_a_supervisor_killed_in_a_start_that_was_put_off_leaves_one_that_another_one_makes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.directory)
    with BlockingClient(world.home, supervisor=False) as client:
        client.dispatch(id=ID, command=["sh", "-c", "echo $$ >> starts; exit 42"], delay=0)
    assert world.control_plane("reconcile", ID, fault="event:dispatch.submitted") == -signal.SIGKILL
    assert (world.row()["state"], world.lines("starts")) == ("submitted", [])
    record = world.reconcile_until(lambda record: record.state.terminal)
    assert (record.state, record.exit_code, record.confirmed) == (State.FAILED, 42, True)
    check_end(world, State.FAILED, starts=1)


# --- with the background supervisor --------------------------------------------------------------------------


def supervisor_of(world: World) -> int | None:
    """Return the pid of the living background supervisor."""
    with suppress(OSError, ValueError):  # the file may be about to be written, the process may have ended since
        pid = int((world.home / "supervisor.lock").read_text())
        if b"agora.engine.background" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


@pytest.mark.parametrize("point", ["event:dispatch.cancel_requested", "stop:before", "stop:after"])
def test_the_background_supervisor_carries_out_what_a_killed_canceller_recorded(world: World, point: str) -> None:
    begun(world, supervisor=True)
    eventually(lambda: supervisor_of(world))
    assert world.control_plane("cancel", ID, fault=point, supervisor=True) == -signal.SIGKILL
    eventually(lambda: world.row()["state"] == "cancelled")
    check_end(world, State.CANCELLED, starts=1)
    assert world.lines("terms") == ["TERM"]
    eventually(lambda: supervisor_of(world) is None)


def test_a_killed_supervisor_is_replaced_by_the_next_command_and_the_request_carried_out(world: World) -> None:
    begun(world, supervisor=True)
    first = eventually(lambda: supervisor_of(world))
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor_of(world) is None)
    assert world.control_plane("cancel", ID, fault="event:dispatch.cancel_requested") == -signal.SIGKILL
    assert len(world.workloads()) >= 1
    with BlockingClient(world.home, actor="reader") as client:
        client.get(ID)
    eventually(lambda: world.row()["state"] == "cancelled")
    check_end(world, State.CANCELLED, starts=1)
    eventually(lambda: supervisor_of(world) is None)


def test_a_supervisor_killed_while_a_workload_ends_by_itself_loses_no_result(world: World) -> None:
    script = "echo $$ >> starts; until [ -e go ]; do sleep 0.05; done; exit 42"
    begun(world, script=script, supervisor=True)
    os.kill(eventually(lambda: supervisor_of(world)), signal.SIGKILL)
    (world.directory / "go").touch()
    eventually(lambda: world.workloads() == [])
    assert world.row()["state"] == "running"
    record = world.reconcile_until(lambda record: record.state.terminal)
    assert (record.state, record.exit_code, record.confirmed) == (State.FAILED, 42, True)
    check_end(world, State.FAILED, starts=1)
