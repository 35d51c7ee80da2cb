"""SIGTERM, from outside: what the program sees, what is told, and that it is told once."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]
Eventually = Callable[[Callable[[], Any]], Any]

BLOCKING = """
import os, time
from agora.worker import BlockingWorker
with BlockingWorker() as worker:
    worker.on_cancel(lambda: os.write(1, b"callback\\n"))
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        os.write(1, b"cancelled\\n" if worker.cancelled else b"not cancelled\\n")
print("never")
"""
ASYNC = """
import asyncio
from agora.worker import Worker
async def beside(worker):
    await worker.wait()
    print("event", flush=True)
async def callback():
    print("callback", flush=True)
async def main():
    async with Worker() as worker:
        task = asyncio.create_task(beside(worker))
        worker.on_cancel(callback)
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            print("cancelled" if worker.cancelled else "not cancelled", flush=True)
    print("never")
asyncio.run(main())
print("never")
"""


@pytest.mark.parametrize("source", [BLOCKING, ASYNC], ids=["blocking", "async"])
def test_sigterm_reaches_the_program_and_is_told_once(program: Start, source: str) -> None:
    one = program(source)
    one.says("ready")
    one.tell()
    assert one.ends() == 143, one.errors()
    assert "callback" in one.output
    assert "cancelled" in one.output.splitlines()
    assert "never" not in one.output
    assert ("event" in one.output) is (source is ASYNC)
    (event,) = one.told("dispatch.cancelled")
    assert event["data"] == {"clean": True, "grace": 30.0}
    assert event["subject"] == "d1"
    assert one.errors() == ""


@pytest.mark.parametrize("source", [BLOCKING, ASYNC], ids=["blocking", "async"])
def test_a_second_sigterm_changes_nothing(program: Start, source: str) -> None:
    if source is ASYNC:
        slow = source.replace("await asyncio.sleep(0.01)", "await asyncio.sleep(0.4)")
    else:
        slow = source.replace("finally:", "finally:\n        time.sleep(0.4)")
    assert slow != source
    one = program(slow)
    one.says("ready")
    until = time.monotonic() + 50
    while one.process.poll() is None:
        assert time.monotonic() < until
        one.tell()
        time.sleep(0.005)
    assert one.ends() == 143, one.errors()
    assert len(one.told("dispatch.cancelled")) == 1
    assert one.output.count("callback") == 1
    assert one.output.splitlines().count("cancelled") == 1


def test_importing_installs_nothing_and_leaving_restores(program: Start) -> None:
    one = program("""
        import signal
        before = signal.getsignal(signal.SIGTERM)
        import agora.worker
        assert signal.getsignal(signal.SIGTERM) is before
        mine = lambda *_: print("mine", flush=True)
        signal.signal(signal.SIGTERM, mine)
        worker = agora.worker.BlockingWorker()
        assert signal.getsignal(signal.SIGTERM) is mine
        with worker:
            assert signal.getsignal(signal.SIGTERM) is not mine
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.set_wakeup_fd(-1) == -1
        signal.raise_signal(signal.SIGTERM)
    """)
    assert one.ends() == 0, one.errors()
    assert one.output == "mine\n"
    assert one.events == []


def test_a_program_may_poll(program: Start) -> None:
    one = program("""
        from agora.worker import BlockingWorker, Cancelled
        with BlockingWorker(interrupt=False) as worker:
            worker.check()
            print("ready", flush=True)
            assert worker.wait(30) and worker.cancelled
            try:
                worker.check()
            except Cancelled:
                print("checked", flush=True)
    """)
    one.says("ready")
    one.tell()
    assert one.ends() == 143, one.errors()
    assert one.output == "ready\nchecked\n"


def test_sigterm_before_the_block_begins_runs_nothing_of_it(program: Start) -> None:
    one = program("""
        import os, signal
        from agora.worker import BlockingWorker, base
        sinks = base.ways_out
        def early(around):
            os.kill(os.getpid(), signal.SIGTERM)
            return sinks(around)
        base.ways_out = early
        with BlockingWorker() as worker:
            print("never")
    """)
    assert one.ends() == 143, one.errors()
    assert one.output == ""
    assert len(one.told("dispatch.cancelled")) == 1


def test_sigterm_at_the_last_step_of_entering_runs_nothing_of_the_block_either(program: Start) -> None:
    one = program("""
        import os, signal
        from agora.worker import BlockingWorker
        class Late(dict):
            armed = False
            def get(self, key):
                value = super().get(key)
                if self.armed:
                    self.armed = False
                    os.kill(os.getpid(), signal.SIGTERM)
                return value  # of before the signal
        worker = BlockingWorker()
        late, begin = Late(), worker._begin
        worker._end = late
        worker._begin = lambda: (begin(), setattr(late, "armed", True))
        with worker:
            print("never", flush=True)
    """)
    assert one.ends() == 143, one.errors()
    assert one.output == ""
    (event,) = one.told("dispatch.cancelled")
    assert event["data"]["clean"] is True


def cpu_ticks(pid: int) -> int:
    """Return what a process has used so far: utime of proc(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_a_main_thread_that_never_looks_at_signals_is_ended_in_time(program: Start, eventually: Eventually) -> None:
    one = program(
        """
        import hashlib
        from agora.worker import BlockingWorker
        with BlockingWorker() as worker:
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10 ** 9)  # without the interpreter's lock, for minutes
        """,
        AGORA_WORKER_GRACE="6",
    )
    one.says("ready")
    used = cpu_ticks(one.process.pid)
    eventually(lambda: cpu_ticks(one.process.pid) > used + 20)  # it is in there
    begun = time.monotonic()
    one.tell()
    assert one.ends() == 143
    assert time.monotonic() - begun < 6, "it was not ended within its grace"
    (event,) = one.told("dispatch.cancelled")
    assert event["data"]["clean"] is False


def test_a_program_that_swallows_the_cancel_is_ended_and_told_as_unclean(program: Start) -> None:
    one = program(
        """
        import asyncio
        from agora.worker import Worker
        async def main():
            async with Worker() as worker:
                print("ready", flush=True)
                while True:
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        print("swallowed", flush=True)
        asyncio.run(main())
        """,
        AGORA_WORKER_GRACE="6",
    )
    one.says("ready")
    begun = time.monotonic()
    one.tell()
    assert one.ends() == 143
    assert time.monotonic() - begun < 6
    assert "swallowed" in one.output
    assert [event["data"]["clean"] for event in one.told("dispatch.cancelled")] == [False]


def test_an_error_of_the_clean_up_is_the_program_s_own(program: Start) -> None:
    one = program("""
        import time
        from agora.worker import BlockingWorker
        with BlockingWorker() as worker:
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                raise ValueError("clean-up went wrong")
    """)
    one.says("ready")
    one.tell()
    assert one.ends() == 1
    assert "clean-up went wrong" in one.errors()
    assert len(one.told("dispatch.cancelled")) == 1


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 143), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('no')", 1), ("raise ValueError", 1)],
)
@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_the_termination_message_has_the_exit_code_of_the_program(
    program: Start, tmp_path: Path, end: str, code: int, kind: str
) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    blocking = f"""
        import sys, time
        from agora.worker import BlockingWorker
        with BlockingWorker() as worker:
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                {end}
    """
    source = f"""
        import asyncio, sys
        from agora.worker import Worker
        async def main():
            async with Worker() as worker:
                try:
                    print("ready", flush=True)
                    await asyncio.sleep(60)
                finally:
                    {end}
        asyncio.run(main())
    """
    one = program(blocking if kind == "blocking" else source, AGORA_WORKER_TERMINATION=str(message))
    one.says("ready")
    one.tell()
    assert one.ends() == code, one.errors()
    assert json.loads(message.read_text()) == {"status": "cancelled", "exitCode": code, "clean": True}


