"""What the worker costs a workload."""

import os
import resource
import subprocess
import sys

import pytest

HEAVY = ("pydantic", "anyio", "asyncio", "typing", "json", "subprocess", "socket", "http.client", "agora.model.base")
#: Editable installations add import hooks to the start, on both sides of the comparison; a quiet minimum counts.
ROUNDS = 25


def test_importing_it_imports_nothing_heavy() -> None:
    probe = f"import sys, agora.worker; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def used(program: str, environment: dict[str, str]) -> float:
    """Return the seconds of a processor that an interpreter takes for a program; others at work do not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.serial
def test_it_starts_in_under_twice_a_bare_interpreter() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    bare, worker = [], []
    for _ in range(ROUNDS):
        bare.append(used("pass", environment))
        worker.append(used("from agora.worker import BlockingWorker", environment))
    assert min(worker) < 2 * min(bare), f"{min(worker) * 1000:.1f} ms, bare {min(bare) * 1000:.1f} ms"
