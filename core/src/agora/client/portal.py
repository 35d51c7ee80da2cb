"""An open client on an event loop in a thread of its own, for those who have no loop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from agora.client.claims import LEAVE_SECONDS
from agora.errors import AgoraError

T = TypeVar("T")

#: Who interrupts a call waits so long for what it leaves behind (members to cancel, above all), in seconds.
INTERRUPT_SECONDS = LEAVE_SECONDS + 3.0
#: Closing waits so long for the client to be left, in seconds: for the members of calls under way, submits, targets
#: and the store, each of which has a smaller bound of its own; only a disk that hangs has none.
CLOSE_SECONDS = 60.0


class Portal:
    """The thread, and the way in.

    Parameters:
        client: entered there for as long as this is open.
    Raises:
        BaseException: what entering the client raises.
    """

    def __init__(self, client: AbstractAsyncContextManager[object]) -> None:
        self._client = client
        self._pid = os.getpid()
        self._closed = False
        self._ended: Future[None] = Future()
        begun: Future[BlockingPortal] = Future()
        threading.Thread(target=self._run, args=(begun,), name="agora-client", daemon=True).start()
        self._portal = begun.result()

    def _run(self, begun: Future[BlockingPortal]) -> None:
        try:
            anyio.run(self._serve, begun)
        except BaseException as error:  # noqa: BLE001 - handed to whoever opens or closes it
            (self._ended if begun.done() else begun).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _serve(self, begun: Future[BlockingPortal]) -> None:
        # In this order: a call that is still under way is left while there is a client to cancel its members with.
        async with self._client, BlockingPortal() as portal:
            begun.set_result(portal)
            await portal.sleep_until_stopped()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine and return what it returns.

        A caller that is interrupted (by Ctrl-C, by a worker's `Cancelled`) cancels it, and waits until it is left.

        Raises:
            AgoraError: the client was closed, or this process is a fork of the one that opened it.
        """
        if os.getpid() != self._pid:
            raise AgoraError("this process is a fork of the one that opened the client: open another one here")
        left = threading.Event()

        async def whole() -> T:
            try:
                return await work()
            finally:
                left.set()

        try:
            future = self._portal.start_task_soon(whole)
        except RuntimeError:
            raise AgoraError("the client was closed") from None
        try:
            return future.result()
        except CancelledError:
            if self._closed:
                raise AgoraError("the client was closed") from None
            raise
        except BaseException:
            if future.cancel():
                left.wait(INTERRUPT_SECONDS)
            raise

    def close(self) -> None:
        """Cancel the calls of other threads, leave the client, and end the thread; in a fork, do nothing.

        Raises:
            AgoraError: it takes too long, and goes on in its thread.
        """
        if os.getpid() != self._pid:
            return
        self._closed = True
        self._portal.start_task_soon(self._portal.stop, True)
        if not wait([self._ended], CLOSE_SECONDS).done:
            raise AgoraError(f"the client is still being left after {CLOSE_SECONDS:g} s: its disk may hang")
        self._ended.result()