def test_a_cancel_before_the_start_is_in_the_termination_message_too(program: Start, tmp_path: Path) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    one = program(
        """
        import os, signal
        from agora.worker import BlockingWorker, base
        sinks = base.ways_out
        base.ways_out = lambda around: (os.kill(os.getpid(), signal.SIGTERM), sinks(around))[1]
        with BlockingWorker() as worker:
            print("never")
        """,
        AGORA_WORKER_TERMINATION=str(message),
    )
    assert one.ends() == 143, one.errors()
    assert json.loads(message.read_text()) == {"status": "cancelled", "exitCode": 143, "clean": True}


def test_finishing_and_being_cancelled_race_and_one_is_told(program: Start) -> None:
    seen = set()
    for number in range(16):
        one = program("""
            import sys
            from agora.worker import BlockingWorker
            with BlockingWorker() as worker:
                print("ready", flush=True)
                sys.stdin.read()
                for _ in range(2000):
                    pass
        """)
        one.says("ready")
        time.sleep(random.Random(number).uniform(0, 0.02))
        one.tell()
        code = one.ends()
        cancelled = len(one.told("dispatch.cancelled"))
        # 143 without a word of the worker would be its number as an exit code; a signal after all is -15.
        assert (code, cancelled) in ((143, 1), (0, 0), (-signal.SIGTERM, 0)), one.errors()
        seen.add(code)
    assert seen


