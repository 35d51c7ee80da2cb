"""One command, one table: how Agora compares with the bare work, in the same run.

    .venv/bin/python benchmarks/run.py [--json]

Ratios are medians over interleaved rounds. These are figures to read, not timed tests.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from agora.client import AgoraClient, DispatchHandle
from baseline import Baseline

AGORA = str(Path(sys.executable).with_name("agora"))
SLEEP = ["sleep", "600"]
STAMP = """
import signal, sys, time
def told(number, frame):
    open(sys.argv[1], "w").write(repr(time.monotonic()))
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
open(sys.argv[1] + ".ready", "w").close()
while True:
    signal.pause()
"""


class Row:
    """One line of the table."""

    def __init__(self, what: str, value: str, bound: str, met: bool) -> None:
        self.what, self.value, self.bound, self.met = what, value, bound, met


def milliseconds(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


@contextmanager
def home(folder: Path, name: str) -> Iterator[Path]:
    """A state directory of its own."""
    path = folder / name
    os.environ["AGORA_HOME"] = str(path)
    yield path


async def cancel_all(handles: list[DispatchHandle]) -> None:
    async with anyio.create_task_group() as tasks:
        for handle in handles:
            tasks.start_soon(handle.cancel)
    for handle in handles:
        await handle.wait(confirmed=True, timeout=60)


async def dispatch_latency(folder: Path, rounds: int) -> list[Row]:
    """Dispatch to running, warm, one at a time, against the baseline in turn."""
    baseline = Baseline(folder / "baseline")
    ours, theirs, bare = [], [], []
    handles = []
    try:
        with home(folder, "latency") as path:
            async with AgoraClient(path) as client:
                for number in range(rounds + 10):
                    began = time.perf_counter()
                    handle = await client.dispatch(command=SLEEP)
                    took = time.perf_counter() - began
                    handles.append(handle)
                    rows, plain = baseline.dispatch(), baseline.popen()
                    if number >= 10:
                        ours.append(took)
                        theirs.append(rows)
                        bare.append(plain)
                await cancel_all(handles)
    finally:
        baseline.close()
    ratio = statistics.median(ours) / statistics.median(theirs)
    to_popen = statistics.median(ours) / statistics.median(bare)
    return [
        Row(
            "dispatch to running / Popen + same rows, FULL",
            f"{ratio:.1f} x ({milliseconds(ours):.2f} / {milliseconds(theirs):.2f} ms)",
            "<= 6 x",
            ratio <= 6,
        ),
        Row("dispatch to running / bare Popen", f"{to_popen:.1f} x ({milliseconds(bare):.2f} ms)", "reported", True),
    ]


async def throughput_and_cancel(folder: Path, count: int) -> list[Row]:
    """Dispatches a second, memory of a shim, and 500 cancelled together."""
    handles: list[DispatchHandle] = []

    async def dispatch(client: AgoraClient) -> None:
        handles.append(await client.dispatch(command=SLEEP))

    with home(folder, "many") as path:
        async with AgoraClient(path) as client:
            await dispatch(client)
            began = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(count - 1):
                    tasks.start_soon(dispatch, client)
            rate = (count - 1) / (time.perf_counter() - began)
            memory = max(pss(handle.record.native["shim"]) for handle in handles)
            began = time.perf_counter()
            await cancel_all(handles)
            confirmed = time.perf_counter() - began
    return [
        Row(f"dispatches a second, {count} at once", f"{rate:.0f} / s", ">= 150 / s", rate >= 150),
        Row(f"{count} running: all cancelled and confirmed", f"{confirmed:.2f} s", "<= 3 s", confirmed <= 3),
        Row("memory of a shim (largest PSS)", f"{memory / 1024:.2f} MB", "<= 2 MB", memory <= 2048),
    ]


def pss(pid: int) -> int:
    """Proportional set size in kB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


async def cancel_latency(folder: Path, rounds: int) -> list[Row]:
    """From the call of `cancel()` to SIGTERM in the workload, both by the machine's monotonic clock."""
    took = []
    with home(folder, "cancel") as path:
        async with AgoraClient(path) as client:
            for number in range(rounds):
                stamp = folder / f"stamp{number}"
                handle = await client.dispatch(command=[sys.executable, "-I", "-S", "-c", STAMP, str(stamp)])
                ready = anyio.Path(f"{stamp}.ready")
                with anyio.fail_after(10):
                    while not await ready.exists():  # noqa: ASYNC110 - another process makes the file
                        await anyio.sleep(0.005)
                began = time.monotonic()
                await handle.cancel()
                await handle.wait(confirmed=True, timeout=30)
                took.append(float(stamp.read_text()) - began)
    middle = milliseconds(took)
    return [Row("cancel() to SIGTERM seen by the workload", f"{middle:.1f} ms (median)", "<= 10 ms", middle <= 10)]


def command_seconds(*commands: list[str], rounds: int = 15) -> list[float]:
    """Run commands in turn, round by round; return the median of each."""
    took: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds):
        for arguments, seconds in zip(commands, took, strict=True):
            began = time.perf_counter()
            subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL, capture_output=True)
            seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in took]


async def fill(path: Path, count: int) -> None:
    """Write past dispatches, as the engine itself would."""
    from datetime import UTC, datetime

    from agora.model.record import Entry, State
    from agora.store import Store
    from agora.store.rows import insert

    store = Store(path)
    now = datetime.now(UTC)

    def job(connection: object) -> None:
        for number in range(count):
            entry = Entry(
                id=f"past{number:06d}", target="local", provider="local", state=State.SUCCEEDED, exit_code=0,
                confirmed=True, grace=30, timeout=7200, requested_at=now, submitted_at=now, started_at=now,
                ended_at=now, installation=store.installation, spec={"command": ["true"]}, digest="d",
            )  # fmt: skip
            insert(connection, entry)  # type: ignore[arg-type]

    await store._write(job, durable=False)
    store.close()


async def start_up(folder: Path) -> list[Row]:
    """The command line: `--help`, and `ps` over a long past."""
    with home(folder, "past") as path:
        await fill(path, 10_000)
        bare, shown, listed = command_seconds([sys.executable, "-c", "pass"], [AGORA, "--help"], [AGORA, "ps"])
    return [
        Row(
            "agora --help / bare interpreter",
            f"{shown / bare:.1f} x ({shown * 1000:.0f} / {bare * 1000:.0f} ms)",
            "<= 6 x",
            shown <= 6 * bare,
        ),
        Row(
            "agora ps, 10,000 past dispatches / --help",
            f"{listed / shown:.1f} x ({listed * 1000:.0f} ms)",
            "< 5 x",
            listed < 5 * shown,
        ),
    ]


async def measure(rounds: int, count: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="agora-bench-") as name:
        folder = Path(name)
        rows = await dispatch_latency(folder, rounds)
        rows += await cancel_latency(folder, max(10, rounds // 4))
        rows += await throughput_and_cancel(folder, count)
        return rows + await start_up(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of the latency figures")
    parser.add_argument("--count", type=int, default=500, help="workloads at once")
    given = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows = anyio.run(measure, given.rounds, given.count)
    for row in rows:
        if given.json:
            print(json.dumps(vars(row)))
        else:
            print(f"{row.what:50} {row.value:32} {row.bound:12} {'met' if row.met else 'MISSED'}")


if __name__ == "__main__":
    main()
