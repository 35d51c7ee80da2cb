"""`--delay` and `--at`."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backend("local")
Cli = Any


def test_a_delayed_dispatch_is_shown_with_its_time_and_cancelled_without_a_trace(cli: Cli, tmp_path: Path) -> None:
    record = cli.json("dispatch", "--delay", "2h", "--id", "d1", "--", "touch", "ran")
    start_at, requested_at = (datetime.fromisoformat(record[name]) for name in ("start_at", "requested_at"))
    assert (record["state"], start_at - requested_at) == ("pending", timedelta(hours=2))
    assert "pending (starts in 1h 59m)" in cli("ps").out
    shown = cli("show", "d1").out
    assert f"Start at   {start_at.astimezone():%Y-%m-%d %H:%M:%S}" in shown
    assert "Submitted" not in shown
    assert cli("wait", "d1", "--timeout", "0").err == "agora: d1 is pending\n"
    done = cli("cancel", "d1", "--wait")
    assert (done.code, done.out) == (0, "d1 cancelled before anything was started\n")
    assert cli("wait", "d1").code == 130
    assert not (tmp_path / "ran").exists()


def test_run_waits_for_the_time_and_through_the_end(cli: Cli) -> None:
    done = cli("run", "--no-supervisor", "--delay", "3", "--", "sh", "-c", "echo out; exit 3")
    assert (done.code, done.out) == (3, "out\n")
    assert ", starts in " in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--at", "tomorrow"], "2031-05-01T12:00"), (["--delay", "1h", "--secret", "TOKEN=env:HOME"], "TOKEN"),
        (["--spec", "spec.json"], "start_at"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_is_recorded(
    cli: Cli, tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"command": ["true"], "start_at": "2031-05-01"}))
    done = cli("dispatch", *words, "--", "true")
    assert (done.code, cli.recorded()) == (2, 0)
    assert told in done.err
