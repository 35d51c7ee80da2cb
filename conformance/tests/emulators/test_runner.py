"""Containers of the runner, seen from outside: their processes, signals, ends and output."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agora_conformance.emulators.runner import Container, ContainerSpec, Image, Images, PullFailed, Runner, StartFailed

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
ROOT = os.geteuid() == 0
pytestmark = pytest.mark.anyio
isolated = pytest.mark.skipif(not ROOT, reason="not tested: PID namespaces need root")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def running(*argv: str, isolate: bool = True, **fields: object) -> AsyncIterator[Container]:
    runner = Runner(isolate=isolate)
    try:
        yield await runner.start(ContainerSpec(argv, PATH, **fields))  # type: ignore[arg-type]
    finally:
        await runner.close()


async def until(condition: Callable[[], bool], seconds: float = 50) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def said(container: Container) -> bytes:
    return b"".join(line.data for line in container.log.lines())


@pytest.mark.parametrize("isolate", [pytest.param(True, marks=isolated), False], ids=["namespace", "session"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "pid1"])
async def test_handler_and_exit_code(isolate: bool, shared: bool) -> None:
    program = "trap 'echo bye >&2; exit 42' TERM; echo ready; while :; do sleep 0.05; done"
    async with running("sh", "-c", program, isolate=isolate, shared=shared) as container:
        await until(lambda: b"ready" in said(container))
        pids = container.processes()
        assert alive(pids[0])  # its children come and go
        container.terminate()
        end = await container.wait()
        assert (end.code, end.oom) == (42, False)
        assert [(line.stream, line.data) for line in container.log.lines()] == [
            ("stdout", b"ready\n"), ("stderr", b"bye\n"),
        ]  # fmt: skip
        assert not any(map(alive, pids))


@pytest.mark.parametrize("isolate", [pytest.param(True, marks=isolated), False], ids=["namespace", "session"])
async def test_pid_1_without_handler_does_not_see_sigterm(isolate: bool) -> None:
    async with running("sleep", "600", isolate=isolate) as container:
        container.terminate()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(container.wait(), 0.5)
        assert alive(container.processes()[0])
        container.kill()
        assert (await container.wait()).code == 137


@pytest.mark.parametrize("isolate", [pytest.param(True, marks=isolated), False], ids=["namespace", "session"])
async def test_shared_namespace_default_disposition(isolate: bool) -> None:
    async with running("sleep", "600", isolate=isolate, shared=True) as container:
        container.terminate()
        assert (await container.wait()).code == 143


@pytest.mark.parametrize("isolate", [pytest.param(True, marks=isolated), False], ids=["namespace", "session"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "pid1"])
async def test_nothing_outlives_the_command(isolate: bool, shared: bool, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    wait = f"while [ -e {flag} ]; do sleep 0.05; done; exit 7"
    program = f"(setsid sh -c \"trap '' TERM; sleep 600\" &) ; (trap '' TERM; sleep 601) & {wait}"
    async with running("sh", "-c", program, isolate=isolate, shared=shared) as container:
        await until(lambda: len(container.processes()) >= 3)
        pids = container.processes()
        flag.unlink()
        assert (await container.wait()).code == 7
        assert not any(map(alive, pids))
        assert container.processes() == []


async def test_memory_limit() -> None:
    async with running(sys.executable, "-c", "x = b'x' * (400 << 20)\nwhile True: pass", memory=64 << 20) as container:
        end = await container.wait()
        assert (end.code, end.oom) == (137, True)


async def test_command_that_does_not_exist() -> None:
    runner = Runner()
    try:
        with pytest.raises(StartFailed, match="No such file"):
            await runner.start(ContainerSpec(("no-such-program",), PATH))
    finally:
        await runner.close()


@isolated
async def test_termination_message_and_own_proc() -> None:
    program = "printf why > /dev/termination-log; echo $$ > /dev/stderr; ls /proc | grep -c '^[0-9]'"
    async with running("sh", "-c", program) as one:
        assert (await one.wait()).code == 0
        assert one.message() == "why"
        assert min(said(one).split()) == b"1"
        with pytest.raises(FileNotFoundError):
            os.stat("/dev/termination-log")  # noqa: PTH116 - the host's own /dev is as it was


@isolated
async def test_user_and_environment() -> None:
    program = "id -u; id -g; pwd; env"
    async with running("sh", "-c", program, user=1234, group=99, cwd="/usr") as container:
        await container.wait()
        uid, gid, directory, *environment = said(container).decode().split()
        assert (uid, gid, directory) == ("1234", "99", "/usr")
        assert {line.split("=")[0] for line in environment} <= {"PATH", "PWD", "OLDPWD", "_", "SHLVL"}


async def test_close_leaves_nothing() -> None:
    runner = Runner()
    containers = [
        await runner.start(ContainerSpec(("sh", "-c", "trap '' TERM; sleep 600 & wait"), PATH, shared=shared))
        for shared in (True, False)
    ]
    await until(lambda: all(len(one.processes()) > 1 for one in containers))
    pids = [pid for one in containers for pid in one.processes()]
    await runner.close()
    assert not any(map(alive, pids))


def test_containers_die_with_the_emulator() -> None:
    """SIGKILL on the process of the emulator: the kernel takes the containers along."""
    program = (
        "import asyncio\nfrom agora_conformance.emulators.runner import ContainerSpec, Runner\n"
        "async def main():\n spec = ContainerSpec(('sleep', '600'), {'PATH': '/usr/bin:/bin'}, shared=True)\n"
        " c = await Runner().start(spec)\n print(*c.processes(), flush=True)\n await c.wait()\nasyncio.run(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert pids
        assert all(map(alive, pids))
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 50
    while any(map(alive, pids)):
        assert time.monotonic() < end
        time.sleep(0.01)


async def test_follow() -> None:
    async with running("sh", "-c", "echo one; sleep 0.2; printf two") as container:
        await until(lambda: bool(container.log.lines()))
        seen = container.log.lines()
        rest = [line.data async for line in container.log.follow(seen)]
        assert [line.data for line in seen] + rest == [b"one\n", b"two"]


def test_images() -> None:
    images = Images({"tool/*": Image(command=("true",))}, missing=("gone:*",))
    assert images.find("tool/x:1").command == ("true",)
    assert images.find("anything").present
    with pytest.raises(PullFailed, match="not found"):
        images.find("gone:1")
