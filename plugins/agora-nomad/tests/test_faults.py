"""Many dispatches through a cluster on which everything goes wrong: none is lost, none runs twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.model.record import Record, State
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from nomad_harness import Hands, eventually

pytestmark = pytest.mark.backend("nomad")

#: Seconds in which things go wrong; most of the work falls into them.
TROUBLE = 8.0
OWN_END = 'test "$TOKEN" = hidden || exit 99; sleep 4; exit {code}'
LONG = "trap 'exit {code}' TERM; while :; do sleep 0.05; done"


@contextmanager
def trouble(emulator: NomadEmulator) -> Iterator[None]:
    """Let one fault after the other happen."""
    over = threading.Event()
    faults = emulator.faults

    def stir() -> None:
        until = time.monotonic() + TROUBLE
        while not over.is_set() and time.monotonic() < until:
            acts: tuple[Callable[[], None], ...] = (
                lambda: faults.fail(3, text="rpc error: EOF"),
                faults.cut_streams,
                lambda: faults.throttle(3),
                lambda: faults.lose_events(5),
                lambda: faults.cut(2),
                lambda: faults.cut(1, after=True, operation="register"),
                lambda: faults.cut(1, after=True, operation="deregister"),
                lambda: faults.cut(1, after=True, operation="variable/write"),
                lambda: faults.fail(1, operation="variable/*", text="rpc error: EOF"),
                lambda: faults.fail(1, after=True, operation="register", text="rpc error: EOF"),
                lambda: faults.fail(1, operation="register", code=500, text="something new", after=True),
                lambda: faults.slow(0.5, 3),
                emulator.node_away,
                emulator.node_back,
                lambda: faults.leaderless(True),
                lambda: faults.leaderless(False),
            )
            for act in acts:
                act()
                if over.wait(0.25):
                    return

    thread = threading.Thread(target=stir, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(50)
        faults.clear()
        emulator.node_back()


@pytest.mark.anyio
@pytest.mark.timeout(400)
async def test_nothing_is_lost(tmp_path: Path) -> None:
    with NomadEmulator(timing=Timing(heartbeat=0.6, leader=0.3, client_return=0.2)) as emulator:
        config = TargetConfig("c", "nomad", {"address": emulator.url, "driver": "exec"}, "a test")
        settings = Settings(default_target="c", targets={"c": config}, supervisor=False)
        records: dict[int, Record] = {}

        async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:

            async def one(code: int) -> None:
                script = (OWN_END if code % 2 else LONG).format(code=code)
                command = ("/bin/sh", "-c", script)
                handle = await agora.dispatch(command=command, grace=10, timeout=600, secrets={"TOKEN": "hidden"})
                if code % 2 == 0:
                    await anyio.sleep(0.5 * code)  # up to five seconds, while things go wrong
                    await agora.cancel(handle.id, reason="a test")
                with suppress(TimeoutError):  # the record says how far it came
                    await agora.wait(handle.id, timeout=60)
                records[code] = await agora.get(handle.id, refresh=False)

            with trouble(emulator):
                async with anyio.create_task_group() as group:
                    for code in range(1, 11):
                        group.start_soon(one, code)
            mine = Hands(emulator, tmp_path, (tmp_path / "installation").read_text().strip())
            with anyio.fail_after(60):  # what failed before is tried again after a while
                while mine.api.select("vars"):
                    await agora.reconcile()
                    await anyio.sleep(0.2)

        # A request that came before anything was sent, and found nothing: nobody can prove that nothing will come.
        unsent = {code for code, record in records.items() if code % 2 == 0 and record.reason == "never_started"}
        assert all(records[code].state is State.CANCELLED for code in unsent)
        for code, record in ((code, record) for code, record in records.items() if code not in unsent):
            wanted = State.FAILED if code % 2 else State.CANCELLED
            assert (record.state, record.confirmed) == (wanted, True), record.model_dump_json()
            assert record.exit_code in ((code,) if code % 2 else (code, 143, None)), record.model_dump_json()
        jobs = mine.jobs()
        assert len(jobs) >= 10 - len(unsent)
        assert all(len(mine.api.allocations(job)) <= 1 for job in jobs), "none ran twice"
        eventually(lambda: not emulator.processes())
        mine.clean()