def test_sigterm_while_the_block_is_left_is_too_late(program: Start) -> None:
    one = program("""
        import os, signal
        from agora.worker import BlockingWorker
        class Slow:
            def release(self):
                os.kill(os.getpid(), signal.SIGTERM)
                print("releasing", flush=True)
        with BlockingWorker() as worker:
            worker.use(Slow())
        print("went on", flush=True)
    """)
    assert one.ends() == 0, one.errors()
    assert one.output == "releasing\nwent on\n"
    assert one.events == []


def test_a_fork_of_the_program_is_a_program_of_its_own(program: Start, eventually: Eventually) -> None:
    one = program("""
        import os, time
        from agora.worker import BlockingWorker
        with BlockingWorker() as worker:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            print(child, flush=True)
            print("ready", flush=True)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
    """)
    one.says("ready")
    child = int(one.output.split()[0])
    os.kill(child, signal.SIGTERM)
    assert one.ends() == 0, one.errors()
    assert one.output.splitlines()[-1] == "-15"
    assert one.events == []


def test_a_worker_is_entered_once_and_in_the_main_thread(program: Start) -> None:
    one = program("""
        import threading
        from agora.worker import BlockingWorker, WorkerError
        def elsewhere():
            try:
                BlockingWorker().__enter__()
            except WorkerError as error:
                print(error, flush=True)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        worker = BlockingWorker()
        with worker:
            try:
                BlockingWorker().__enter__()
            except WorkerError as error:
                print(error, flush=True)
        try:
            worker.__enter__()
        except WorkerError as error:
            print(error, flush=True)
    """)
    assert one.ends() == 0, one.errors()
    assert "main thread" in one.output
    assert "another worker is entered already" in one.output
    assert "entered once" in one.output


def test_sigterm_that_was_blocked_is_heard_and_blocked_again_afterwards(program: Start) -> None:
    one = program("""
        import os, signal, time
        from agora.worker import BlockingWorker
        class Slow(BlockingWorker):
            def _listen(self):
                heard = super()._listen()
                time.sleep(0.3)  # its thread comes to its end late, as on a busy machine
                return heard
        def blocked():
            return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        with Slow():
            pass
        print(blocked(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        with BlockingWorker():
            print("never", flush=True)
    """)
    assert one.ends() == 143, one.errors()
    assert one.output == "True\n"
    assert len(one.told("dispatch.cancelled")) == 1


