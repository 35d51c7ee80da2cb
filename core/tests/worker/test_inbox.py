"""A worker that is asked to end by itself, and one that is told of a shorter grace."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agora.worker.inbox import Inbox

BLOCKING = """
import threading, time
from agora.worker import BlockingWorker
over = threading.Event()
def called():
    print("called", flush=True)
    over.set()
with BlockingWorker() as worker:
    worker.on_ask(called)
    print("ready", flush=True)
    while not worker.asked or not over.is_set():
        time.sleep(0.05)
    print("last item done", flush=True)
print("goodbye", flush=True)
"""
ASYNC = """
import asyncio
from agora.worker import Worker
over = False
async def called():
    global over
    print("called", flush=True)
    over = True
async def main():
    async with Worker() as worker:
        worker.on_ask(called)
        print("ready", flush=True)
        while not worker.asked or not over:
            await asyncio.sleep(0.05)
        print("last item done", flush=True)
    print("goodbye", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("source", [BLOCKING, ASYNC], ids=["blocking", "async"])
def test_one_that_is_asked_ends_by_itself_and_says_so(program: Callable[..., Any], tmp_path: Path, source: str) -> None:
    inbox = tmp_path / "inbox"
    one = program(source, AGORA_WORKER_INBOX=str(inbox))
    one.says("ready")
    assert not one.told("dispatch.cancelled")
    inbox.write_text("ask=600\n")
    assert one.ends() == 0, "its exit code is its own"
    assert sorted(one.output.split("\n")[1:4]) == ["called", "goodbye", "last item done"]
    (told,) = one.told("dispatch.cancelled")
    assert told["data"] == {"clean": True, "asked": True}


def test_one_that_fails_after_it_was_asked_says_that_it_is_not_clean(
    program: Callable[..., Any], tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.write_text("ask=600\n")
    source = BLOCKING.replace('print("last item done", flush=True)', "raise SystemExit(3)")
    one = program(source, AGORA_WORKER_INBOX=str(inbox))
    assert one.ends() == 3
    (told,) = one.told("dispatch.cancelled")
    assert told["data"] == {"clean": False, "asked": True}


def test_one_that_was_not_asked_says_nothing(program: Callable[..., Any], tmp_path: Path) -> None:
    source = BLOCKING.replace("while not worker.asked or not over.is_set()", "for _ in range(3)")
    one = program(source, AGORA_WORKER_INBOX=str(tmp_path / "inbox"))
    assert one.ends() == 0
    assert not one.told("dispatch.cancelled")


def test_one_that_goes_on_though_it_was_asked_is_ended_by_sigterm(program: Callable[..., Any], tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    source = BLOCKING.replace("while not worker.asked or not over.is_set()", "while True")
    one = program(source, AGORA_WORKER_INBOX=str(inbox))
    one.says("ready")
    inbox.write_text("ask=600\n")
    one.says("called")
    one.tell()
    assert one.ends() == 143
    (told,) = one.told("dispatch.cancelled")
    assert told["data"]["clean"] is True
    assert "asked" not in told["data"]


def test_the_stages_shrink_with_a_grace_that_is_told(program: Callable[..., Any], tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    source = """
    import time
    from agora.worker import BlockingWorker
    with BlockingWorker() as worker:
        try:
            print("ready", flush=True)
            time.sleep(600)
        finally:
            time.sleep(600)
    """
    one = program(source, AGORA_WORKER_INBOX=str(inbox), AGORA_WORKER_GRACE="300")
    one.says("ready")
    inbox.write_text("grace=4\n")
    begun = time.monotonic()
    one.tell()
    assert one.ends() == 143
    assert time.monotonic() - begun < 60, "it had 270 s of stages without that"
    (told,) = one.told("dispatch.cancelled")
    assert told["data"] == {"clean": False, "grace": 4}


@pytest.mark.parametrize("there", [True, False])
def test_a_cancel_is_the_termination_message_of_its_container(
    program: Callable[..., Any], tmp_path: Path, there: bool
) -> None:
    message = tmp_path / "termination-log"
    if there:
        message.write_text("what was there before is longer than what comes, and it is gone then\n")
    one = program(BLOCKING, AGORA_WORKER_TERMINATION=str(message))
    one.says("ready")
    one.tell()
    assert one.ends() == 143
    assert one.told("dispatch.cancelled")
    assert message.exists() is there, "it is nobody's file where there is none"
    if there:
        assert json.loads(message.read_text()) == {"status": "cancelled", "exitCode": 143, "clean": True}


@pytest.mark.parametrize("text", ["", "ask", "ask=", "ask=soon", "\udcff", "grace=3", "=1\n"])
def test_what_is_no_word_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "inbox"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert Inbox(str(path)).seconds("ask") is None
    assert Inbox(None).seconds("ask") is None
    assert Inbox(str(tmp_path)).seconds("ask") is None
