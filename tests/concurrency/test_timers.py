"""Starts that are put off, with real processes: who asked may be dead, and who supervises too."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agora import BlockingClient, Outcome, State

from tests.concurrency.conftest import World

pytestmark = [pytest.mark.backend("local"), pytest.mark.timeout(200)]
Eventually = Callable[[Callable[[], Any]], Any]

ASKER = """
import signal, sys
from agora import BlockingClient
with BlockingClient() as client:
    client.dispatch(id="d1", command=["sh", "-c", "echo $$ >> starts; exit 7"], delay=float(sys.argv[1]))
    print("asked", flush=True)
    signal.pause()
"""


def supervisor_of(world: World) -> int | None:
    """Return the pid of the living background supervisor."""
    with suppress(OSError, ValueError):
        pid = int((world.home / "supervisor.lock").read_text())
        if b"agora.engine.background" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def asked_and_killed(world: World, delay: float) -> None:
    """Let a process ask for a start, and kill it."""
    asker = world.start("-c", ASKER, str(delay))
    assert asker.stdout is not None
    assert asker.stdout.readline() == "asked\n"
    asker.kill()
    asker.wait()


def test_a_cancelled_timer_never_fires_and_the_one_beside_it_does(
    world: World, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.directory)
    start_at = datetime.now(UTC) + timedelta(seconds=5)
    with BlockingClient(world.home) as client:
        timers = [
            client.dispatch(id=id, command=["sh", "-c", f"echo $$ >> {id}"], start_at=start_at)
            for id in ("cancelled", "witness")
        ]
        assert [timer.record.state for timer in timers] == [State.PENDING, State.PENDING]
        answer = timers[0].cancel(reason="not needed")
        assert (answer.outcome, answer.exit_code) == (Outcome.CANCELLED, 0)
    monkeypatch.chdir("/")
    row = eventually(lambda: (row := world.row("witness"))["state"] == "succeeded" and row)
    assert len(world.lines("witness")) == 1, "in the directory of who asked"
    assert timedelta() <= datetime.fromisoformat(row["submitted_at"]) - start_at < timedelta(seconds=20)
    assert world.events("cancelled") == ["requested", "cancel_requested", "terminated"]
    eventually(lambda: supervisor_of(world) is None)
    assert world.lines("cancelled") == []


def test_the_background_supervisor_starts_what_a_killed_process_asked_for(world: World, eventually: Eventually) -> None:
    asked_and_killed(world, 1.0)
    eventually(lambda: world.row("d1")["state"] == "failed")
    assert world.row("d1")["exit_code"] == 7
    assert len(world.lines("starts")) == 1
    assert Counter(world.events("d1"))["submitted"] == 1


def test_a_supervisor_that_is_killed_before_the_time_is_replaced_by_the_next_command(
    world: World, eventually: Eventually
) -> None:
    asked_and_killed(world, 6.0)  # before that the supervisor has to be there
    first = eventually(lambda: supervisor_of(world))
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor_of(world) is None)
    assert "d1" in world.agora("ps").stdout
    assert eventually(lambda: supervisor_of(world)) != first
    eventually(lambda: world.row("d1")["state"] == "failed")
    assert len(world.lines("starts")) == 1


def test_what_nobody_could_start_in_time_is_started_late_and_its_deadline_counts_from_there(world: World) -> None:
    at = "2026-01-01T06:00+01:00"
    command = ["--id", "d1", "--timeout", "60", "--", "sh", "-c", "echo $$ >> starts; exec sleep 60"]
    assert world.agora("dispatch", "--no-supervisor", "--at", at, *command).returncode == 0
    row = world.row("d1")
    assert (row["state"], row["start_at"], world.lines("starts")) == ("pending", "2026-01-01T05:00:00Z", [])
    assert [note["type"] for note in row["notes"]] == ["no_supervisor"]
    assert world.agora("prune", "--no-supervisor", "--older-than", "0").returncode == 0
    assert world.agora("reap", "--no-supervisor").returncode == 0
    assert world.agora("reconcile", "--no-supervisor").returncode == 0
    row = world.row("d1")
    assert row["state"] in ("submitted", "running")
    submitted, deadline = (datetime.fromisoformat(row[name]) for name in ("submitted_at", "deadline"))
    assert submitted >= datetime.fromisoformat(row["requested_at"])
    assert deadline - submitted == timedelta(seconds=60)
    assert world.agora("cancel", "d1", "--force", "--wait").returncode == 0
    assert len(world.lines("starts")) <= 1
    assert world.workloads("d1") == []