ELSEWHERE = """
import asyncio, signal, threading, time
from agora.worker import BlockingWorker, Worker
def elsewhere():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
async def main():
    async with Worker() as worker:
        threading.Thread(target=elsewhere).start()
        await asyncio.sleep(60)
"""


@pytest.mark.parametrize(
    "program_of_it",
    [
        ELSEWHERE + "with BlockingWorker():\n    threading.Thread(target=elsewhere).start()\n    time.sleep(60)\n",
        ELSEWHERE + "asyncio.run(main())\n",
    ],
    ids=["blocking", "async"],
)
def test_sigterm_that_interrupts_no_wait_of_the_main_thread_reaches_it_all_the_same(
    program: Start, program_of_it: str
) -> None:
    # As one does that comes at the last moment before the wait: the interpreter looks at signals before it alone.
    one = program(program_of_it)
    assert one.ends() == 143, one.errors()
    (event,) = one.told("dispatch.cancelled")
    assert event["data"]["clean"] is True, "the program was not told before its time was over"


def test_no_thread_of_an_async_worker_hears_a_sigterm_that_is_blocked_again(program: Start) -> None:
    one = program("""
        import asyncio, os, signal
        from agora.worker import Worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        async def main():
            async with Worker() as worker:
                worker.progress(1)
            os.kill(os.getpid(), signal.SIGTERM)
            print(signal.sigpending() == {signal.SIGTERM}, flush=True)
        asyncio.run(main())
    """)
    assert one.ends() == 0, one.errors()
    assert one.output == "True\n"


def test_a_worker_that_cannot_begin_gives_sigterm_back(program: Start) -> None:
    one = program(
        """
        import os, signal
        from agora.worker import BlockingWorker
        before = set(os.listdir("/proc/self/fd"))
        mine = lambda *_: print("mine", flush=True)
        signal.signal(signal.SIGTERM, mine)
        try:
            BlockingWorker().__enter__()
        except ValueError as error:
            print(error, flush=True)
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.set_wakeup_fd(-1) == -1
        assert set(os.listdir("/proc/self/fd")) == before
        signal.raise_signal(signal.SIGTERM)
        os.environ["AGORA_WORKER_URL"] = ""
        with BlockingWorker() as worker:
            worker.progress(1)
        """,
        AGORA_WORKER_URL="nowhere",
    )
    assert one.ends() == 0, one.errors()
    assert "no address" in one.output
    assert one.output.endswith("mine\n")
    assert len(one.told("dispatch.progress")) == 1


def test_leaving_that_is_cancelled_gives_sigterm_back(program: Start) -> None:
    one = program("""
        import asyncio, signal, threading
        from agora.worker import Worker
        begun, on = threading.Event(), threading.Event()
        class Slow:
            def release(self):
                begun.set()
                on.wait(30)
        async def work():
            async with Worker() as worker:
                worker.use(Slow())
        async def main():
            before = signal.getsignal(signal.SIGTERM)
            task = asyncio.create_task(work())
            while not begun.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                print("cancelled", signal.getsignal(signal.SIGTERM) is before, signal.set_wakeup_fd(-1), flush=True)
            on.set()
        asyncio.run(main())
    """)
    assert one.ends() == 0, one.errors()
    assert one.output == "cancelled True -1\n"


def test_a_worker_leaves_nothing_open(program: Start) -> None:
    one = program("""
        import os, threading, time
        from agora.worker import BlockingWorker
        def around():
            return set(os.listdir("/proc/self/fd")), threading.active_count()
        before = around()
        for number in range(20):
            with BlockingWorker() as worker:
                worker.progress(number)
        until = time.monotonic() + 40
        while around() != before:
            assert time.monotonic() < until, (before, around())
            time.sleep(0.01)
    """)
    assert one.ends() == 0, one.errors()
    assert len(one.told("dispatch.progress")) == 20
