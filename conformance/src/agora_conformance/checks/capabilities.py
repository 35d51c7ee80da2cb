"""CAP: what is claimed is true."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.to_thread
from agora.model.ids import new_dispatch_id
from agora.model.observation import EndedBy, Handle, Observation, Phase
from agora.model.record import State

from agora_conformance.arena import Arena, eventually
from agora_conformance.probe import BEAT
from agora_conformance.registry import check
from agora_conformance.timing import Bracket
from agora_conformance.verdict import Inconclusive, Untested, require
from agora_conformance.witness import START_LIMIT, Probe

#: The contract's section 6: a backend's own deadline is armed at least this much after the dispatch's.
BACKSTOP = 60
LINES = 500


@check("CAP-01")
async def grace_per_stop(arena: Arena) -> None:
    """Stop with a shorter grace than the dispatch's."""
    probe = await arena.start("stubborn", grace=20, beat=BEAT)
    bracket = await Bracket.begin(probe)
    result = await probe.cancel(grace=3)
    require(result.effective_grace in (None, 3), f"the answer says {result.effective_grace} s of grace")
    await bracket.must_live(2)
    await bracket.must_die(3)


@check("CAP-02")
async def logs(arena: Arena) -> None:
    """Write numbered lines to both streams."""
    probe = await arena.start("lines", LINES)
    await probe.end(START_LIMIT)
    numbers = [line.number for line in await probe.lines() if line.event == "line"]
    wanted = list(range(1, LINES + 1))
    require(numbers == wanted, f"{LINES} lines were written to stdout, {len(numbers)} were read, or in another order")
    stream = "stdout" if arena.limits.one_log_stream else "stderr"
    errors = [int(word) for word in re.findall(rb"^error (\d+)$", await probe.output(stream), re.MULTILINE)]
    require(errors == wanted, f"{LINES} lines were written to stderr, {len(errors)} were read, or in another order")


@check("CAP-03")
async def logs_after_end(arena: Arena) -> None:
    """Read the output of a killed workload once it is over."""
    grace = 4
    probe = await arena.start("stubborn", grace=grace)
    await probe.cancel()
    await probe.end(grace)
    pulse = await probe.pulse()
    require(pulse.ready is not None and pulse.terms, "READY or the line about SIGTERM is missing")
    heard = (pulse.last or 0) - pulse.terms[0]
    require(heard >= grace - 1, f"the output stops {heard:.1f} s after SIGTERM, the workload lived for {grace} s")


class Sink:
    """What a watch pushes into."""

    def __init__(self, handles: Mapping[str, Handle]) -> None:
        self._handles = handles
        self._closed = threading.Event()
        self.up = threading.Event()
        self.heard = threading.Event()
        self.seen: dict[str, Observation] = {}

    def connected(self) -> None:
        """The stream stands."""
        self.up.set()

    def push(self, dispatch_id: str, observation: Observation) -> None:
        """Something was heard."""
        self.seen[dispatch_id] = observation
        if observation.phase is Phase.ENDED:
            self.heard.set()

    def stale(self, dispatch_id: str) -> None:
        """Something changed."""
        if dispatch_id in self._handles:
            self.heard.set()

    def handles(self) -> Mapping[str, Handle]:
        """The live workloads."""
        return self._handles

    @property
    def closed(self) -> bool:
        """Whether the watch must return."""
        return self._closed.is_set()

    def close(self) -> None:
        """Make the watch return."""
        self._closed.set()


@check("CAP-04")
async def watch(arena: Arena) -> None:
    """Watch one workload end."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "graceful", 0, 0)
    sink = Sink({probe.id: probe.handle})
    returned = anyio.Event()

    async def watching() -> None:
        await hooks.call("watch", limit=60, sink=sink)
        returned.set()

    async def has(flag: threading.Event) -> bool:
        return flag.is_set()

    async with anyio.create_task_group() as group:
        group.start_soon(watching)
        try:
            await eventually(lambda: has(sink.up), 10, "the watch never said that it is connected")
            lag = arena.limits.report_lag + arena.overhead
            await hooks.stop(probe.handle, 2)
            await eventually(lambda: has(sink.heard), lag + 1, "the end was not pushed")
        finally:
            sink.close()
        limit = 3 + arena.overhead
        with anyio.move_on_after(limit):
            await returned.wait()
        require(returned.is_set(), f"the watch did not return within {limit:g} s after it was closed")


@check("CAP-05")
async def native_deadline(arena: Arena) -> None:
    """Leave a workload alone with its backend until after its deadline."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "graceful", 0, 0, timeout=2, grace=2)
    began = anyio.current_time()
    arena.calm.set()
    seen = await probe.end(2 + BACKSTOP + 30)
    lasted = anyio.current_time() - began
    arena.measured["ended_after"] = round(lasted, 1)
    require(lasted >= BACKSTOP, f"the backend ended it after {lasted:.0f} s, before the core's own deadline is sure")
    require(seen.ended_by is EndedBy.DEADLINE, f"the backend says that {seen.ended_by} ended it")


