"""What recordings of a real cluster say, and what they do not."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from agora.model.observation import EndedBy, Observation, Phase
from agora_nomad import placing, story

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))


def records(name: str) -> dict[str, Any]:
    found: dict[str, Any] = deepcopy(RECORDED[name])
    return found


def look(name: str) -> Observation:
    found = records(name)
    return story.look(found.get("job"), found["allocations"], found.get("evaluations"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("complete-exit-0-raw_exec", {"exit_code": 0, "stop_reached": False, "ended_by": None, "forced": None}),
        ("fail-exit-3-docker", {"exit_code": 3, "stop_reached": False, "ended_by": None}),
        ("oom-docker", {"exit_code": 137, "oom": True, "reason": "oom_killed", "stop_reached": False}),
        ("stop-graceful-raw_exec", {"exit_code": 42, "stop_reached": True, "forced": False, "effective_grace": 3.0}),
        # A killed allocation is `complete` and not `Failed`; docker tells no signal.
        ("stop-stubborn-raw_exec", {"exit_code": 137, "signal": 9, "forced": True, "evidence": "inferred"}),
        ("stop-stubborn-docker", {"exit_code": 137, "signal": None, "forced": True}),
        ("shorten-with-sigkill-docker", {"exit_code": 137, "forced": True, "effective_grace": 12.0}),
        # The cap of the client shows in what it announces.
        ("grace-above-client-cap", {"exit_code": 137, "forced": True, "effective_grace": 15.0}),
        # What is announced after a change is not what is used.
        ("kill-timeout-changed-in-place", {"exit_code": 137, "effective_grace": None, "forced": None}),
        # -1 is a code that got lost.
        ("agent-killed-mid-grace-raw_exec", {"exit_code": None, "signal": None, "stop_reached": True}),
        ("client-down-then-stop", {"exit_code": None, "stop_reached": True}),
        ("max-run-duration", {"exit_code": 137, "ended_by": EndedBy.DEADLINE, "forced": True}),
        ("node-drain", {"exit_code": 42, "ended_by": EndedBy.EXTERNAL, "message": "alloc is being migrated"}),
        ("signal-without-stop", {"exit_code": 42, "ended_by": EndedBy.EXTERNAL, "message": "somebody sent SIGTERM"}),
    ],
)
def test_ends(name: str, expected: dict[str, Any]) -> None:
    seen = look(name)
    assert seen.phase is Phase.ENDED
    assert not seen.never_started
    assert seen.reachable
    assert seen.started_at is not None
    assert seen.ended_at is not None
    assert {key: getattr(seen, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("command-not-found-raw_exec", "program_not_found", "could not be found"),
        ("command-not-found-docker", "program_not_found", "no such file"),
        ("image-missing", "image_missing", "Failed to pull"),
        # `Killing` and no `Started`.
        ("stop-right-after-register-raw_exec", "never_started", None),
        ("stop-while-starting-exec", "never_started", None),
        # No allocation at all.
        ("stop-right-after-register-docker", "never_placed", None),
        ("stop-no-capacity", "never_placed", "memory exhausted on 1 of 1 nodes"),
    ],
)
def test_what_never_ran_and_never_will(name: str, reason: str, words: str | None) -> None:
    seen = look(name)
    assert (seen.phase, seen.never_started, seen.reason) == (Phase.ENDED, True, reason)
    assert seen.exit_code is None
    assert words is None or words.lower() in (seen.message or "").lower()


@pytest.mark.parametrize("name", ["lost", "unknown"])
def test_away_is_no_end(name: str) -> None:
    found = records(name)
    for job in (None, {"CreateIndex": 1, "Stop": True, "Status": "dead", "Version": 1}):
        seen = story.look(job, found["allocations"])
        assert (seen.phase, seen.reachable, seen.reason) == (Phase.RUNNING, False, "node_away")


def test_lost_can_turn_into_running_again() -> None:
    found = records("lost")
    found["allocations"][0]["ClientStatus"] = "running"
    assert story.look(None, found["allocations"]).reachable


def test_complete_is_no_end_while_the_task_runs() -> None:
    (one,) = records("complete-while-it-runs")["allocations"]
    assert (one["ClientStatus"], one["TaskStates"]["main"]["State"]) == ("complete", "running")
    assert story.moment(one["TaskStates"]["main"]["FinishedAt"]) is not None
    assert story.look(None, [one]).phase is Phase.RUNNING


def test_a_dead_job_is_no_end() -> None:
    job = {"CreateIndex": 1, "Stop": True, "Status": "dead", "Version": 1}
    seen = story.look(job, records("running")["allocations"])
    assert (seen.phase, seen.reachable) == (Phase.RUNNING, True)


def test_dead_without_a_time_is_no_proof() -> None:
    found = records("stop-graceful-raw_exec")
    found["allocations"][0]["TaskStates"]["main"]["FinishedAt"] = None
    assert story.look(found["job"], found["allocations"]).phase is Phase.RUNNING


def test_waiting() -> None:
    assert look("placed").phase is Phase.PENDING
    seen = look("downloading")
    assert (seen.phase, seen.message) == (Phase.PENDING, "Downloading image")
    seen = look("no-capacity")
    assert (seen.phase, seen.reason) == (Phase.PENDING, "unplaceable")
    assert "memory exhausted on 1 of 1 nodes" in (seen.message or "")


def test_no_job_is_absent() -> None:
    assert story.look(None, []).phase is Phase.ABSENT


def test_the_allocation_of_a_removed_job_still_counts() -> None:
    assert story.look(None, records("running")["allocations"]).phase is Phase.RUNNING


def test_records_that_were_removed_prove_no_start() -> None:
    found = records("stop-graceful-raw_exec")
    # An allocation goes together with the evaluation that made it.
    kept = [one for one in found["evaluations"] if one["TriggeredBy"] != "job-register"]
    for evaluations in (kept, []):
        seen = story.look(found["job"], [], evaluations)
        assert (seen.phase, seen.never_started) == (Phase.ABSENT, False)
    found = records("stop-no-capacity")
    (blocked,) = [one for one in found["evaluations"] if one["TriggeredBy"] == "queued-allocs"]
    left = [one for one in found["evaluations"] if one is not blocked]
    assert story.look(found["job"], [], left).phase is Phase.ABSENT


def test_a_stop_that_is_not_worked_off_proves_nothing() -> None:
    found = records("stop-right-after-register-docker")
    for one in found["evaluations"]:
        if one["TriggeredBy"] == "job-deregister":
            one["Status"] = "pending"
    assert story.look(found["job"], [], found["evaluations"]).phase is Phase.PENDING
    assert story.look(found["job"], [], None).phase is Phase.PENDING


def test_evaluations_of_an_earlier_job_of_that_id_say_nothing() -> None:
    found = records("stop-right-after-register-docker")
    later = max(one["CreateIndex"] for one in found["evaluations"]) + 1
    job = {**found["job"], "CreateIndex": later, "Stop": False, "Status": "pending"}
    assert story.look(job, [], found["evaluations"]).phase is Phase.PENDING


def test_a_second_copy_is_told_and_is_not_the_workload() -> None:
    found = records("client-down-past-lost-after-no-replace")
    first, second = sorted(found["allocations"], key=lambda one: one["CreateIndex"])
    state = second["TaskStates"]["main"]
    state |= {"State": "running", "FinishedAt": None}
    state["Events"] = [event for event in state["Events"] if event["Type"] not in ("Killing", "Terminated", "Killed")]
    assert [one["ID"] for one in story.copies([second, first])] == [second["ID"]]
    seen = story.look(found["job"], [second, first])
    assert (seen.phase, seen.reason, seen.native) == (Phase.RUNNING, "second_copy", {"allocation": second["ID"]})
    # Once it is dead, the first one's own end stands.
    seen = look("client-down-past-lost-after-no-replace")
    assert (seen.phase, seen.native["allocation"], seen.exit_code) == (Phase.ENDED, first["ID"], None)
    assert look("alloc-stop").native["allocation"] != RECORDED["alloc-stop"]["allocations"][0]["ID"]


def test_a_long_story_is_not_a_whole_one() -> None:
    found = records("fail-exit-3-docker")
    events = found["allocations"][0]["TaskStates"]["main"]["Events"]
    signal = {"Type": "Driver", "Time": 1, "DisplayMessage": "", "Details": {}}
    found["allocations"][0]["TaskStates"]["main"]["Events"] = [signal] * (10 - len(events[2:])) + events[2:]
    seen = story.look(found["job"], found["allocations"])
    assert (seen.phase, seen.exit_code, seen.stop_reached) == (Phase.ENDED, 3, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3s", 3.0), ("1m30s", 90.0), ("1.5s", 1.5), ("250ms", 0.25), ("1h0m0s", 3600.0), ("", None), ("3", None)],
)
def test_durations(text: str, expected: float | None) -> None:
    assert story.seconds(text) == expected


def test_times() -> None:
    assert story.moment("0001-01-01T00:00:00Z") is None
    assert story.moment(None) is None
    at = story.moment("2026-11-21T02:28:30.149933529Z")
    assert at is not None
    assert (at.second, at.microsecond) == (30, 149_933)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (
            {"NodesEvaluated": 2, "NodesInPool": 2, "ConstraintFiltered": {"missing drivers": 2}},
            "missing drivers on 2 of 2 nodes",
        ),
        ({"NodesEvaluated": 0, "NodesInPool": 0, "NodePool": "gpu"}, "no node is ready in the node pool 'gpu'"),
        ({"NodesEvaluated": 0, "NodesInPool": 1, "NodesAvailable": {}}, "no node is ready in the wanted datacenters"),
        ({"NodesEvaluated": 1, "NodesInPool": 1, "QuotaExhausted": ["cpu"]}, "quota exhausted: cpu"),
        ({"NodesEvaluated": 3, "NodesInPool": 3}, "none of 3 nodes fits"),
    ],
)
def test_why_nothing_is_placed(metric: dict[str, Any], words: str) -> None:
    assert placing.why_not({"FailedTGAllocs": {"main": metric}}) == words
    assert placing.why_not({"FailedTGAllocs": None}) is None
