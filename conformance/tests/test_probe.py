"""The probe, with every sh of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agora.worker.marks import Sieve
from agora_conformance.checks.dispatch import AWKWARD
from agora_conformance.probe import Line, parse, pulse, script

#: Hundredths of a second between two heartbeats.
EVERY = "10"

SHELLS = [
    pytest.param(
        command,
        id=command[0] if len(command) == 1 else "busybox",
        marks=pytest.mark.skipif(shutil.which(command[0]) is None, reason=f"{command[0]} is not installed"),
    )
    for command in (["sh"], ["dash"], ["busybox", "sh"])
]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def ended(shell: list[str], *arguments: str, env: dict[str, str] | None = None) -> tuple[int, list[Line]]:
    done = subprocess.run(
        [*shell, "-c", script(), "probe", EVERY, *arguments],
        check=False,
        capture_output=True,
        timeout=50,
        env={"PATH": os.environ["PATH"], **(env or {})},
    )
    return done.returncode, parse(done.stdout)


class Running:
    """A probe in a session of its own, with its output in a file."""

    def __init__(self, shell: list[str], output: Path, *arguments: str) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [*shell, "-c", script(), "probe", EVERY, *arguments], stdout=file, start_new_session=True
            )

    def lines(self) -> list[Line]:
        return parse(self.output.read_bytes())

    def until(self, condition: Callable[[list[Line]], bool]) -> None:
        deadline = time.monotonic() + 40
        while not condition(self.lines()):
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def says(self, event: str, who: str = "leader") -> None:
        self.until(lambda lines: any(line.event == event and line.who == who for line in lines))

    def end(self) -> None:
        deadline = time.monotonic() + 40
        self.process.kill()
        self.process.wait(timeout=40)
        # Again and again: one of them may have forked meanwhile, and a killed one takes a moment to go.
        while left := self.marked():
            assert time.monotonic() < deadline, left
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def marked(self) -> list[int]:
        """Everything that writes to the output."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/fd/1"):
            try:
                if entry.resolve() == self.output.resolve():
                    found.append(int(entry.parts[2]))
            except OSError:
                continue
        return found


@pytest.mark.parametrize("code", [0, 1, 42])
def test_it_exits_as_told(shell: list[str], code: int) -> None:
    seen, lines = ended(shell, "exit", str(code), "20")
    assert seen == code
    assert lines[0].event == "READY"
    assert pulse(lines).exited


def test_it_shows_arguments_byte_for_byte(shell: list[str]) -> None:
    code, lines = ended(shell, "arguments", *AWKWARD)
    assert code == 0
    assert [line.value for line in lines if line.event == "argument"] == [text.encode() for text in AWKWARD]


def test_it_shows_variables_byte_for_byte(shell: list[str]) -> None:
    variables = {f"V{number}": text for number, text in enumerate(AWKWARD)}
    _, lines = ended(shell, "environment", *variables, env=variables)
    shown = {line.event: line.value for line in lines}
    assert [shown[name] for name in variables] == [text.encode() for text in variables.values()]
    assert shown["directory"] == str(Path.cwd()).encode()


def test_it_counts_a_large_variable(shell: list[str]) -> None:
    _, lines = ended(shell, "length", "LARGE", env={"LARGE": "x" * 131_000})
    assert [line.number for line in lines if line.event == "length"] == [131_000]


def test_it_numbers_lines_on_both_streams(shell: list[str]) -> None:
    _, lines = ended(shell, "lines", "20")
    assert [line.number for line in lines if line.event == "line"] == list(range(1, 21))


def test_graceful_sees_every_sigterm_and_exits_as_told(shell: list[str], tmp_path: Path) -> None:
    probe = Running(shell, tmp_path / "output", "graceful", "7", "200")
    try:
        probe.says("READY")
        probe.process.terminate()
        probe.says("term")
        probe.process.terminate()
        assert probe.process.wait(timeout=40) == 7
    finally:
        probe.end()
    seen = pulse(probe.lines())
    assert len(seen.terms) == 2
    assert seen.last is not None
    assert seen.last - seen.terms[0] >= 1.99  # the clock has hundredths