@check("CAP-06")
async def reattach(arena: Arena) -> None:
    """Dispatch in a process that ends, and go on in another."""
    probe = await _by_child(arena, "graceful", 6, 10)
    await probe.ready()
    await probe.client.reconcile()
    record = await probe.record()
    require(record.state is State.RUNNING, f"a running workload is {record.state.value} to another process")
    await probe.cancel()
    record = await probe.end(3)
    require(record.state is State.CANCELLED, f"it ended as {record.state.value}")


@check("CAP-07")
async def exit_code_after_end(arena: Arena) -> None:
    """Dispatch in a process that ends, and look when the workload has ended too."""
    probe = await _by_child(arena, "exit", 42, 20)
    with suppress(Untested):
        await probe.says("exit")
    await anyio.sleep(1)
    record = await probe.end(10)
    require(record.exit_code == 42, f"exit code 42 arrived as {record.exit_code}")


async def _by_child(arena: Arena, *arguments: str | int) -> Probe:
    dispatch_id = new_dispatch_id()
    spec = arena.spec(*arguments).model_dump(mode="json", exclude={"secrets"})
    code = await arena.child(id=dispatch_id, spec=spec)
    if code:
        raise Inconclusive(f"the process that dispatches ended with {code}: {arena.measured.get('stderr', '')}")
    await arena.client()
    return arena.adopt(dispatch_id)


@check("CAP-08")
async def exit_code_after_stop(arena: Arena) -> None:
    """Stop one that exits by itself and one that has to be killed."""
    willing = await arena.start("graceful", 9, 10)
    killed = await arena.start("stubborn", grace=2)
    for probe in (willing, killed):
        await probe.cancel()
    for probe, code in ((willing, 9), (killed, 137)):
        record = await probe.end(3)
        require(record.exit_code == code, f"exit code {code} arrived as {record.exit_code}")


@check("CAP-09")
async def oom_reason(arena: Arena) -> None:
    """Take more memory than the limit."""
    probe = await arena.start("memory", resources={"memory": 64 << 20})
    record = await probe.end(60)
    require(record.oom is True, f"`oom` is {record.oom} (exit code {record.exit_code})")


@check("CAP-10")
async def secrets(arena: Arena) -> None:
    """Pass a secret and look for it everywhere else."""
    secret = f"conformance-secret-{uuid4().hex}"
    hooks = arena.hooks()
    raw = await arena.start_raw(hooks, "environment", "TOKEN", secrets={"TOKEN": secret})
    probe = await arena.start("environment", "TOKEN", secrets={"TOKEN": secret})
    for one in (raw, probe):
        await one.says("exit")
        shown = next((line.value for line in await one.lines() if line.event == "TOKEN"), None)
        require(shown == secret.encode(), "the secret did not reach the workload")
    await raw.end(5)
    marks = [item.model_dump_json() for item in await hooks.owned()]
    shows = {
        "the handle": raw.handle.model_dump_json(),
        "the mark": "".join(marks),
        "the observation": (await hooks.observe(raw.handle)).model_dump_json(),
        "the record": (await probe.record()).model_dump_json(),
        "the events": "".join(event.model_dump_json() for event in await probe.events()),
    }
    telling = [where for where, text in shows.items() if secret in text]
    telling += await anyio.to_thread.run_sync(_files_with, arena.home().parent, secret.encode())
    require(not telling, f"the secret shows in {', '.join(telling)[:300]}")


def _files_with(folder: Path, secret: bytes) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    found = [str(path.relative_to(folder)) for path in files if secret in path.read_bytes()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if secret in path.read_bytes():
                found.append("a process list")
    return found


@check("CAP-11")
async def stop_signal(arena: Arena) -> None:
    """Stop an image that asks for another signal."""
    variant = None if "image" in arena.limits.refused_fields else "stop_signal"
    if variant and variant not in arena.target.variants:
        raise Untested("the target declares no variant with another stop signal")
    probe = await arena.start("graceful", 0, 10, variant=variant)
    await probe.cancel()
    await probe.end(3)
    require(len((await probe.pulse()).terms) == 1, "the first signal was not SIGTERM")
