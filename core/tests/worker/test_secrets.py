"""Inline secrets are gone from where others could look, at the end of whatever kind."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agora.worker.secrets import Secrets, clear_environment, remove_file

Start = Callable[..., Any]

SOURCE = """
import os, sys, time
from agora.worker import BlockingWorker
with BlockingWorker() as worker:
    assert worker.secrets["KEY"] == os.environ["KEY"]
    assert "s3cret" not in repr(worker.secrets)
    if os.environ["HOW"] == "cancelled":
        print("ready", flush=True)
        time.sleep(60)
    if os.environ["HOW"] == "crashed":
        sys.excepthook = lambda *_: None
        import atexit
        atexit.register(lambda: (print("ended", flush=True), time.sleep(60)))
        raise ValueError
print("ended", flush=True)
time.sleep(60)
"""


def environment(pid: int) -> bytes:
    """Return what anybody of the same user can read of a process' environment."""
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize("how", ["succeeded", "crashed"])
def test_the_environment_is_wiped_at_the_end(program: Start, how: str) -> None:
    one = program(SOURCE, AGORA_WORKER_SECRETS="KEY=OTHER", KEY="s3cret-1", OTHER="s3cret-2", KEEP="kept", HOW=how,
                  AGORA_WORKER_TOKEN="s3cret-3")  # fmt: skip
    one.says("ended")
    left = environment(one.process.pid)
    assert b"s3cret" not in left
    assert b"KEEP=kept" in left
    assert b"KEY=" in left, "the test looked at the right place"


def test_the_environment_is_wiped_when_cancelled(program: Start) -> None:
    source = SOURCE.replace("as worker:", "as worker:\n    import atexit\n    atexit.register(ended)", 1)
    ended = "def ended():\n    print('ended', flush=True)\n    time.sleep(60)\n"
    one = program(
        source.replace("with BlockingWorker()", ended + "with BlockingWorker(budgets={'exit': 50})"),
        AGORA_WORKER_SECRETS="KEY", KEY="s3cret-1", HOW="cancelled",
    )  # fmt: skip
    one.says("ready")
    assert b"s3cret" in environment(one.process.pid)
    one.tell(signal.SIGTERM)
    one.says("ended")
    assert b"s3cret" not in environment(one.process.pid)
    one.tell(signal.SIGKILL)
    one.ends()
    assert one.told("dispatch.cancelled")
    assert "s3cret" not in one.output + one.errors() + str(one.events)


def test_a_file_is_overwritten_before_it_is_unlinked(tmp_path: Path) -> None:
    secret, other = tmp_path / "KEY", tmp_path / "second-name"
    secret.write_text("s3cret")
    os.link(secret, other)
    descriptor = os.open(other, os.O_RDONLY)
    secrets = Secrets(("KEY", "../other", "GONE"), str(tmp_path))
    assert secrets["KEY"] == "s3cret"
    secrets.remove()
    assert not secret.exists()
    assert os.fstat(descriptor).st_size == 0, "whoever has it open reads nothing"
    os.close(descriptor)
    with pytest.raises(KeyError):
        secrets["KEY"]
    with pytest.raises(KeyError):
        secrets["UNKNOWN"]
    secrets.remove()


def test_a_link_in_the_place_of_a_secret_is_not_followed(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "KEY"
    victim.write_text("mine")
    link.symlink_to(victim)
    remove_file(str(link))
    assert victim.read_text() == "mine"
    assert not link.is_symlink()


def test_clearing_what_is_not_there_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    before = dict(os.environ)
    clear_environment("NOT_THERE")
    assert dict(os.environ) == before
