"""Runs of real programs and processes: cancelled from outside, killed in the middle, and run again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora import (
    AgoraClient,
    BlockingClient,
    DispatchCancelled,
    DispatchTimedOut,
    InvalidRequest,
    State,
    Via,
)
from agora.client.blocking_run import BlockingRun
from agora.model.record import Lease
from agora.store import Store, default_home

from tests.groups.conftest import alive, has, sleeper, spec, until
from tests.groups.test_groups import gone, patiently

pytestmark = [pytest.mark.backend("local"), pytest.mark.anyio]
Open = Callable[[], AgoraClient]


def gated(gate: Path) -> list[str]:
    """A command that succeeds once a file is there."""
    return ["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done"]


async def cancel_from_outside(*arguments: str) -> None:
    """Cancel by the command line, in a process of its own."""
    done = await anyio.run_process([sys.executable, "-m", "agora", "cancel", *arguments])
    assert done.returncode == 0


async def test_a_program_catches_that_one_of_two_is_cancelled_and_goes_on(client: Open, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with client() as agora:
        async with agora.run("nightly") as run, anyio.create_task_group() as tasks:
            slow = await run.dispatch("slow", **spec(sleeper()))
            other = await run.dispatch("other", **spec(gated(gate)))
            tasks.start_soon(cancel_from_outside, "--run", "nightly", "slow", "--reason", "too slow")
            caught: list[DispatchCancelled] = []
            try:
                await run.result("slow", timeout=60)
            except DispatchCancelled as error:
                caught.append(error)
            advanced = time.time()
            asked = (await slow.get()).stopping_at
            assert asked is not None
            assert advanced - asked.timestamp() < 12
            assert [(error.dispatch_id, error.reason) for error in caught] == [("nightly-slow", "too slow")]
            assert not alive(await slow.wait(confirmed=True, timeout=20))
            assert alive(await other.get()), "the other one goes on"
            gate.touch()
        outcome = await agora.run_outcome("nightly")
        assert outcome is not None
        assert outcome.state is State.SUCCEEDED
        assert (await other.get()).state is State.SUCCEEDED


async def leave(agora: AgoraClient, name: str, *members: dict[str, Any]) -> None:
    """Dispatch some members and wait for the first of them."""
    async with agora.run(name) as run:
        for number, member in enumerate(members):
            await run.dispatch(f"m{number}", **member)
        await run.result("m0", timeout=60)


async def test_what_is_not_caught_cancels_the_run_and_a_timeout_fails_it(client: Open) -> None:
    async with client() as agora:

        async def cancel() -> None:
            await until(lambda: has(agora, 2))
            await cancel_from_outside("nightly-m0", "--reason", "wrong input")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with pytest.raises(DispatchCancelled, match="wrong input") as first:
                await leave(agora, "nightly", spec(sleeper()), spec(sleeper()))
        outcome = await agora.run_outcome("nightly")
        assert outcome is not None
        assert outcome.cause is not None
        assert (outcome.state, outcome.dispatch_id, outcome.reason) == (State.CANCELLED, "nightly-m0", "wrong input")
        assert outcome.cause.via is Via.CLI
        sibling = await agora.wait("nightly-m1", confirmed=True, timeout=20)
        assert sibling.cause is not None
        assert (sibling.state, sibling.cause.policy) == (State.CANCELLED, "owner_gone")
        assert not alive(sibling)
        with pytest.raises(DispatchCancelled) as again:
            await leave(agora, "nightly", spec(sleeper()), spec(sleeper()))
        assert str(again.value) == str(first.value)
        assert await agora.run_outcome("nightly") == outcome

        with pytest.raises(DispatchTimedOut):
            await leave(agora, "late", spec(sleeper(), timeout=1))
        late = await agora.run_outcome("late")
        assert late is not None
        assert (late.state, late.error, late.dispatch_id) == (State.FAILED, "DispatchTimedOut", "late-m0")


async def test_cancelling_the_program_is_no_exception_of_its_runs_and_stops_the_members(client: Open) -> None:
    caught: list[Exception] = []
    async with client() as agora:

        async def program() -> None:
            async with agora.run("nightly") as run:
                await run.dispatch("one", **spec(sleeper()))
                try:
                    await run.result("one")
                except Exception as error:  # noqa: BLE001 - what a program may do, and what must not take this
                    caught.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program)
            await until(lambda: has(agora, 1))
            tasks.cancel_scope.cancel()
        assert caught == []
        assert await agora.run_outcome("nightly") is None
        record = await agora.wait("nightly-one", confirmed=True, timeout=20)
        assert record.cause is not None
        assert (record.state, record.cause.policy) == (State.CANCELLED, "owner_gone")
        assert not alive(record)


PROGRAM = """
import json, sys
from agora import BlockingClient, AgoraError
log, gate = sys.argv[1:]
waits = f"while [ ! -e {gate} ]; do sleep 0.05; done"
scripts = {"done": ":", "bad": "exit 3", "slow": "exec sleep 600", "last": waits}
def ask(word):
    print(word, flush=True)
    sys.stdin.readline()
def how(run, name):
    try:
        return run.result(name, timeout=60).id
    except AgoraError as error:
        return [type(error).__name__, error.dispatch_id, error.reason, str(error)]
