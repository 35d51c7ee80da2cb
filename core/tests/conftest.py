"""What the tests of the core share: entries, stores, patience."""

import asyncio
import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agora.config import Settings, TargetConfig
from agora.model.record import Entry, Lease, State
from agora.model.spec import Spec
from agora.store import Store

PATIENCE = 50
SUPPORT = Path(__file__).parent / "support"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The state directory of this test, as AGORA_HOME has it."""
    return tmp_path / "agora-home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """A store of this test's own."""
    opened = Store(home)
    yield opened
    opened.close()


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """Give a maker of pending dispatches."""

    def make(id: str, **fields: Any) -> Entry:
        now = datetime.now(UTC)
        spec = Spec(command=("true",))
        base: dict[str, Any] = {
            "id": id, "target": "paper", "provider": "paper", "state": State.PENDING, "grace": 30, "timeout": 600,
            "requested_at": now, "installation": "i", "spec": spec.public(), "digest": spec.digest(),
            "submitter": Lease(owner="p0", until=now + timedelta(seconds=15)),
        }  # fmt: skip
        return Entry(**{**base, **fields})

    return make


@pytest.fixture
def run() -> Callable[..., Any]:
    """Give a runner of coroutines that waits for no longer than it is told to."""

    def runner(work: Coroutine[Any, Any, Any], seconds: float = PATIENCE) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work, seconds)

        return asyncio.run(bounded())

    return runner


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Give a function that asks until the answer is true, and returns it."""

    def ask(question: Callable[[], Any]) -> Any:
        until = time.monotonic() + PATIENCE
        while not (answer := question()):
            assert time.monotonic() < until, f"never came true: {question}"
            time.sleep(0.02)
        return answer

    return ask


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB of this test's own; mounting it takes root, as the tests of a disk do everywhere."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mounted)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"not tested: a small disk: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


@pytest.fixture
def remount(small_disk: Path) -> Callable[[str], None]:
    """Give a function that changes how the small disk is mounted (`ro`, `rw`)."""

    def change(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    return change


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the provider on paper, clean; `settings` of it name one target, `paper`."""
    monkeypatch.syspath_prepend(str(SUPPORT))
    module = importlib.import_module("paper_provider")
    yield module
    module.SILENT.clear()
    module.RELEASE.set()
    sys.modules.pop("paper_provider")


@pytest.fixture
def paper_settings(paper: Any) -> Callable[..., Settings]:
    """Give a maker of settings whose only target is on paper."""

    def make(**table: Any) -> Settings:
        target = TargetConfig("paper", "paper_provider:PROVIDER", table, "a test")
        return Settings(default_target="paper", supervisor=False, targets={"paper": target})

    return make
