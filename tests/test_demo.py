"""scripts/demo: it ends well, and what it prints as commands is what it runs."""

import json
import shlex
import sys
from pathlib import Path

import demo_main
import pytest

#: What the demo asks unprinted, to check what it claims.
CHECKS = ("logs", "show")


@pytest.mark.backend("local")
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_demo_prints_exactly_the_commands_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told"
    recorder = tmp_path / "agora"
    record = "import json, os, sys; open(os.environ['TOLD'], 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    recorder.write_text(f'#!/bin/sh\n{sys.executable} -c {shlex.quote(record)} "$@"\nexec {demo_main.AGORA} "$@"\n')
    recorder.chmod(0o755)
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.setenv("AGORA_HOME", "the demo sets its own")
    monkeypatch.setattr(demo_main, "AGORA", str(recorder))
    assert demo_main.main() == 0
    lines = capfd.readouterr().out.splitlines()
    printed = [shlex.split(line.removeprefix("$ agora ")) for line in lines if line.startswith("$ agora ")]
    ran = [json.loads(line) for line in told.read_text().splitlines()]
    assert [command[0] for command in printed] == [
        "dispatch", "ps", "logs", "cancel", "show", "logs", "dispatch", "cancel", "events", "logs",
    ]  # fmt: skip
    left = iter(ran)
    assert all(command in left for command in printed), "each was run, in this order"
    assert all(command[0] in CHECKS for command in ran if command not in printed)