with BlockingClient(actor="ann") as agora, agora.run("nightly") as run:
    ask("entered")
    for name, script in scripts.items():
        run.dispatch(name, command=["sh", "-c", f"echo {name} $$ >> {log}; {script}"], grace=2)
    run.cancel("slow", reason="too slow")
    seen = [how(run, name) for name in ("done", "bad", "slow")]
    ask("middle")
    print(json.dumps([*seen, how(run, "last")]), flush=True)
"""


class Program:
    """The program in a process of its own, which stops where it says so.

    Parameters:
        arguments: its own.
    """

    def __init__(self, *arguments: Path) -> None:
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.communicate()

    def says(self) -> str:
        """Return its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def goes_on(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def owner_of(id: str) -> Lease:
    """Return who has claimed a dispatch, as the store has it."""
    store = Store(default_home())
    try:
        claim = store.read_blocking(id).owned
    finally:
        store.close()
    assert claim is not None
    return claim


def test_a_program_that_is_killed_and_run_again_starts_nothing_twice_and_is_told_the_same(tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    with Program(log, gate) as program:
        assert program.says() == "entered"
        program.goes_on()
        assert program.says() == "middle"
        first = owner_of("nightly-last")
        program.process.kill()
        assert program.process.wait(20) == -signal.SIGKILL
    with BlockingClient() as agora:
        assert agora.run_outcome("nightly") is None, "a crash writes nothing"
    answers = []
    with Program(log, gate) as program:
        assert program.says() == "entered"
        assert owner_of("nightly-last").owner != first.owner, "what still lives is taken over at once"
        program.goes_on()
        assert program.says() == "middle"
        gate.touch()
        program.goes_on()
        answers.append(json.loads(program.says()))
        assert program.process.wait(60) == 0
    with BlockingClient() as agora:
        outcome = agora.run_outcome("nightly")
        assert outcome is not None
        assert outcome.state is State.SUCCEEDED
    with Program(log, gate) as program:
        for _ in range(2):
            program.says()
            program.goes_on()
        answers.append(json.loads(program.says()))
        assert program.process.wait(60) == 0
    assert answers[0] == answers[1]
    done, bad, slow, last = answers[0]
    assert (done, last) == ("nightly-done", "nightly-last")
    assert bad[:3] == ["DispatchFailed", "nightly-bad", None]
    assert slow[:3] == ["DispatchCancelled", "nightly-slow", "too slow"]
    started = [line.split()[0] for line in log.read_text().splitlines()]
    assert sorted(started) == ["bad", "done", "last", "slow"], "each was started once"
    with BlockingClient() as agora:
        assert agora.run_outcome("nightly") == outcome
        assert not any(alive(record) for record in agora.list(run="nightly"))


LEFT_ALONE = """
import sys
from agora import BlockingClient
from agora.client import claims, sending
claims.OWNER_SECONDS = sending.OWNER_SECONDS = 4.0
with BlockingClient() as agora, agora.run("nightly") as run:
    run.dispatch("one", command=["sleep", "600"], grace=2)
    print("there", flush=True)
    sys.stdin.readline()
"""


def test_a_program_that_stays_dead_takes_its_members_along() -> None:
    command = [sys.executable, "-c", LEFT_ALONE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "there\n"
            begun = owner_of("nightly-one")
            patiently(lambda: owner_of("nightly-one").until > begun.until)  # kept up while it is there
        finally:
            program.kill()
    with BlockingClient() as agora:
        patiently(lambda: agora.get("nightly-one", refresh=False).state is State.CANCELLED)
        record = agora.get("nightly-one")
        assert record.cause is not None
        assert record.cause.policy == "owner_gone"
        patiently(partial(gone, record))
        assert agora.run_outcome("nightly") is None


def blocking(agora: BlockingClient, name: str, error: BaseException | None) -> BlockingRun:
    """Leave a run with a member in it by an exception, or normally."""
    with agora.run(name) as run:
        handle = run.dispatch("one", **spec(sleeper()))
        if error is not None:
            raise error
        assert [answer.id for answer in run.cancel_all(reason="enough")] == [handle.id]
        with pytest.raises(DispatchCancelled):
            run.result("one")
        assert run.wait("one").id == handle.id
    return run


def test_the_blocking_twin_of_a_run() -> None:
    with BlockingClient(actor="ann") as agora:
        run = blocking(agora, "normal", None)
        assert run.outcome is not None
        assert (run.name, run.outcome.state) == ("normal", State.SUCCEEDED)
        with pytest.raises(InvalidRequest):
            blocking(agora, "refused", InvalidRequest("mine"))
        with pytest.raises(KeyboardInterrupt):
            blocking(agora, "interrupted", KeyboardInterrupt())
        found = {one.run: one for one in agora.runs()}
        assert found.keys() == {"normal", "refused", "interrupted"}
        failed = found["refused"].outcome
        assert failed is not None
        assert (failed.state, failed.error) == (State.FAILED, "InvalidRequest")
        assert found["interrupted"].outcome is None
        for name in ("refused", "interrupted"):
            assert not alive(agora.wait(f"{name}-one", confirmed=True, timeout=20))
