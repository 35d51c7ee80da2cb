"""The first requests of a process, from many threads at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from agora_conformance.emulators.nomad import NomadEmulator

pytestmark = pytest.mark.backend("nomad")

PROGRAM = """
import sys, threading
from agora_nomad.api import Api
from agora_nomad.config import NomadConfig
from agora_nomad.connect import connect

sys.setswitchinterval(1e-5)
api = Api(connect("c", NomadConfig(address=sys.argv[1], variables=False)))
assert "nomad.api.base" in sys.modules, "left to the threads"
failures, barrier = [], threading.Barrier(10)

def ask(number):
    barrier.wait()
    try:
        api.select("jobs") if number % 2 else api.job("none")
    except Exception as error:
        failures.append(repr(error))

threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit("\\n".join(failures) or 0)
"""


def test_threads_that_ask_at_the_same_time_find_the_client_whole() -> None:
    with NomadEmulator() as emulator:
        command = [sys.executable, "-c", PROGRAM, emulator.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
