"""The journal alone says how a dispatch went, and a wiped store still finds its workloads by their marks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agora.client import BlockingClient
from agora.model.events import Event, EventType
from agora.model.record import State

AGORA = str(Path(sys.executable).with_name("agora"))

#: What each event says of the state, for a reader who has nothing but the journal.
SAYS = {
    EventType.REQUESTED: State.PENDING,
    EventType.SUBMITTED: State.SUBMITTED,
    EventType.STARTED: State.RUNNING,
    EventType.CANCEL_REQUESTED: State.STOPPING,
    EventType.STOPPING: State.STOPPING,
}


def replay(events: list[Event]) -> tuple[State | None, dict[str, object]]:
    """Fold a journal into a state and the fields of its end."""
    state: State | None = None
    end: dict[str, object] = {}
    for event in events:
        if event.type is EventType.TERMINATED:
            state, end = State(event.data["state"]), event.data
        elif event.type in SAYS:
            state = SAYS[event.type]
    return state, end


def agora(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run([AGORA, *arguments, "--json"], check=True, capture_output=True, text=True, timeout=50)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("command", "cancel", "state"),
    [(["sleep", "600"], True, State.CANCELLED), (["true"], False, State.SUCCEEDED), (["false"], False, State.FAILED)],
)
def test_the_journal_alone_tells_the_end(command: list[str], cancel: bool, state: State) -> None:
    with BlockingClient(supervisor=False) as client:
        dispatch = client.dispatch(command=command, grace=5)
        if cancel:
            client.cancel(dispatch.id, reason="enough")
        record = client.wait(dispatch.id, timeout=30, confirmed=True)
        events = list(client.events(dispatch.id))
    told, end = replay(events)
    assert told is record.state is state
    assert (end["exit_code"], end["signal"], end["confirmed"]) == (record.exit_code, record.signal, True)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    if cancel:
        assert record.cause is not None
        assert end["cause"] == record.cause.model_dump(mode="json")


def test_a_wiped_store_still_finds_its_workloads_by_their_marks() -> None:
    home = Path(os.environ["AGORA_HOME"])
    with BlockingClient(supervisor=False) as client:
        pids = {}
        for _ in range(3):
            record = client.dispatch(command=["sleep", "600"]).record
            pids[record.id] = int(record.native["pid"])
    try:
        for name in ("agora.db", "agora.db-wal", "agora.db-shm"):
            (home / name).unlink(missing_ok=True)
        listed = agora("reap", "--dry-run")
        assert {one["id"] for one in listed} == pids.keys()
        assert {one["action"] for one in listed} == {"kept"}  # younger than the timeout cap and grace
        assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
    limit = time.monotonic() + 90
    while {one["action"] for one in agora("reap", "--dry-run")} != {"would remove"}:
        assert time.monotonic() < limit, "the ends were never seen"
    removed = agora("reap")
    assert {(one["id"], one["action"]) for one in removed} == {(id, "removed") for id in pids}
    assert agora("reap", "--dry-run") == []
