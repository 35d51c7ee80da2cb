"""SIGTERM in the middle of a loop: the blocks around it see it, whichever way CPython has laid the loop out."""

from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., Any]

PROGRAM = """
import os, sys, time
from agora.worker import BlockingWorker

def main():
    with BlockingWorker() as worker:
        n = 0
        try:
            print("ready", flush=True)
            {loop}
        finally:
            os.write(1, b"cleaned up\\n")
    print("never")

main()
"""
#: Loops whose last jump some CPython from 3.11 to 3.14 gives to the wrong block, and some that none does.
LOOPS = {
    "continue": """
            while True:
                n += 1
                if n % 1000:
                    continue
                n += 1
""",
    "if": """
            while n < 10**12:
                n += 1
                if n % 1000 == 0:
                    pass
""",
    "inner": """
            while n < 10**12:
                n += 1
                for d in range(2, int(n**0.5) + 1):
                    if not n % d:
                        break
""",
    "condition": """
            while not worker.cancelled or n < 10**12:
                pass
""",
    "one line": """
            while True: pass
""",
    "generator": """
            sum(1 for _ in iter(int, 1))
""",
    "plain": """
            while True:
                n += 1
""",
    "call": """
            while True:
                sum(range(100))
                time.sleep(0)
""",
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("again", range(3))
def test_a_loop_is_left_through_the_blocks_around_it(program: Start, loop: str, again: int) -> None:
    one = program(PROGRAM.format(loop=LOOPS[loop].strip()))
    one.says("ready")
    one.tell()
    assert one.ends() == 143, one.errors()
    assert one.output.splitlines() == ["ready", "cleaned up"]
    assert [event["data"]["clean"] for event in one.told("dispatch.cancelled")] == [True]
    assert one.errors() == ""
