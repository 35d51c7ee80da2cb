"""The main job, shown on this machine: dispatch, look, cancel from another process, see who did it and that it is gone.

Every step is the command line that a user would type, printed exactly as it is run. What the demo claims it checks
beside that: it asks for `logs` and for `show --json`, unprinted, and looks at the processes from outside.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AGORA = str(Path(sys.executable).with_name("agora"))
STUBBORN = 'trap "echo SIGTERM ignored" TERM; echo stubborn and running; while :; do sleep 0.2; done'


class Failed(Exception):
    """Something that the demo claims was not so."""


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def agora(*arguments: str, show: bool = True, status: int = 0) -> str:
    """Run one command in a process of its own."""
    if show:
        print(f"$ agora {shlex.join(arguments)}", flush=True)
    done = subprocess.run([AGORA, *arguments], text=True, stdout=subprocess.PIPE, timeout=50, check=False)
    if show:
        print(done.stdout, end="", flush=True)
    if done.returncode != status:
        raise Failed(f"agora {arguments[0]} ended with {done.returncode}, not {status}")
    return done.stdout


def processes_of(dispatch: str) -> list[int]:
    """Look for processes that carry the dispatch id, from outside of Agora."""
    mark = f"AGORA_DISPATCH_ID={dispatch}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def until(what: str, check: object, seconds: float = 40.0) -> None:
    """Wait for something that has to become true."""
    limit = time.monotonic() + seconds
    while not check():  # type: ignore[operator]
        if time.monotonic() > limit:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


def first(checkpoint: Path) -> None:
    say("1. A workload that cleans up when it is told to stop")
    dispatch = agora("dispatch", "--name", "primes", "--run", "demo", "--grace", "10", "--",
                     sys.executable, str(ROOT / "examples" / "workload.py"), str(checkpoint)).strip()  # fmt: skip
    until("output of the workload", lambda: "primes up to" in agora("logs", dispatch, show=False))
    agora("ps")
    agora("logs", dispatch)
    print(f"its processes, seen from outside: {processes_of(dispatch)}")
    pid = record_of(dispatch)["native"]["pid"]
    if pid not in processes_of(dispatch):
        raise Failed(f"process {pid} is not running")

    say("2. Another process cancels it, by id and with a reason")
    agora("cancel", dispatch, "--reason", "the wrong input file", "--wait")
    agora("show", dispatch)
    agora("logs", dispatch, "--tail", "1")
    check_gone(dispatch, "cancelled", forced=False)
    if not checkpoint.exists():
        raise Failed("the workload did not save its work in the grace")


def second() -> None:
    say("3. One that ignores SIGTERM is killed after its grace of 3 seconds")
    dispatch = agora("dispatch", "--grace", "3", "--", "sh", "-c", STUBBORN).strip()
    until("output of the workload", lambda: "stubborn" in agora("logs", dispatch, show=False))
    agora("cancel", dispatch, "--reason", "it does not listen", "--wait")
    agora("events", dispatch)
    agora("logs", dispatch)
    check_gone(dispatch, "cancelled", forced=True)


def record_of(dispatch: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(agora("show", dispatch, "--json", show=False))
    return record


def check_gone(dispatch: str, state: str, *, forced: bool) -> None:
    record = record_of(dispatch)
    if (record["state"], record["forced"], record["confirmed"]) != (state, forced, True):
        raise Failed(f"the record says {record['state']}, forced {record['forced']}, confirmed {record['confirmed']}")
    left = processes_of(dispatch)
    print(f"its processes, seen from outside: {left or 'none is left'}")
    if left:
        raise Failed(f"processes {left} are still there")


def main() -> int:
    """Run the demo in a state directory of its own."""
    with tempfile.TemporaryDirectory(prefix="agora-demo-") as folder:
        os.environ["AGORA_HOME"] = str(Path(folder) / "home")
        began = time.monotonic()
        try:
            first(Path(folder) / "checkpoint.json")
            second()
        except (Failed, subprocess.TimeoutExpired) as error:
            print(f"demo failed: {error}", file=sys.stderr)
            return 1
        say(f"All of it was so, in {time.monotonic() - began:.0f} s.")
        print("The state directory of this demo goes now; yours is what AGORA_HOME names, or the platform's own.")
        until("the background supervisor to end", lambda: not supervised(Path(folder)))
    return 0


def supervised(folder: Path) -> bool:
    """Whether the demo's own background supervisor still runs."""
    return any(str(folder).encode() in cmdline for cmdline in command_lines())


def command_lines() -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return found


if __name__ == "__main__":
    sys.exit(main())
