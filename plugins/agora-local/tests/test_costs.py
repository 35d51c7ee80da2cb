"""What a workload costs: memory of a shim, time of a dispatch and of a stop."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_harness import Local, alive, eventually

pytestmark = pytest.mark.serial

RUNNING = 200


def proportional_set_size(pid: int) -> int:
    """Return the memory of a process in kB, what is shared counted by its share."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def test_two_hundred_at_once(local: Local) -> None:
    with ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda _: local.start("sh", "-c", "echo hello; exec sleep 600"), range(RUNNING)))
        eventually(lambda: all(local.output(handle) for handle in handles))
        memory = sorted(proportional_set_size(handle.data["shim"]) for handle in handles)
        assert memory[-1] <= 2048, f"{memory[RUNNING // 2]} kB in the middle, {memory[-1]} kB at most"
        list(pool.map(local.stop, handles))
        eventually(lambda: all(observation.phase == "ended" for observation in local.provider.observe(handles)))
    assert not any(alive(handle.data["pid"]) for handle in handles)


def test_dispatch_against_a_bare_start(local: Local, tmp_path: Path) -> None:
    local.run("true")
    ours: list[float] = []
    bare: list[float] = []
    for number in range(40):
        began = time.perf_counter()
        handle = local.start("sleep", "600")
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        with (tmp_path / f"log{number}").open("wb") as log:
            process = subprocess.Popen(["sleep", "600"], stdout=log, stderr=log, start_new_session=True)
        bare.append(time.perf_counter() - began)
        process.kill()
        process.wait()
        local.provider.kill(handle)
    ratio = sorted(ours)[20] / sorted(bare)[20]
    assert ratio < 8, f"{ratio:.1f} times a bare start"


def test_from_stop_to_sigterm(local: Local) -> None:
    program = (
        "import os, signal, time\n"
        "def told(*_):\n"
        "    os.write(1, b'%f' % time.time())\n"
        "    os._exit(0)\n"
        "signal.signal(signal.SIGTERM, told)\n"
        "os.write(1, b'READY\\n')\n"
        "time.sleep(600)\n"
    )
    delays = []
    for _ in range(10):
        handle = local.start("python3", "-I", "-S", "-c", program)
        local.ready(handle)
        began = time.time()
        local.stop(handle)
        local.end(handle)
        delays.append(float(local.output(handle).split()[-1]) - began)
    assert sorted(delays)[5] < 0.01, delays
