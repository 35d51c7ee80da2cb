"""Reading answers that go on, without an engine."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue

import pytest
import requests
from agora_docker.config import DockerConfig
from agora_docker.endpoint import resolve
from agora_docker.engine import Engine
from agora_docker.streams import Reader, frames, json_lines


class Answer(requests.Response):
    """An answer that says one thing and ends when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[bytes]:
        """Yield the one thing and wait."""
        yield b'{"number": 1}\n'
        assert self.end.wait(50)


def test_the_end_of_an_answer_is_noticed_at_once() -> None:
    """Whoever waits for the next item is told, and does not wait until its patience is over."""
    answer = Answer()

    @contextmanager
    def asked() -> Iterator[requests.Response]:
        yield answer

    reader = Reader(asked(), json_lines)
    reader._thread.start()
    assert reader.next(30) == {"number": 1}
    threading.Timer(0.2, answer.end.set).start()
    begun = time.monotonic()
    assert reader.next(30) is None
    assert time.monotonic() - begun < 20
    while not reader.over:
        assert reader.next(0) is None
    reader._thread.join(50)


def test_pieces_are_put_together() -> None:
    def pieces() -> Iterable[bytes]:
        return [b'{"a": 1}\n{"b"', b": 2}\n\n", b'{"cut": ']

    assert list(json_lines(pieces())) == [{"a": 1}, {"b": 2}]
    frame = b"\x01\0\0\0\0\0\0\x05hello"
    assert list(frames([frame[:3], frame[3:10], frame[10:] + frame[:9]])) == [(1, b"hello")]


class Talker(socketserver.StreamRequestHandler):
    """Answers what is asked for, its events without an end; and notes connections that were closed."""

    ended: threading.Semaphore

    def handle(self) -> None:
        """Answer until the other side has closed the connection."""
        while line := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            if b"/events" in line:
                self.wfile.write(b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
            else:
                self.wfile.write(b'Content-Length: 22\r\n\r\n{"ApiVersion": "1.41"}')
        self.ended.release()


@pytest.fixture
def talked(tmp_path: Path) -> Iterator[tuple[Engine, threading.Semaphore]]:
    """Return an engine with one answer for each question, and what is released where a connection was closed."""

    class Here(Talker):
        ended = threading.Semaphore(0)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    path = tmp_path / "engine"
    with Server(str(path), Here) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Engine(resolve("here", DockerConfig(host=f"unix://{path}")), 20, "test"), Here.ended
        finally:
            server.shutdown()
            thread.join(20)


def test_the_connection_of_a_stream_ends_with_it(talked: tuple[Engine, threading.Semaphore]) -> None:
    """And not only once nobody holds its answer any more."""
    engine, ended = talked
    with engine.stream("GET", "/events") as response:
        assert ended.acquire(timeout=20), "the connection that asked for the version"
    assert ended.acquire(timeout=20)
    assert response.status_code == 200
    engine.close()


def test_a_connection_that_is_given_back_while_the_engine_is_closed(
    talked: tuple[Engine, threading.Semaphore],
) -> None:
    engine, ended = talked

    class Late(LifoQueue[object]):
        def put_nowait(self, item: object) -> None:
            """Give back what somebody has just closed everything before."""
            engine.close()
            super().put_nowait(item)

    engine._idle = Late()  # type: ignore[assignment]
    assert engine.request("GET", "/version").status_code == 200
    assert ended.acquire(timeout=20)
    assert ended.acquire(timeout=20)
