"""A blocking client that is interrupted, closed or forked: nothing hangs, and members go with who dispatched them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from agora import AgoraError, BlockingClient, State

from tests.groups.conftest import alive, sleeper, spec

pytestmark = pytest.mark.backend("local")

RACE = """
import contextlib, signal, sys
from agora import BlockingClient
from agora.worker import BlockingWorker
with BlockingWorker() if sys.argv[1] == "SIGTERM" else contextlib.nullcontext():
    with BlockingClient() as client:
        client.race([{"command": ["sleep", "600"], "grace": 2}] * 2)
"""
AS_COMPLETED = RACE.replace("client.race(", "list(client.as_completed(").replace("* 2)", "* 2))")


@pytest.fixture
def agora() -> Iterator[BlockingClient]:
    """A client whose workloads nobody but itself looks after."""
    with BlockingClient(supervisor=False) as client:
        yield client
        for record in client.list(live=True):
            client.cancel(record.id, force=True)
            client.wait(record.id, confirmed=True, timeout=30)


@pytest.mark.parametrize(("source", "name"), [(RACE, "SIGINT"), (RACE, "SIGTERM"), (AS_COMPLETED, "SIGINT")])
def test_interrupting_who_waits_cancels_its_members_and_hangs_nowhere(
    agora: BlockingClient, source: str, name: str
) -> None:
    command = [sys.executable, "-c", source, name]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "AGORA_SUPERVISOR": "false"})
    try:
        deadline = time.monotonic() + 40
        while len(agora.list(states=[State.RUNNING])) < 2:
            assert time.monotonic() < deadline, "they never ran"
            time.sleep(0.05)
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (143 if name == "SIGTERM" else -signal.SIGINT), errors.decode()
    assert (b"KeyboardInterrupt" in errors) is (name == "SIGINT")
    for record in agora.list():
        ended = agora.wait(record.id, confirmed=True, timeout=30)
        assert ended.cause is not None
        assert (ended.state, ended.cause.policy) == (State.CANCELLED, "owner_gone")
        assert not alive(ended)


@pytest.mark.parametrize("verb", ["wait", "race"])
def test_closing_wakes_the_calls_of_other_threads(verb: str) -> None:
    client = BlockingClient(supervisor=False)
    raised: list[BaseException] = []
    waits = threading.Event()
    with client:
        handle = client.dispatch(**spec(sleeper()))

        def call() -> None:
            waits.set()
            try:
                client.wait(handle.id) if verb == "wait" else client.race([handle])
            except BaseException as error:  # noqa: BLE001 - looked at below
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert waits.wait(30)
    thread.join(30)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [AgoraError]
    with pytest.raises(AgoraError, match="not open"):
        client.get(handle.id)
    assert alive(handle.record), "leaving the client ends no dispatch"
    with client:
        client.cancel(handle.id, force=True)
        client.wait(handle.id, confirmed=True, timeout=30)


FORK = """
import os, signal, sys
from agora import AgoraError, BlockingClient
with BlockingClient(supervisor=False) as client:
    handle = client.dispatch(command=["true"])
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            handle.get()
        except AgoraError as error:
            print(error, flush=True)
        with BlockingClient(supervisor=False) as own:
            print(own.get(handle.id).id == handle.id, flush=True)
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    print(handle.wait(timeout=20).state.value, flush=True)
"""


def test_a_fork_says_that_it_is_one_and_leaves_the_block_alone() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "fork of the one that opened the client" in lines[0]
    assert lines[1:] == ["True", "7", "succeeded"]
    assert "Traceback" not in done.stderr
