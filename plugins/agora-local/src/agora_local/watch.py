"""Hearing of starts and ends: inotify on the directory in which every live workload has its control socket."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path

from agora.errors import ProviderError
from agora.hookspecs import WatchSink
from agora.model.observation import Handle, Observation

from agora_local.journal import LIVE

_TICK = 0.5
#: Seconds between two looks for shims that were killed: they leave their socket and so no event.
_LOST_SHIMS_EVERY = 3.0
_EVENT = struct.Struct("iIII")


class Inotify:
    """One inotify instance on one directory, see inotify(7).

    Parameters:
        directory: what to watch.
        mask: which events.

    Raises:
        ProviderError: the user has no instance left (fs.inotify.max_user_instances).
    """

    MODIFY = 0x2
    ATTRIB = 0x4
    CREATE = 0x100
    DELETE = 0x200
    OVERFLOW = 0x4000
    IGNORED = 0x8000

    def __init__(self, directory: Path, mask: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise ProviderError(f"inotify: {os.strerror(ctypes.get_errno())}")
        if libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask) < 0:
            number = ctypes.get_errno()
            self.close()
            raise ProviderError(f"inotify on {directory}: {os.strerror(number)}")

    def wait(self, seconds: float) -> list[tuple[int, str]]:
        """Return mask and file name of the events that come within `seconds`; none if there are none."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return []
        data = os.read(self._descriptor, 65536)
        events = []
        offset = 0
        while offset < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            events.append((mask, data[offset : offset + length].rstrip(b"\0").decode()))
            offset += length
        return events

    def close(self) -> None:
        """Let go of the instance."""
        os.close(self._descriptor)


def watch(
    state_dir: Path,
    sink: WatchSink,
    closed: Callable[[], bool],
    observe: Callable[[str], Observation | None],
    lost: Callable[[Handle], bool],
) -> None:
    """Tell the sink of every start and end until it is closed.

    Parameters:
        state_dir: the target's directory.
        sink: whom to tell.
        closed: whether the provider itself was closed.
        observe: what is known of a dispatch, from its journal.
        lost: whether the shim of a workload was killed.
    """
    events = Inotify(state_dir / LIVE, Inotify.ATTRIB | Inotify.DELETE)
    try:
        sink.connected()
        look = time.monotonic() + _LOST_SHIMS_EVERY
        while not (sink.closed or closed()):
            for mask, id in events.wait(_TICK):
                if mask & Inotify.IGNORED:
                    raise ProviderError(f"{state_dir / LIVE} was removed")
                if mask & Inotify.OVERFLOW:
                    for known in list(sink.handles()):
                        sink.stale(known)
                elif id and (observation := observe(id)) is not None:
                    sink.push(id, observation)
            if time.monotonic() >= look:
                for known, handle in list(sink.handles().items()):
                    if lost(handle):
                        sink.stale(known)
                look = time.monotonic() + _LOST_SHIMS_EVERY
    finally:
        events.close()
