"""Raising from a signal handler where the `try` and `with` around the program see it.

CPython looks at signals at the jump that ends a round of a loop, and gives that jump, in some loops, to the wrong
block or to none: with `continue` on 3.11, say, or with an `if` at the end on 3.14. What is raised there passes by the
`finally` and `with` around the loop (python/cpython#108214 and #130279).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any


def raise_in(frame: FrameType | None, error: BaseException, wanted: Callable[[], bool]) -> None:
    """Raise here, or one step on if the frame is at the end of a round of a loop.

    Parameters:
        frame: where the signal came.
        error: what to raise.
        wanted: whether to raise it one step on still.
    """
    if frame is None or sys.gettrace() is not None or not _at_jump_back(frame):
        raise error

    def one_step_on(seen: FrameType, event: str, argument: Any) -> Any:
        if seen is not frame:
            return None
        sys.settrace(None)
        frame.f_trace = None
        if wanted():
            raise error
        return None

    frame.f_trace = one_step_on
    frame.f_trace_opcodes = True  # a loop of one line has no next one
    sys.settrace(one_step_on)


def _at_jump_back(frame: FrameType) -> bool:
    """Whether a frame of a function that has blocks is at the jump that ends a round."""
    code = frame.f_code
    if not code.co_exceptiontable:
        return False
    import opcode

    return "JUMP_BACKWARD" in opcode.opname[code.co_code[frame.f_lasti]]
