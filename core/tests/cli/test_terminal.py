"""On a terminal: live progress, a question before a bulk cancel, colours only where they are wanted."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backend("local")

Cli = Any
Eventually = Callable[[Callable[[], Any]], Any]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal of our own, and a command in it."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli
        self.ours, self.theirs = pty.openpty()
        self.text = ""

    def start(self, *args: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a command with the terminal as its stdin, stdout and stderr."""
        environment = {**self._cli.environment({}), "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40", **env}
        process: subprocess.Popen[bytes] = self._cli.start(
            *args, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, env=environment
        )
        return process

    def read_until(self, words: str) -> str:
        """Read until the screen has shown `words`."""
        until = time.monotonic() + 50
        while words not in ESCAPES.sub("", self.text):
            assert time.monotonic() < until, self.text
            self._read(1.0)
        return self.text

    def read_to_the_end(self, process: subprocess.Popen[bytes]) -> str:
        """Read until the command has ended."""
        until = time.monotonic() + 50
        while process.poll() is None:
            assert time.monotonic() < until, self.text
            self._read(0.1)
        while self._read(0.0):
            pass
        return self.text

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.ours, text.encode())

    def _read(self, patience: float) -> bool:
        if not select.select([self.ours], [], [], patience)[0]:
            return False
        self.text += os.read(self.ours, 65_536).decode(errors="replace")
        return True


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Terminal]:
    """Give a terminal."""
    made = Terminal(cli)
    yield made
    os.close(made.ours)
    os.close(made.theirs)


def stubborn(cli: Cli, eventually: Eventually, id: str, grace: int = 2) -> int:
    """Dispatch a workload that ignores SIGTERM; return its pid once it does."""
    script = "trap '' TERM; touch $$.ready; while :; do sleep 0.05; done"
    before = set(cli.directory.glob("*.ready"))
    assert cli("dispatch", "--id", id, "--grace", str(grace), "--", "sh", "-c", script).code == 0
    (ready,) = eventually(lambda: set(cli.directory.glob("*.ready")) - before)
    return int(Path(ready).stem)


def test_run_shows_its_state_until_there_is_output_and_the_grace_after_a_ctrl_c(terminal: Terminal, cli: Cli) -> None:
    script = "trap '' TERM; until [ -e go ]; do sleep 0.05; done; echo OUTPUT; while :; do sleep 0.05; done"
    process = terminal.start("run", "--id", "fg", "--grace", "4", "--", "sh", "-c", script)
    terminal.read_until("fg  running")
    (cli.directory / "go").touch()
    terminal.read_until("OUTPUT")
    process.send_signal(2)
    terminal.read_until("SIGINT: cancelling fg")
    terminal.read_until("grace left")
    text = terminal.read_to_the_end(process)
    assert process.returncode == 130
    assert "cancelled (forced" in ESCAPES.sub("", text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor was left hidden"


def test_cancel_with_wait_counts_the_grace_down(terminal: Terminal, cli: Cli, eventually: Eventually) -> None:
    stubborn(cli, eventually, "slow", grace=5)
    process = terminal.start("cancel", "slow", "--wait")
    terminal.read_until("of 5s grace left")
    assert "slow cancelled (forced" in ESCAPES.sub("", terminal.read_to_the_end(process))
    assert process.returncode == 0


@pytest.mark.parametrize(("answer", "code"), [("n\n", 130), ("\n", 130), ("y\n", 0)])
def test_a_bulk_cancel_asks_first(terminal: Terminal, cli: Cli, eventually: Eventually, answer: str, code: int) -> None:
    pid = stubborn(cli, eventually, "one")
    process = terminal.start("cancel", "--all", "--wait")
    terminal.read_until("Cancel this 1 dispatch?")
    assert "running" in terminal.text
    terminal.type(answer)
    terminal.read_to_the_end(process)
    assert process.returncode == code
    assert Path(f"/proc/{pid}").exists() == (code != 0)


def test_tables_are_coloured_on_a_terminal_unless_no_colour_is_wanted(
    terminal: Terminal, cli: Cli, eventually: Eventually
) -> None:
    stubborn(cli, eventually, "one")
    process = terminal.start("ps")
    assert "\x1b[36mrunning" in terminal.read_to_the_end(process)
    terminal.text = ""
    process = terminal.start("ps", NO_COLOR="1")
    text = terminal.read_to_the_end(process)
    assert "running" in text
    assert "\x1b[3" not in text
