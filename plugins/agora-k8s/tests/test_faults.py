"""Many dispatches through a cluster on which everything goes wrong: none is lost, none runs twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.model.record import Record, State
from agora_conformance.emulators.k8s import K8sEmulator, Timing
from agora_k8s import names
from k8s_harness import Hands, eventually

pytestmark = pytest.mark.backend("k8s")

#: Seconds in which things go wrong; most of the work falls into them.
TROUBLE = 8.0
OWN_END = "sleep 1; exit {code}"
LONG = "trap 'exit {code}' TERM; while :; do sleep 0.05; done"


@contextmanager
def trouble(emulator: K8sEmulator) -> Iterator[None]:
    """Let one fault after the other happen."""
    over = threading.Event()
    faults = emulator.faults

    def stir() -> None:
        until = time.monotonic() + TROUBLE
        while not over.is_set() and time.monotonic() < until:
            for act in (
                faults.expire,
                lambda: faults.fail(3, code=500),
                faults.cut_watches,
                lambda: faults.throttle(3, retry_after=1),
                lambda: faults.lose_events(3),
                lambda: faults.cut(2),
                lambda: faults.cut(1, after=True, verb="create"),
                lambda: faults.cut(1, after=True, verb="delete"),
                lambda: faults.slow(0.5, 3),
            ):
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


@pytest.mark.anyio
@pytest.mark.timeout(400)
async def test_nothing_is_lost(tmp_path: Path) -> None:
    with K8sEmulator(timing=Timing(job_batch=0.3, sandbox_stop=0.3)) as emulator:
        table = {
            "kubeconfig": str(emulator.kubeconfig(tmp_path / "kubeconfig")),
            "image": "busybox",
            "defaults": {"security": "image"},
        }
        config = TargetConfig("c", "k8s", table, "a test")
        settings = Settings(default_target="c", targets={"c": config}, supervisor=False)
        emulator.faults.hide_created(0.5)
        records: dict[int, Record] = {}

        async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:

            async def one(code: int) -> None:
                script = (OWN_END if code % 2 else LONG).format(code=code)
                handle = await agora.dispatch(command=("sh", "-c", script), grace=10, timeout=600)
                if code % 2 == 0:
                    await anyio.sleep(1.5)
                    await agora.cancel(handle.id, reason="a test")
                with suppress(TimeoutError):  # the record says how far it came
                    await agora.wait(handle.id, timeout=60)
                records[code] = await agora.get(handle.id, refresh=False)

            with trouble(emulator):
                async with anyio.create_task_group() as group:
                    for code in range(1, 11):
                        group.start_soon(one, code)

        # A request that came before anything was sent is proof; one that may have been sent, and is not there, is none.
        unsent = {
            code: record.reason
            for code, record in records.items()
            if code % 2 == 0 and record.reason in ("never_submitted", "never_started")
        }
        for code, reason in unsent.items():
            proven = reason == "never_submitted"
            assert (records[code].state, records[code].confirmed) == (State.CANCELLED, proven)
        for code, record in ((code, record) for code, record in records.items() if code not in unsent):
            wanted = State.FAILED if code % 2 else State.CANCELLED
            assert (record.state, record.confirmed) == (wanted, True), record.model_dump_json()
            assert record.exit_code in ((code,) if code % 2 else (code, 143, None)), record.model_dump_json()
        mine = Hands(emulator, tmp_path, (tmp_path / "installation").read_text().strip())
        jobs = mine.api.list("jobs", f"{names.INSTALLATION}={mine.installation}")[0]
        assert len(jobs) >= 10 - len(unsent)
        assert len({job["metadata"]["labels"][names.DISPATCH] for job in jobs}) == len(jobs)
        eventually(lambda: not emulator.processes())
        mine.clean()
