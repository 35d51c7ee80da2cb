"""The command line as a user has it: a process of its own, with a state directory of its own.

Those that are run to their end are forked from one that has imported everything; those that are started, and those
with an environment that Python itself reads, are new.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agora.model.record import Record, State

sys.path.insert(0, str(Path(__file__).parent / "process"))

from forked import Server

PATIENCE = 50
#: Variables that a new interpreter reads as it begins.
OF_PYTHON = ("PYTHON", "LANG", "LC_")


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Return stdout as JSON, one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self) -> dict[str, Any]:
        """Return the one JSON object on stdout."""
        (only,) = self.objects
        return only


@dataclass
class Cli:
    """Runs `agora` in processes."""

    home: Path
    directory: Path
    server: Server
    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self, extra: dict[str, str]) -> dict[str, str]:
        """Return the environment of a command."""
        return {**os.environ, "AGORA_HOME": str(self.home), **self.env, **extra}

    def __call__(self, *args: str, stdin: str | None = None, **env: str) -> Done:
        """Run a command to its end."""
        environment = self.environment(env)
        if not any(name.startswith(OF_PYTHON) for name in (*self.env, *env)):
            return Done(*self.server.run(args, stdin or "", self.directory, environment, PATIENCE))
        done = subprocess.run(
            [sys.executable, "-m", "agora", *args], input=stdin, capture_output=True, text=True, timeout=PATIENCE,
            check=False, cwd=self.directory, env=environment,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command and leave it running."""
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
            "cwd": self.directory, "env": self.environment({}), **options,
        }  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "agora", *args], **settings)
        self.started.append(process)
        return process

    def recorded(self, which: str = "1") -> int:
        """Count the dispatches in the store, or those of some condition, without the command line."""
        if not (self.home / "agora.db").exists():
            return 0
        with closing(sqlite3.connect(self.home / "agora.db")) as connection:
            (count,) = connection.execute(f"SELECT count(*) FROM dispatches WHERE {which}").fetchone()
        return int(count)

    def json(self, *args: str) -> dict[str, Any]:
        """Run a command with --json that has to succeed and prints one object."""
        done = self(args[0], "--json", *args[1:])
        assert done.code == 0, done.err
        return done.object


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Give what forks commands."""
    forking = Server()
    yield forking
    forking.close()


@pytest.fixture
def cli(tmp_path: Path, server: Server) -> Iterator[Cli]:
    """Give a command line with a state directory of its own; what it started is ended afterwards."""
    runner = Cli(Path(os.environ["AGORA_HOME"]), tmp_path, server)
    yield runner
    for process in runner.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    with suppress(sqlite3.DatabaseError):  # a store that the test broke
        if runner.recorded("live = 1"):
            runner("cancel", "--all", "--yes", "--force", "--wait")


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Give a function that asks until the answer is true, and returns it."""

    def ask(question: Callable[[], Any]) -> Any:
        until = time.monotonic() + PATIENCE
        while not (answer := question()):
            assert time.monotonic() < until, f"never came true: {question}"
            time.sleep(0.02)
        return answer

    return ask


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Give a maker of records."""

    def make(state: str = "running", **fields: Any) -> Record:
        base: dict[str, Any] = {
            "id": "01jx0000000000000000000000", "target": "local", "provider": "local", "state": State(state),
            "grace": 30, "timeout": 7200, "requested_at": datetime(2031, 5, 1, 12, tzinfo=UTC),
        }  # fmt: skip
        return Record(**{**base, **fields})

    return make