def test_stubborn_goes_on(shell: list[str], tmp_path: Path) -> None:
    probe = Running(shell, tmp_path / "output", "stubborn")
    try:
        probe.says("READY")
        probe.process.terminate()
        probe.says("term")
        before = pulse(probe.lines()).last
        probe.until(lambda lines: pulse(lines).last != before)
        assert probe.process.poll() is None
    finally:
        probe.end()


def test_default_dies_of_sigterm(shell: list[str], tmp_path: Path) -> None:
    probe = Running(shell, tmp_path / "output", "default")
    try:
        probe.says("beat")
        probe.process.terminate()
        assert probe.process.wait(timeout=40) == -signal.SIGTERM
    finally:
        probe.end()


def test_tree_leaves_a_child_and_one_outside_the_session(shell: list[str], tmp_path: Path) -> None:
    probe = Running(shell, tmp_path / "output", "tree", "3", "0")
    try:
        for who in ("leader", "child", "escaped"):
            probe.says("beat", who)
        probe.process.terminate()
        assert probe.process.wait(timeout=40) == 3
        before = pulse(probe.lines(), "escaped").last
        probe.until(lambda lines: pulse(lines, "escaped").last != before)
        sessions = set()
        for pid in probe.marked():
            with suppress(ProcessLookupError):  # the sleep of a shell that has ended since
                sessions.add(os.getsid(pid))
        assert len(sessions) >= 2
    finally:
        probe.end()


def events_of(output: Path, dispatch_id: str) -> list[dict[str, Any]]:
    _, marks = Sieve(dispatch_id).feed(output.read_bytes())
    return [json.loads(mark) for mark in marks if mark.endswith(b"}")]


@pytest.mark.parametrize("clean", [True, False])
def test_a_worker_says_what_the_worker_kit_would(
    shell: list[str], tmp_path: Path, clean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGORA_DISPATCH_ID", "d1")
    probe = Running(shell, tmp_path / "output", "worker", "7", "0", str(clean).lower())
    try:
        probe.says("beat")
        probe.process.terminate()
        assert probe.process.wait(timeout=40) == 7
    finally:
        probe.end()
    said = events_of(probe.output, "d1")
    assert [event["data"] for event in said[:3]] == [{"done": 1}, {"done": 2}, {"done": 3}]
    assert [event["type"] for event in said[3:]] == ["dispatch.cancelled"] * 2
    assert [event["data"]["clean"] for event in said[3:]] == [clean, True]
    assert [event["sequence"] for event in said] == [1, 2, 3, 4, 5]
    assert {event["subject"] for event in said} == {"d1"}
    assert len({event["id"] for event in said}) == 5


def test_a_worker_that_is_not_stopped_ends_by_itself(shell: list[str]) -> None:
    code, lines = ended(shell, "worker", "3", "30", "true", env={"AGORA_DISPATCH_ID": "d1"})
    assert code == 3
    assert pulse(lines).exited


def test_an_impostor_speaks_for_others_and_for_the_core(
    shell: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGORA_DISPATCH_ID", "d1")
    probe = Running(shell, tmp_path / "output", "impostor", "d2")
    try:
        probe.says("beat")
        probe.process.terminate()
        assert probe.process.wait(timeout=40) == 0
    finally:
        probe.end()
    own = [(event["type"], event["subject"]) for event in events_of(probe.output, "d1")]
    assert own == [("dispatch.cancelled", "d2"), ("dispatch.started", "d1"), ("dispatch.terminated", "d1")]
    assert [(event["type"], event["subject"]) for event in events_of(probe.output, "d2")] == [
        ("dispatch.cancelled", "d2")
    ]


def test_never_ready_says_nothing(shell: list[str], tmp_path: Path) -> None:
    probe = Running(shell, tmp_path / "output", "never-ready")
    try:
        probe.process.terminate()
        assert probe.process.wait(timeout=40) == -signal.SIGTERM
        assert probe.lines() == []
    finally:
        probe.end()


def test_an_unknown_mode_is_an_error(shell: list[str]) -> None:
    assert ended(shell, "no-such-mode")[0] == 64


def test_the_script_has_nothing_that_a_backend_rewrites() -> None:
    assert not [pair for pair in ("$$", "%{", "{{", "}}") if pair in script()]


def test_half_a_line_and_foreign_lines_are_left_out() -> None:
    lines = parse(b'noise\n[1]\n{"event":"beat","who":"leader","at":1.5}\n{"event":"be')
    assert lines == [Line("beat", "leader", 1.5)]
