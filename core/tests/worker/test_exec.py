"""`agora-worker exec`, also as the first process of a namespace of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agora.worker.children import descendants
from agora.worker.marks import Sieve

Eventually = Callable[[Callable[[], Any]], Any]
WORKER = [sys.executable, "-m", "agora.worker"]
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


class Running:
    """A supervised command."""

    def __init__(self, process: subprocess.Popen[bytes], pid: Callable[[], int], output: Path) -> None:
        self.process = process
        self._pid = pid
        self._output = output

    @property
    def pid(self) -> int:
        """The pid of its supervisor outside of its namespace; only while it is there."""
        return self._pid()

    @property
    def told(self) -> tuple[str, list[dict[str, Any]]]:
        """What it has said so far: the command's own output, and the events."""
        sieve = Sieve("d1")
        output, events = sieve.feed(self._output.read_bytes())
        return (output + sieve.close()).decode(), [json.loads(event) for event in events]


@pytest.fixture(params=["child", "first"])
def run(request: pytest.FixtureRequest, tmp_path: Path, eventually: Eventually) -> Iterator[Callable[..., Running]]:
    """Give a starter of supervised commands: as an ordinary process, and as the first one of a namespace."""
    if request.param == "first":
        done = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"not tested: the first process of a namespace: {done.stderr.strip()}")
    started: list[Running] = []

    def start(source: str, *options: str, **environment: str) -> Running:
        output = tmp_path / f"output{len(started)}"
        command = [*WORKER, "exec", *options, "--", sys.executable, "-c", source]
        first = request.param == "first"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*NAMESPACE, *command] if first else command, stdin=subprocess.DEVNULL, stdout=file,
                env={**os.environ, "AGORA_DISPATCH_ID": "d1", "TMPDIR": str(tmp_path), **environment},
            )  # fmt: skip

        def supervisor() -> int:
            found: list[int] = eventually(lambda: children_of(process.pid)) if first else [process.pid]
            return found[0]

        running = Running(process, supervisor, output)
        started.append(running)
        return running

    yield start
    for one in started:
        for pid in [*descendants(one.process.pid), one.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        one.process.wait()


def children_of(pid: int) -> list[int]:
    """Return the pids of the children of a process; none of one that has ended."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def says(running: Running, word: str) -> Callable[[], bool]:
    """Return a question: has it said that?"""
    return lambda: word in running.told[0]


Run = Callable[..., Running]


@pytest.mark.parametrize(("source", "code"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_is_the_command_s(run: Run, source: str, code: int) -> None:
    running = run(source)
    assert running.process.wait(50) == code
    assert running.told == ("", [])


def test_sigterm_is_passed_on_and_told(run: Run, eventually: Eventually, tmp_path: Path) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    running = run(
        """
import os, signal, sys, time
def end(*_):
    os.write(1, b"cleaned up\\n")
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
os.write(1, b"ready\\n")
time.sleep(60)
""",
        AGORA_WORKER_TERMINATION=str(message),
    )
    eventually(says(running, "ready"))
    for _ in range(3):
        os.kill(running.pid, signal.SIGTERM)
    assert running.process.wait(50) == 5
    assert json.loads(message.read_text()) == {"status": "cancelled", "exitCode": 5, "clean": True}
    output, events = running.told
    assert output == "ready\ncleaned up\n"
    assert [(event["type"], event["data"]["clean"]) for event in events] == [("dispatch.cancelled", True)]


def test_other_signals_are_passed_on_and_nothing_is_told(run: Run, eventually: Eventually) -> None:
    running = run("""
import signal, sys, time
for number in (signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, _: print(signal.Signals(number).name, flush=True))
signal.signal(signal.SIGINT, lambda *_: sys.exit(3))
print("ready", flush=True)
while True:
    time.sleep(60)
""")
    eventually(says(running, "ready"))
    for number in (signal.SIGUSR1, signal.SIGHUP):
        os.kill(running.pid, number)
        eventually(says(running, number.name))
    os.kill(running.pid, signal.SIGINT)
    assert running.process.wait(50) == 3
    assert running.told[1] == []


def test_a_command_that_ignores_sigterm_is_ended_with_all_it_has_started(run: Run, eventually: Eventually) -> None:
    running = run(
        """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(60)"])
print("ready", flush=True)
time.sleep(60)
""",
        "--grace",
        "10",
    )
    eventually(says(running, "ready"))
    eventually(says(running, "child"))
    below = descendants(running.pid)
    assert len(below) == 2
    begun = time.monotonic()
    os.kill(running.pid, signal.SIGTERM)
    assert running.process.wait(50) == 137
    assert time.monotonic() - begun < 10
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    assert [event["data"]["clean"] for event in running.told[1]] == [False]


def test_a_far_deadline_and_a_long_grace_are_kept_too(run: Run, eventually: Eventually) -> None:
    running = run("import time; print('ready', flush=True); time.sleep(60)", "--timeout", "1e9", "--grace", "1e9")
    eventually(says(running, "ready"))
    os.kill(running.pid, signal.SIGTERM)
    assert running.process.wait(50) == 143
    assert [event["data"]["clean"] for event in running.told[1]] == [True]


def test_the_deadline_is_kept(run: Run) -> None:
    begun = time.monotonic()
    running = run("import time; time.sleep(60)", "--timeout", "0.5")
    assert running.process.wait(50) == 124
    assert time.monotonic() - begun < 10
    (event,) = running.told[1]
    assert event["data"]["cause"]["policy"] == "timeout"


def test_orphans_are_waited_for(run: Run, eventually: Eventually) -> None:
    running = run("""
import os, subprocess, sys, time
for _ in range(5):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
            os._exit(0)
        os._exit(0)
    os.wait()
print("ready", flush=True)
time.sleep(60)
""")
    eventually(says(running, "ready"))
    # One child is left: the command. A zombie would be a second one.
    eventually(lambda: len(children_of(running.pid)) == 1)
    assert len(children_of(running.pid)) == 1


def test_secrets_reach_the_command_and_not_its_supervisor(run: Run, eventually: Eventually) -> None:
    running = run(
        "import os, time; print(len(os.environ['KEY']), flush=True); time.sleep(60)",
        AGORA_WORKER_SECRETS="KEY",
        KEY="s3cret-value",
    )
    eventually(says(running, "12"))
    (child,) = children_of(running.pid)
    assert b"s3cret-value" in Path(f"/proc/{child}/environ").read_bytes()
    eventually(lambda: b"s3cret-value" not in Path(f"/proc/{running.pid}/environ").read_bytes())
    assert b"KEY=\0" in Path(f"/proc/{running.pid}/environ").read_bytes()


def agora_worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([*WORKER, *arguments], capture_output=True, text=True, timeout=50, check=False)


def test_a_command_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    done = agora_worker("exec", "--", str(tmp_path / "nowhere"))
    assert (done.returncode, "No such file" in done.stderr) == (127, True)
    (tmp_path / "data").touch()
    done = agora_worker("exec", "--", str(tmp_path / "data"))
    assert (done.returncode, "Permission denied" in done.stderr) == (126, True)


def test_a_signal_that_was_blocked_is_passed_on() -> None:
    blocked = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
        "os.kill(os.getpid(), signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", blocked, *WORKER, "exec", "--", "sleep", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (143, "")


def test_signals_that_were_ignored_are_ignored_by_the_command() -> None:
    probe = "import signal; print([signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGHUP, signal.SIGUSR1)])"
    command = [*WORKER, "exec", "--", sys.executable, "-c", probe]
    shell = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "[True, False]\n"


def test_stdin_and_a_closed_stdout_are_the_command_s() -> None:
    command = [*WORKER, "exec", "--", "sh", "-c", "cat; exec >&-; exit 9"]
    done = subprocess.run(command, input="given", capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, "given", "")


def test_a_wrong_address_for_events_is_said_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGORA_WORKER_URL", "nowhere")
    done = agora_worker("exec", "--", "touch", str(tmp_path / "started"))
    assert (done.returncode, "AGORA_WORKER_URL is no address" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "say what to do"),
        (["exec"], "needs a command"),
        (["exec", "--"], "needs a command"),
        (["exec", "--grace"], "--grace needs"),
        (["exec", "--timeout", "soon", "--", "true"], "--timeout needs"),
        (["exec", "--timeout", "-1", "--", "true"], "positive"),
        (["exec", "--what"], "no option --what"),
        (["undelivered"], "outside of a dispatch"),
    ],
)
def test_a_wrong_command_line_is_said(arguments: list[str], word: str) -> None:
    done = agora_worker(*arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert "usage:" in done.stderr


def test_help_and_options() -> None:
    for arguments in (["--help"], ["exec", "--help"], ["undelivered", "--help"]):
        done = agora_worker(*arguments)
        assert (done.returncode, done.stdout[:6]) == (0, "usage:")
    assert agora_worker("exec", "--grace", "5", "--timeout", "9", "true").returncode == 0
    assert agora_worker("exec", "--", "sh", "-c", "exit 4", "--timeout").returncode == 4
