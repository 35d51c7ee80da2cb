"""`run` as a process in a terminal's place: real signals to it, and the workload's process seen from outside."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backend("local")

Cli = Any
Eventually = Callable[[Callable[[], Any]], Any]


def is_there(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def started(cli: Cli, script: str, *flags: str) -> tuple[subprocess.Popen[bytes], int]:
    """Run a shell script in the foreground; return `run` and the script's pid once it is ready."""
    process = cli.start(
        "run", "--id", "fg", *flags, "--", "sh", "-c", f"{script}; echo $$; while :; do sleep 0.05; done"
    )
    pid = int(process.stdout.readline())
    return process, pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_gracefully(cli: Cli, number: signal.Signals) -> None:
    process, pid = started(cli, "trap 'echo bye; exit 0' TERM")
    process.send_signal(number)
    out, err = process.communicate(timeout=50)
    assert process.returncode == 130
    assert out == b"bye\n"
    assert f"{number.name}: cancelling fg" in err.decode()
    assert not is_there(pid)
    record = cli.json("show", "fg")
    assert (record["state"], record["exit_code"], record["forced"]) == ("cancelled", 0, False)
    assert (record["cause"]["via"], record["cause"]["reason"]) == ("cli", number.name)


def test_the_second_signal_forces(cli: Cli, eventually: Eventually) -> None:
    process, pid = started(cli, "trap '' TERM", "--grace", "60")
    process.send_signal(signal.SIGINT)
    eventually(lambda: cli.json("show", "fg")["state"] == "stopping")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130, err
    assert not is_there(pid)
    assert cli.json("show", "fg")["forced"] is True


def test_the_third_signal_detaches_and_the_cancel_stands(cli: Cli, eventually: Eventually) -> None:
    process, pid = started(cli, "trap '' TERM", "--grace", "3")
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        eventually(lambda: cli.json("show", "fg")["state"] != "running" or process.poll() is not None)
    _, err = process.communicate(timeout=50)
    assert process.returncode in (125, 130)
    assert ("detached from fg" in err.decode()) == (process.returncode == 125)
    eventually(lambda: not is_there(pid))
    eventually(lambda: cli.json("show", "fg")["state"] == "cancelled")


def test_somebody_else_s_cancel_ends_run_and_is_told(cli: Cli) -> None:
    process, _ = started(cli, "trap 'exit 0' TERM")
    assert cli("cancel", "fg", "--actor", "bob", "--reason", "budget").code == 0
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130
    assert "fg cancelled by bob via cli: budget" in err.decode()


def test_a_background_child_that_holds_stdout_does_not_delay_the_end(cli: Cli) -> None:
    done = cli("run", "-q", "--", "sh", "-c", "sleep 600 & echo done")
    assert (done.code, done.out) == (0, "done\n")


def test_run_that_is_killed_leaves_a_dispatch_that_others_can_cancel(cli: Cli) -> None:
    process, pid = started(cli, "trap 'exit 0' TERM")
    process.kill()
    process.wait(timeout=50)
    assert is_there(pid)
    assert cli("cancel", "fg", "--wait").code == 0
    assert not is_there(pid)
