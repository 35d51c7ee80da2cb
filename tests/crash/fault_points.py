"""An extension that kills its own process, with SIGKILL, at the point that AGORA_FAULT names.

Points are `event:TYPE` (after that event was committed) and `HOOK:before`, `HOOK:after` (around a provider's hook).
Whatever reaches a hook is also written to the file in AGORA_FAULT_LOG. Claims live for AGORA_FAULT_CLAIM seconds, so
that a test need not wait for those of the dead.
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

from agora import Event, hookimpl
from agora.engine import core, submit

CLAIM = float(os.environ["AGORA_FAULT_CLAIM"])
setattr(core, "CLAIM_SECONDS", CLAIM)  # noqa: B010 - a constant for everybody else
setattr(submit, "CLAIM_SECONDS", CLAIM)  # noqa: B010


def reached(point: str) -> None:
    """Write the point down; die if it is the one."""
    with Path(os.environ["AGORA_FAULT_LOG"]).open("a") as log:
        log.write(f"{os.getpid()} {point}\n")
    if os.environ.get("AGORA_FAULT") == point:
        os.kill(os.getpid(), signal.SIGKILL)


class FaultPoints:
    """Wraps what a step may die in."""

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Hear of a committed event."""
        reached(f"event:{event.type.value}")

    @hookimpl(wrapper=True)
    def dispatch(self) -> Generator[None, Any, Any]:
        """Stand before and behind a start."""
        reached("dispatch:before")
        result = yield
        reached("dispatch:after")
        return result

    @hookimpl(wrapper=True)
    def stop(self) -> Generator[None, Any, Any]:
        """Stand before and behind a stop."""
        reached("stop:before")
        result = yield
        reached("stop:after")
        return result

    @hookimpl(wrapper=True)
    def kill(self) -> Generator[None, Any, Any]:
        """Stand before and behind a kill."""
        reached("kill:before")
        result = yield
        reached("kill:after")
        return result

    @hookimpl(wrapper=True)
    def find(self) -> Generator[None, Any, Any]:
        """Stand before and behind a search by mark."""
        reached("find:before")
        result = yield
        reached("find:after")
        return result
