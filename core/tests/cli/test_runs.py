"""`agora runs`: what people and programs read of runs."""

import json
import os
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
from agora import BlockingClient, DispatchCancelled

pytestmark = pytest.mark.backend("local")

Cli = Any


def leave_two_runs() -> None:
    """Leave one run normally, and another by a dispatch that was cancelled."""
    with BlockingClient(actor="ann") as agora:
        with agora.run("nightly") as run:
            run.dispatch("report", command=["true"])
        with pytest.raises(DispatchCancelled):
            leave_weekly(agora)


def leave_weekly(agora: BlockingClient) -> None:
    """Leave a run by a dispatch that was cancelled."""
    with agora.run("weekly") as run:
        run.dispatch("report", command=["sleep", "600"], grace=2)
        run.cancel("report", reason="wrong input")
        run.result("report")


def test_runs_are_listed_and_shown_with_their_outcomes(cli: Cli) -> None:
    assert cli("runs").err == "agora: no runs\n"
    leave_two_runs()
    cli("run", "--run", "by-hand", "--name", "one", "--", "true")
    header, *rows = [line.split("  ") for line in cli("runs").out.splitlines()]
    assert header[0] == "RUN"
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [(row[0], row[1], row[2], row[4]) for row in cells] == [
        ("by-hand", "-", "1 succeeded", "-"),
        ("weekly", "cancelled", "1 cancelled", "ann via api: wrong input"),
        ("nightly", "succeeded", "1 succeeded", "-"),
    ]
    assert cli("runs", "-n", "1").out.splitlines()[1].startswith("by-hand")
    shown = cli("runs", "weekly").out
    assert "Left by     DispatchCancelled of weekly-report/report\n" in shown
    assert "ann via api: wrong input" in shown
    assert shown.splitlines()[-1].startswith("weekly-report  weekly/report  cancelled")


def test_runs_in_json_are_as_their_schema_says(cli: Cli) -> None:
    leave_two_runs()
    shape = json.loads(cli("schema", "run").out)
    objects = cli("runs", "--json").objects
    assert [one["run"] for one in objects] == ["weekly", "nightly"]
    for one in objects:
        jsonschema.validate(one, shape)
    assert cli.json("runs", "weekly") == objects[0]
    assert objects[0]["states"] == {"cancelled": 1}
    outcome = objects[0]["outcome"]
    assert (outcome["state"], outcome["dispatch_id"], outcome["reason"]) == (
        "cancelled",
        "weekly-report",
        "wrong input",
    )


def test_a_run_that_is_not_there_or_takes_nothing_new_is_told_so(cli: Cli) -> None:
    with BlockingClient() as agora, agora.run("over"):
        pass
    done = cli("runs", "none", "--json")
    assert (done.code, done.object["error"]["type"]) == (4, "DispatchNotFound")
    assert cli("runs", "over", "--limit", "1").code == 2
    refused = cli("dispatch", "--run", "over", "--", "true")
    assert refused.code == 2
    assert "run 'over' is over (succeeded) and takes no new dispatches" in refused.err
    assert cli.recorded() == 0
    offered = subprocess.run(
        [sys.executable, "-m", "agora"], capture_output=True, text=True, timeout=50, check=False,
        env={**os.environ, "_AGORA_COMPLETE": "bash_complete", "COMP_CWORD": "2", "COMP_WORDS": "agora runs o"},
    )  # fmt: skip
    assert offered.stdout == "plain,over\n"
