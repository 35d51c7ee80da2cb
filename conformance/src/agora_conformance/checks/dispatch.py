"""DISP: started once, exactly as asked for."""

from __future__ import annotations

import anyio
from agora.errors import DispatchConflict
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Phase
from agora.model.record import State

from agora_conformance.arena import Arena
from agora_conformance.registry import check
from agora_conformance.verdict import Untested, Violation, require
from agora_conformance.witness import START_LIMIT

#: The strings of the contract's section 3, and what goes wrong with shells, templates and encodings.
AWKWARD = (
    "$HOME",
    "${X:-y}",
    "$(X)",
    "$$",
    "$$(X)",
    "%{if}",
    "%%{if}",
    "{{x}}",
    "${NOMAD_TASK_NAME}",
    "it's",
    'say "hi"',
    "back\\slash \\n",
    "`id`",
    "two\nlines\n",
    "tab\there",
    "crossed \r line",
    " spaces  around ",
    "naïve 🦜 日本",
    "",
    "-n",
    "--",
    "*",
    "~",
    "a;b&c|d>e",
    "#no comment",
    "!history",
    "\x01\x7f",
    "end\\",
)


@check("DISP-01")
async def handle_round_trips(arena: Arena) -> None:
    """Use nothing but the handle's JSON."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "graceful", 0, 0)
    require(probe.handle.backend, "the handle names no backend")
    handle = Handle.model_validate_json(probe.handle.model_dump_json())
    require(handle.id == probe.id, f"the handle is for {handle.id!r}, not for the dispatch")
    seen = await hooks.observe(handle)
    require(seen.phase is Phase.RUNNING, f"observe says {seen.phase.value} of a running workload")
    found = await hooks.find(probe.id)
    require(found is not None, "find does not find a running workload")
    require(found and found.backend == handle.backend, "find names another backend than dispatch")
    await hooks.stop(handle, 3)
    await hooks.end(found or handle, 3 + arena.overhead + arena.limits.report_lag)


@check("DISP-02")
async def started_once(arena: Arena) -> None:
    """Count READYs, marks and processes."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "default")
    said = [line for line in await probe.lines() if line.event == "READY"]
    require(len(said) == 1, f"the probe said READY {len(said)} times")
    owned = [item.handle.id for item in await hooks.owned()]
    require(owned == [probe.id], f"one dispatch made the workloads {owned}")
    await _one_tree(arena, hooks.installation, probe.id)


async def _one_tree(arena: Arena, installation: str, dispatch_id: str) -> None:
    """Look several times: a probe is a shell, most of the time its `sleep`, and perhaps an init."""
    most = 0
    for _ in range(6):
        everything = await arena.processes(installation)
        own = await arena.processes(installation, dispatch_id)
        if everything is None or own is None:
            return
        require(own, "the target's eyes see no process of a running workload")
        most = max(most, len(everything))
        await anyio.sleep(0.07)
    require(most <= 3, f"{most} processes run for one probe")


@check("DISP-03")
async def exit_codes(arena: Arena) -> None:
    """End with 0, 1 and 42."""
    probes = {code: await arena.start("exit", code, 20, ready=False) for code in (0, 1, 42)}
    for code, probe in probes.items():
        record = await probe.end(START_LIMIT)
        wanted = State.FAILED if code else State.SUCCEEDED
        require(record.state is wanted, f"exit code {code} ended as {record.state.value} ({record.reason})")
        lost = record.exit_code is None and not arena.info.capabilities.has("exit_code_after_end")
        require(record.exit_code == code or lost, f"exit code {code} arrived as {record.exit_code}")


@check("DISP-04")
async def arguments_exact(arena: Arena) -> None:
    """Let the probe show its arguments in hexadecimal."""
    probe = await arena.start("arguments", *AWKWARD)
    await probe.says("exit")
    shown = [line.value or b"" for line in await probe.lines() if line.event == "argument"]
    _same([text.encode() for text in AWKWARD], shown, "argument")


@check("DISP-05")
async def environment_exact(arena: Arena) -> None:
    """Let the probe show its variables in hexadecimal."""
    variables = {f"AGORA_PROBE_{number}": text for number, text in enumerate(AWKWARD)}
    probe = await arena.start("environment", *variables, env=variables)
    await probe.says("exit")
    by_name = {line.event: line.value or b"" for line in await probe.lines()}
    _same([text.encode() for text in variables.values()], [by_name.get(name, b"?") for name in variables], "variable")


def _same(sent: list[bytes], seen: list[bytes], what: str) -> None:
    require(len(seen) == len(sent), f"{len(sent)} {what}s were sent, {len(seen)} arrived")
    wrong = [f"{before!r} as {after!r}" for before, after in zip(sent, seen, strict=True) if before != after]
    require(not wrong, f"{what}s arrived changed: {', '.join(wrong[:5])}")


