"""Answers of the engine that go on: read in a thread of their own, so that whoever waits can leave at any time."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

import requests
import urllib3.exceptions
from agora.errors import AgoraError
from docker.errors import DockerException
from docker.types import CancellableStream

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Items read ahead at most.
_AHEAD = 1000
#: stream (1 stdout, 2 stderr), three unused bytes, length: in front of each piece of output.
_FRAME = struct.Struct(">BxxxI")


class Reader(Generic[T]):
    """Reads one answer; a context manager that ends with its connection.

    Parameters:
        answer: asks for it when it is entered; the engine may take its time before it begins to answer.
        parse: turns its pieces of bytes into items.
        piece: bytes of a piece; as they come by default.
    """

    def __init__(
        self,
        answer: AbstractContextManager[requests.Response],
        parse: Callable[[Iterable[bytes]], Iterator[T]],
        piece: int | None = None,
    ) -> None:
        self._answer = answer
        self._parse = parse
        self._piece = piece
        # None wakes whoever waits for an item when there will be no more.
        self._items: queue.Queue[T | None] = queue.Queue(_AHEAD)
        self._response: requests.Response | None = None
        self._failure: AgoraError | None = None
        self._closed = False
        #: Whether the connection broke, which is an end too.
        self.cut = False
        self._begun = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, name="agora-docker-stream", daemon=True)

    def __enter__(self) -> Reader[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._response is None:
            return  # the thread closes the answer as soon as it begins
        try:
            CancellableStream(iter(()), self._response).close()
        except (OSError, AttributeError, DockerException) as failure:
            logger.debug("a stream was closed already: %s", failure)
        self._thread.join(2)

    def begun(self, seconds: float) -> bool:
        """Wait until the answer has begun.

        Raises:
            AgoraError: the engine refused, or did not answer.
        """
        begun = self._begun.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return begun

    @property
    def over(self) -> bool:
        """Whether the answer, or the connection, has ended and everything of it was taken.

        Raises:
            AgoraError: the engine refused, or did not answer.
        """
        if not (self._ended.is_set() and self._items.empty()):
            return False
        if self._failure is not None:
            raise self._failure
        return True

    def next(self, seconds: float) -> T | None:
        """Return the next item, or None where none came for so long, the stream is over, or somebody wakes us."""
        try:
            return self._items.get_nowait() if self._ended.is_set() else self._items.get(timeout=seconds)
        except queue.Empty:
            return None

    def wake(self) -> None:
        """Let whoever waits for an item look around."""
        with contextlib.suppress(queue.Full):  # then nobody waits
            self._items.put_nowait(None)

    def _read(self) -> None:
        try:
            with self._answer as response:
                self._response = response
                self._begun.set()
                if not self._closed:
                    self._take(response)
        except AgoraError as error:
            self._failure = error
        finally:
            self._ended.set()
            self._begun.set()
            self.wake()

    def _take(self, response: requests.Response) -> None:
        try:
            for item in self._parse(response.iter_content(self._piece)):
                if not self._put(item):
                    return
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # A cut connection is the end of the stream; whoever reads it looks after what it missed.
            self.cut = True
            logger.debug("a stream broke: %s", error)

    def _put(self, item: T) -> bool:
        while not self._closed:
            try:
                self._items.put(item, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False


def in_background(call: Callable[[], T], name: str) -> Future[T]:
    """Begin a call in a thread of its own, which keeps no program from ending."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the answer
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


def json_lines(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Parse one JSON object a line; half a line at the end is a cut connection."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)


def frames(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Parse the pieces of output, each with the number of its stream."""
    rest = b""
    for piece in pieces:
        rest += piece
        while len(rest) >= _FRAME.size:
            stream, length = _FRAME.unpack_from(rest)
            end = _FRAME.size + length
            if len(rest) < end:
                break
            yield stream, rest[_FRAME.size : end]
            rest = rest[end:]
