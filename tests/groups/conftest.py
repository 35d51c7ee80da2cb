"""What the tests of groups share: programs to run, and a look at the processes from outside."""

import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora import AgoraClient, Record, State

#: Every workload of these tests is over by itself after so long, in seconds; no test waits for that.
LONG = 600


def sleeper(seconds: float = LONG) -> list[str]:
    """A command that succeeds after a while."""
    return [sys.executable, "-I", "-S", "-c", f"import time; time.sleep({seconds})"]


def failing(code: int = 3) -> list[str]:
    """A command that fails."""
    return ["sh", "-c", f"exit {code}"]


def spec(command: list[str], **fields: Any) -> dict[str, Any]:
    """A member with a short grace."""
    return {"command": command, "grace": 2, **fields}


def alive(record: Record) -> bool:
    """Whether the workload's own process is there, seen from outside."""
    with suppress(OSError):
        return Path(f"/proc/{record.native['pid']}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def carriers(id: str) -> list[int]:
    """Processes of this machine that carry a dispatch id, those in containers included, seen from outside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"AGORA_DISPATCH_ID={id}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


async def there(id: str) -> bool:
    """Whether a process carries a dispatch id."""
    return bool(carriers(id))


async def gone(id: str) -> bool:
    """Whether no process carries a dispatch id."""
    return not carriers(id)


async def until(question: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    """Ask until the answer is yes, for a bounded time."""
    with anyio.fail_after(seconds):
        for _ in range(int(seconds / 0.02)):
            if await question():
                return
            await anyio.sleep(0.02)
    raise AssertionError("never came true")


async def running(agora: AgoraClient) -> int:
    """Count what runs."""
    return len(await agora.list(states=[State.RUNNING]))


async def has(agora: AgoraClient, count: int) -> bool:
    """Whether so many run."""
    return await running(agora) >= count


@pytest.fixture
def client() -> Callable[[], AgoraClient]:
    """Return a function that makes a client of this test's state directory."""
    return lambda: AgoraClient(actor="ann")
