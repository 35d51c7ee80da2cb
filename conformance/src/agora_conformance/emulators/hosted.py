"""What every emulator is: a server on a port of the loopback interface, with an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

#: Seconds to start and to stop.
LIMIT = 60.0
T = TypeVar("T")


class Hosted(ABC):
    """An emulator and its thread.

    Use it with `with` or `async with`; every method may be called from any thread. When it closes, every process
    that it has started is gone.

    Parameters:
        name: of the thread.
        port: to listen on; 0 for any.
    """

    port: int

    def __init__(self, name: str, port: int) -> None:
        self._name, self._wanted_port = name, port
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    # -- what an emulator does itself ----------------------------------------------------------------------------

    @abstractmethod
    async def _serve(self) -> None:
        """Make everything, wait in `_until_closed`, and end what was started."""

    @abstractmethod
    def _failures(self) -> Sequence[BaseException]:
        """Return what went wrong inside."""

    def _listen(self) -> socket.socket:
        """Take the port."""
        listener = socket.create_server(("127.0.0.1", self._wanted_port))
        self.port = listener.getsockname()[1]
        return listener

    @asynccontextmanager
    async def _answering(self, listener: socket.socket, app: web.Application) -> AsyncIterator[None]:
        """Answer requests; a connection that is still busy at the end has a moment."""
        serving = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await serving.setup()
        await web.SockSite(serving, listener).start()
        try:
            yield
        finally:
            await serving.cleanup()

    async def _until_closed(self) -> None:
        """Say that it is ready, and wait for the end."""
        self._ready.set()
        await self._stop.wait()

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        self._thread.start()
        if not self._ready.wait(LIMIT):
            raise TimeoutError("the emulator did not start")
        if self._problem is not None:
            raise self._problem
        return self

    def close(self) -> None:
        """Kill everything that it has started, stop serving, and raise what went wrong inside."""
        if self._thread is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LIMIT)
        if self._thread.is_alive():
            raise TimeoutError("the emulator did not stop")
        self._thread = None
        if self._problem is not None:
            raise self._problem
        if failures := self._failures():
            raise ExceptionGroup("the emulator failed inside", [one for one in failures if isinstance(one, Exception)])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - handed to whoever closes it
            self._problem = error
        finally:
            self._ready.set()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._serve()

    # -- from other threads --------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def _on_loop(self, work: Callable[[], Any]) -> Any:
        """Do something on the event loop, from any thread, and return what comes of it."""
        if threading.current_thread() is self._thread:
            return work()

        async def run() -> Any:
            return work()

        return self._await(run())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the event loop that takes its time; not from the loop itself."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)


def switch(fault: Callable[..., None], body: bytes) -> str:
    """Switch a fault over HTTP.

    Parameters:
        fault: the method.
        body: its arguments, in JSON.

    Returns:
        What does not fit; empty where it was switched.
    """
    try:
        arguments: dict[str, Any] = json.loads(body or b"{}")
        fault(**arguments)
    except (TypeError, ValueError) as error:
        return f"the arguments do not fit: {error}"
    return ""


def told_to_end() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set from now on."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    return over