@check("DISP-06")
async def working_directory(arena: Arena) -> None:
    """Start in a directory that is there on every backend."""
    arena.accepts("cwd")
    probe = await arena.start("environment", cwd="/dev")
    await probe.says("exit")
    shown = next((line.value for line in await probe.lines() if line.event == "directory"), None)
    require(shown == b"/dev", f"the workload started in {shown!r}")


@check("DISP-07")
async def idempotent_in_sequence(arena: Arena) -> None:
    """Dispatch again while it runs, from another instance, and after its end."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "graceful", 7, 0)
    spec = arena.spec("graceful", 7, 0)
    for again in (hooks, arena.hooks(hooks.installation)):
        handle = await again.dispatch(probe.id, spec)
        require((handle.id, handle.backend) == (probe.id, probe.handle.backend), "it returned another workload")
    await anyio.sleep(0.3)
    await _one_tree(arena, hooks.installation, probe.id)
    require([item.handle.id for item in await hooks.owned()] == [probe.id], "a second workload carries the marks")
    await hooks.stop(probe.handle, 3)
    first = await probe.end(3)
    handle = await hooks.dispatch(probe.id, spec)
    seen = await hooks.observe(handle)
    require(seen.phase is Phase.ENDED, f"dispatching an ended workload again made it {seen.phase.value}")
    require(seen.exit_code == first.exit_code, "the second dispatch changed how it ended")
    said = [line for line in await probe.lines() if line.event == "READY"]
    require(len(said) == 1, f"the probe said READY {len(said)} times")


@check("DISP-08")
async def idempotent_at_once(arena: Arena) -> None:
    """Let twenty threads over four instances dispatch the same."""
    first = arena.hooks()
    instances = [first, *(arena.hooks(first.installation) for _ in range(3))]
    dispatch_id = new_dispatch_id()
    spec = arena.spec("default")
    handles: list[Handle] = []

    async def one(number: int) -> None:
        handles.append(await instances[number % len(instances)].dispatch(dispatch_id, spec))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    probe = arena.hook_probe(first, handles[0])
    await probe.ready()
    require({(handle.id, handle.backend) for handle in handles} == {(dispatch_id, handles[0].backend)}, "they differ")
    said = [line for line in await probe.lines() if line.event == "READY"]
    require(len(said) == 1, f"the probe said READY {len(said)} times")
    require([item.handle.id for item in await first.owned()] == [dispatch_id], "several workloads carry the marks")
    await _one_tree(arena, first.installation, dispatch_id)


@check("DISP-09")
async def conflict(arena: Arena) -> None:
    """Ask for another workload under the same id."""
    hooks = arena.hooks()
    probe = await arena.start_raw(hooks, "graceful", 0, 0)
    try:
        await hooks.dispatch(probe.id, arena.spec("graceful", 1, 0))
    except DispatchConflict:
        pass
    else:
        raise Violation("another spec under a taken id was accepted")
    require(await probe.alive(), "the workload that has the id did not go on")
    require(not (await probe.pulse()).terms, "the workload that has the id was sent a signal")


@check("DISP-10")
async def refused_start_fails(arena: Arena) -> None:
    """Run a program that is not there."""
    client = await arena.client()
    spec = arena.spec("default").model_copy(update={"command": tuple(arena.target.gone_program)})
    handle = await client.dispatch(spec)
    record = await arena.adopt(handle.id).end(START_LIMIT)
    require(record.state is State.FAILED, f"it ended as {record.state.value}")
    require(record.reason, "the record gives no reason")
    arena.measured["reason"] = record.reason


@check("DISP-11")
async def declared_size_arrives(arena: Arena) -> None:
    """Send the largest variable that the provider says it can take."""
    name = "AGORA_PROBE_LARGE"
    size = arena.limits.max_argument_bytes - len(name) - 1
    probe = await arena.start("length", name, env={name: "x" * size})
    await probe.says("exit")
    seen = next((line.number for line in await probe.lines() if line.event == "length"), None)
    require(seen == size, f"{size} bytes were sent, {seen} arrived")
    arena.measured["bytes"] = size


@check("DISP-12")
async def entrypoint_replaced(arena: Arena) -> None:
    """Run the probe in an image that would run something else."""
    arena.accepts("image")
    if "entrypoint" not in arena.target.variants:
        raise Untested("the target declares no variant with an ENTRYPOINT")
    probe = await arena.start("exit", 42, 10, variant="entrypoint")
    record = await probe.end(START_LIMIT)
    require(record.exit_code == 42, f"the command did not run: exit code {record.exit_code}")
