"""Extensions that kill their own process with SIGKILL at one point of its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

from agora.hookspecs import hookimpl
from agora.model.events import Event
from agora.model.observation import Handle, StopReceipt

#: The points: before and after a hook of the provider, and after an event was committed.
POINTS = ("dispatch:before", "dispatch:after", "stop:before", "stop:after", "event:dispatch.stopping")


class Fault:
    """Kills its own process at `point`.

    Parameters:
        point: one of `POINTS`.
    """

    def __init__(self, point: str) -> None:
        if point not in POINTS:
            raise ValueError(f"{point!r} is no fault point")
        self._point = point

    def _reached(self, point: str) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)

    @hookimpl(wrapper=True)
    def dispatch(self) -> Generator[None, Handle, Handle]:
        """Die before the provider is asked to start, or before its handle is stored."""
        self._reached("dispatch:before")
        handle = yield
        self._reached("dispatch:after")
        return handle

    @hookimpl(wrapper=True)
    def stop(self) -> Generator[None, StopReceipt, StopReceipt]:
        """Die before the stop is sent, or before its receipt is stored."""
        self._reached("stop:before")
        receipt = yield
        self._reached("stop:after")
        return receipt

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Die once an event was committed."""
        self._reached(f"event:{event.type.value}")
