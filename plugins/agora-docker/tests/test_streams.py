"""Reading answers that go on, without an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import requests
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
