"""Forks of a program with a worker: what is the parent's stays the parent's."""

from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., Any]

BLOCKING = """
import os, sys
from agora.worker import BlockingWorker
class Channel:
    def release(self):
        os.write(1, b"released by the %s\\n" % (b"parent" if os.getpid() == parent else b"child"))
parent = os.getpid()
with BlockingWorker() as worker:
    here = worker.workspace
    worker.use(Channel())
    if os.fork() == 0:
        sys.exit(7)
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), os.path.isdir(here), worker.secrets["KEY"], flush=True)
print(os.path.isdir(here), flush=True)
"""
ASYNC = """
import asyncio, os, sys
from agora.worker import Worker
class Channel:
    def release(self):
        os.write(1, b"released by the %s\\n" % (b"parent" if os.getpid() == parent else b"child"))
parent = os.getpid()
async def main():
    async with Worker() as worker:
        here = worker.workspace
        worker.use(Channel())
        if os.fork() == 0:
            try:
                await worker.__aexit__(None, None, None)
            finally:
                os._exit(7)
        _, status = os.wait()
        print(os.waitstatus_to_exitcode(status), os.path.isdir(here), worker.secrets["KEY"], flush=True)
    print(os.path.isdir(here), flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("source", [BLOCKING, ASYNC], ids=["blocking", "async"])
def test_a_fork_that_leaves_the_block_lets_go_of_nothing(program: Start, source: str) -> None:
    one = program(source, AGORA_WORKER_SECRETS="KEY", KEY="value")
    assert one.ends() == 0, one.errors()
    assert one.output.splitlines() == ["7 True value", "released by the parent", "False"]
    assert "Traceback" not in one.errors()


def test_what_a_fork_says_goes_nowhere_and_holds_nothing_up(program: Start) -> None:
    one = program("""
        import os, signal
        from agora.worker import BlockingWorker, WorkerError
        with BlockingWorker() as worker:
            worker.progress(1)
            worker._outbox._lock.acquire()  # as its thread has it, now and then
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                worker.progress(2)
                worker.heartbeat()
                try:
                    worker.workspace
                except WorkerError:
                    os._exit(9)
                os._exit(0)
            worker._outbox._lock.release()
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    """)
    assert one.ends() == 0, one.errors()
    assert one.output == "9\n"
    assert [event["data"] for event in one.told("dispatch.progress")] == [{"done": 1}]
    assert one.told("dispatch.heartbeat") == []


def test_a_fork_may_enter_a_worker_of_its_own(program: Start) -> None:
    one = program("""
        import os
        from agora.worker import BlockingWorker
        with BlockingWorker() as worker:
            worker.progress(1)
            child = os.fork()
            if child == 0:
                with BlockingWorker() as own:
                    own.progress(2)
                os._exit(0)
            os.waitpid(child, 0)
    """)
    assert one.ends() == 0, one.errors()
    assert sorted(event["data"]["done"] for event in one.told("dispatch.progress")) == [1, 2]
