"""What the tests of many clients at once share."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 50
PEER = Path(__file__).parent / "peer.py"
MARK = b"AGORA_DISPATCH_INSTALLATION="


def environ_of(pid: int) -> list[bytes]:
    """Return a process's environment; nothing for one that has ended."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


@dataclass
class World:
    """A state directory and what can be seen of it from outside."""

    home: Path
    directory: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python process in the test's directory."""
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.directory
        )
        self.started.append(process)
        return process

    def agora(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "agora", *words], capture_output=True, text=True, check=False, timeout=PATIENCE,
            cwd=self.directory,
        )  # fmt: skip

    def at_once(self, verb: str, id: str, count: int, script: str = "") -> list[Any]:
        """Let processes do the same thing at the same time; return what each had to say."""
        peers = [self.start(str(PEER), verb, str(self.home), id, script, str(number)) for number in range(count)]
        for peer in peers:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "ready\n"
        for peer in peers:
            assert peer.stdin is not None
            peer.stdin.write("go\n")
            peer.stdin.flush()
        found = []
        for peer in peers:
            out, _ = peer.communicate(timeout=PATIENCE)
            assert peer.returncode == 0
            found.append(json.loads(out))
        return found

    def lines(self, name: str) -> list[str]:
        """Return what a workload has written to a file."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def workloads(self, id: str | None = None) -> list[int]:
        """Return every process that carries this installation's mark, and the dispatch's where one is given."""
        marks = {MARK + (self.home / "installation").read_bytes().strip()}
        if id is not None:
            marks.add(f"AGORA_DISPATCH_ID={id}".encode())
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if marks <= set(environ_of(pid))]

    def row(self, id: str) -> dict[str, Any]:
        """Read a stored record, without anybody who could change it meanwhile."""
        with closing(sqlite3.connect(self.home / "agora.db")) as connection:
            (body,) = connection.execute("SELECT body FROM dispatches WHERE id = ?", (id,)).fetchone()
        found: dict[str, Any] = json.loads(body)
        return found

    def events(self, id: str) -> list[str]:
        """Read the types of the stored events of a dispatch, in order."""
        with closing(sqlite3.connect(self.home / "agora.db")) as connection:
            rows = connection.execute("SELECT type FROM events WHERE dispatch_id = ? ORDER BY sequence", (id,))
            return [kind.removeprefix("dispatch.") for (kind,) in rows]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a world of this test's own; what is left of it is ended afterwards."""
    found = World(tmp_path / "agora-home", tmp_path)
    yield found
    for process in found.started:
        process.kill()
        process.communicate()
    if (found.home / "installation").exists():
        for pid in found.workloads():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Give a function that asks until the answer is true, and returns it."""

    def ask(question: Callable[[], Any]) -> Any:
        until = time.monotonic() + PATIENCE
        while not (answer := question()):
            assert time.monotonic() < until, "never came true"
            time.sleep(0.01)
        return answer

    return ask
