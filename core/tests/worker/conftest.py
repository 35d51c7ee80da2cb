"""What the tests of the worker share: programs of their own process, and a control plane that records or hangs."""

import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agora.worker.marks import Sieve

PATIENCE = 50


class Program:
    """A program with a worker in it, in a process of its own."""

    def __init__(self, path: Path, source: str, environment: dict[str, str], *wrapped_in: str) -> None:
        path.write_text(textwrap.dedent(source))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AGORA_")}
        self.process = subprocess.Popen(
            [*wrapped_in, sys.executable, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**kept, "AGORA_DISPATCH_ID": "d1", "TMPDIR": str(path.parent), **environment},
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._sieve = Sieve("d1")
        self.output = ""
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            rest, events = self._sieve.feed(line)
            self.events += [json.loads(event) for event in events]
            self.output += rest.decode()
            if rest:
                self._lines.put(rest.decode())

    def says(self, word: str) -> None:
        """Wait until it has printed a line."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(until - time.monotonic(), 0.01))
            except queue.Empty:
                self.process.kill()
                raise AssertionError(f"it never said {word!r}: {self.errors()}") from None
            if line.strip() == word:
                return

    def tell(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ends(self, within: float = PATIENCE) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(within)
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), "something that it has started holds its output open"
        return code

    def errors(self) -> str:
        """Return what it said on stderr; only after its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a type that came as marks."""
        return [event for event in self.events if event["type"] == kind]

    def close(self) -> None:
        """End it and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Give a starter of programs: the source, and variables for the environment."""
    started: list[Program] = []

    def start(source: str, *wrapped_in: str, **environment: str) -> Program:
        made = Program(tmp_path / f"program{len(started)}.py", source, environment, *wrapped_in)
        started.append(made)
        return made

    yield start
    for one in started:
        one.close()


class ControlPlane:
    """Takes events by HTTP, or takes the connection and says nothing."""

    def __init__(self, answer: int | None) -> None:
        self.events: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.asked = threading.Event()
        self._release = threading.Event()
        plane = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                plane.asked.set()
                plane.tokens.add(self.headers["Authorization"])
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if answer is None:
                    plane._release.wait()
                    return
                plane.events.append(body)
                self.send_response(answer)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"

    def close(self) -> None:
        """End it."""
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def control_plane() -> Iterator[Callable[..., ControlPlane]]:
    """Give a starter of control planes: the status that they answer, or None for one that hangs."""
    started: list[ControlPlane] = []

    def start(answer: int | None = 204) -> ControlPlane:
        started.append(ControlPlane(answer))
        return started[-1]

    yield start
    for one in started:
        one.close()
