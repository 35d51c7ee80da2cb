"""A peer that never answers, in any hook: every verb and every command still comes back in time, and processes end."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, Outcome, Record, State, hookimpl
from agora.config import Settings
from agora.engine import submit
from agora.errors import AgoraError, StoreError, Unreachable
from agora.model.events import Event, EventType

Run = Callable[..., Any]
MakeSettings = Callable[..., Settings]

#: Seconds: what the contract allows, and what a busy machine adds.
STOP, READ, BUSY = 12.0, 4.0, 4.0
#: A pass of `reconcile` looks first, then sends; each for at most 10 s.
PASS = 2 * STOP


async def timed(name: str, work: Coroutine[Any, Any, Any]) -> tuple[str, float, Any]:
    """Run something and say how long it took and what came of it."""
    begun = time.monotonic()
    try:
        found = await work
    except (AgoraError, TimeoutError) as error:
        found = error
    return name, time.monotonic() - begun, found


@pytest.mark.serial
@pytest.mark.beside
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_verb_comes_back_in_time(paper: Any, paper_settings: MakeSettings, home: Path, run: Run) -> None:
    async def everything(values: Any) -> list[Any]:
        return [value async for value in values]

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            ids = [(await client.dispatch(command=("true",), name=f"n{n}", run="r")).id for n in range(6)]
            paper.SILENT.add("all")
            done = await asyncio.gather(
                timed("get", client.get(ids[0])),
                timed("list", client.list(refresh=True)),
                timed("cancel", client.cancel(ids[1], reason="enough")),
                timed("force", client.cancel(ids[2], force=True)),
                timed("logs", everything(client.logs(ids[0]))),
                timed("events", everything(client.events(ids[0]))),
                timed("wait", client.wait(ids[3], timeout=1)),
                timed("result", client.result(ids[3], timeout=1)),
                timed("reap", client.reap(dry_run=True)),
                timed("dispatch", client.dispatch(command=("true",), id="another")),
            )
            seconds = {name: took for name, took, _ in done}
            found = {name: value for name, _, value in done}
            name, seconds["reconcile"], found["reconcile"] = await timed("reconcile", client.reconcile())
            for name in ("get", "list", "wait", "result", "events"):
                assert seconds[name] < READ + BUSY, (name, seconds)
            for name in ("cancel", "force", "logs", "reap", "dispatch"):
                assert seconds[name] < STOP + BUSY, (name, seconds)
            assert seconds["reconcile"] < PASS + BUSY
            assert found["get"].reachable is False
            assert found["get"].state is State.RUNNING, "silence ends nothing"
            assert all(record.reachable is False for record in found["list"])
            for name in ("cancel", "force"):
                assert (found[name].outcome, found[name].delivered) == (Outcome.STOPPING, False)
                assert found[name].error.type == "unreachable"
            assert isinstance(found["wait"], TimeoutError)
            for name in ("logs", "dispatch"):
                assert isinstance(found[name], Unreachable), found[name]
            assert [(one.target, one.action) for one in found["reap"]] == [("paper", "failed")]
            assert [record.id for record in await client.list() if record.id == "another"] == [], "nothing was recorded"
            assert found["reconcile"].unreachable == ("paper",)
            begun = time.monotonic()
        assert time.monotonic() - begun < 2 + BUSY, "leaving takes no longer than a provider's close may"

    run(asyncio.wait_for(work(), 90), seconds=100)


@pytest.mark.serial
def test_a_start_without_a_sign_of_life_is_left_and_looked_for(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(submit, "CLAIM_SECONDS", 0.6)

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            paper.SILENT.add("dispatch")
            begun = time.monotonic()
            handle = await client.dispatch(command=("true",), id="d1")
            assert time.monotonic() - begun < 1 + READ
            assert (handle.record.state, handle.record.reachable) == (State.SUBMITTED, False)
            assert handle.record.reason == "unreachable"
            result = await handle.cancel()
            assert (result.outcome, result.delivered) == (Outcome.STOPPING, False)
            await client.reconcile()
            record = await handle.get()
            assert (record.state, record.confirmed, record.reason) == (State.CANCELLED, True, "never_started")

    run(work())


@pytest.mark.serial
@pytest.mark.timeout(400)
def test_a_target_that_cannot_even_be_made_holds_up_no_cancel(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def dispatch() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            await client.dispatch(command=("true",), id="d1")

    async def work() -> None:
        paper.SILENT.add("create")
        async with AgoraClient(home, settings=paper_settings()) as client:
            _, took, result = await timed("cancel", client.cancel("d1"))
            assert took < STOP + BUSY
            assert (result.outcome, result.delivered, result.error.type) == (Outcome.STOPPING, False, "target_missing")
            _, took, record = await timed("get", client.get("d1"))
            assert took < READ + BUSY
            assert (record.state, record.reachable) == (State.STOPPING, False)

    run(dispatch())
    run(work())


@pytest.mark.serial
def test_an_extension_that_never_comes_back_holds_up_nothing_for_long(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[EventType] = []

    class Deaf:
        @hookimpl
        def on_event(self, event: Event) -> None:
            heard.append(event.type)
            if event.type is EventType.CANCEL_REQUESTED:
                paper.RELEASE.wait()

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings(), extensions=[Deaf()]) as client:
            handle = await client.dispatch(command=("true",))
            _, took, result = await timed("cancel", handle.cancel())
            assert took < READ + BUSY
            assert (result.outcome, result.delivered) == (Outcome.STOPPING, True)

    run(work())
    assert heard[-1] is EventType.STOPPING
    assert "did not take its events" in caplog.text


def test_a_timeout_of_the_providers_own_is_an_unanswered_submit(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        paper.FAILS["dispatch"] = TimeoutError("read timed out")
        async with AgoraClient(home, settings=paper_settings()) as client:
            record = (await client.dispatch(command=("true",))).record
            assert (record.state, record.reason) == (State.SUBMITTED, "provider_error")

    run(work())


def test_a_full_disk_does_not_end_the_supervision_of_a_waiting_client(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> Record:
        async with AgoraClient(home, settings=paper_settings()) as client:
            handle = await client.dispatch(command=("true",), id="d1")
            store = client._opened.store
            write, refused = store.apply, asyncio.Event()

            async def full(*_: Any, **__: Any) -> Any:
                refused.set()
                raise StoreError("the disk is full")

            setattr(store, "apply", full)  # noqa: B010 - a disk that is full for a while
            paper.ENDS["d1"] = paper.Observation(phase=paper.Phase.ENDED, exit_code=0)
            waiting = asyncio.create_task(handle.wait())
            await refused.wait()
            setattr(store, "apply", write)  # noqa: B010
            return await waiting

    assert run(work()).state is State.SUCCEEDED
    assert "could not be written down" in caplog.text


def test_a_provider_that_tells_of_too_few_is_asked_again_and_ends_nothing(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            handle = await client.dispatch(command=("true",), id="d1")
            paper.FORGETS.add("d1")
            record = await handle.get()
            assert (record.state, record.reachable) == (State.RUNNING, False)

    run(work())


COMMANDS: dict[str, tuple[float, set[int]]] = {
    "ps": (READ, {0}),
    "show d0": (READ, {0}),
    "events d0": (READ, {0}),
    "wait d0 --timeout 1": (READ, {1, 124, 125}),
    "cancel d1": (STOP, {7}),
    "cancel d2 --force": (STOP, {7}),
    "logs d0": (STOP, {1}),
    "reconcile": (PASS, {0}),
    "reap --dry-run": (STOP, {1}),
    "prune --older-than 0s": (STOP, {0, 1}),
    "dispatch -- true": (STOP, {1, 125}),
    "targets": (READ, {0, 1}),
}


@pytest.mark.serial
@pytest.mark.beside
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_comes_back_in_time_and_its_process_ends(
    paper: Any, paper_settings: MakeSettings, home: Path, tmp_path: Path, run: Run
) -> None:
    async def dispatch() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            for number in range(3):
                await client.dispatch(command=("true",), id=f"d{number}")

    run(dispatch())
    (tmp_path / "agora.toml").write_text(
        'default_target = "paper"\nsupervisor = false\n[targets.paper]\nprovider = "paper_provider:PROVIDER"\n'
    )
    support = str(Path(paper.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": support}
    over = threading.Event()

    def command(line: str, silent: str = "all", **more: str) -> tuple[str, float, int, str]:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "agora", *line.split()], capture_output=True, text=True, timeout=120, check=False,
            cwd=tmp_path, env=environment | {"PAPER_SILENT": silent} | more,
        )  # fmt: skip
        return line, time.monotonic() - begun, done.returncode, done.stdout + done.stderr

    def usual() -> float:
        """Return what a command takes meanwhile, at most, that has nothing to ask anybody."""
        took = [command("ps", silent="", AGORA_HOME=str(tmp_path / "elsewhere"))[1]]
        while not over.wait(0.5):
            took.append(command("ps", silent="", AGORA_HOME=str(tmp_path / "elsewhere"))[1])
        return max(took)

    with ThreadPoolExecutor(5) as pool:
        measured = pool.submit(usual)
        try:
            found = list(pool.map(command, COMMANDS))
        finally:
            over.set()
        busy = measured.result() + BUSY / 2
    for line, took, code, said in found:
        longest, codes = COMMANDS[line]
        assert took < longest + busy, (line, took, said)
        assert code in codes, (line, code, said)
        assert "Traceback" not in said, (line, said)
