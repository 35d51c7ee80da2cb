"""The output of a workload, both streams apart, from the client that ran it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from agora.errors import ProviderError, Unreachable
from agora.model.observation import LogChunk

from agora_nomad import names
from agora_nomad.api import Api, Refusal

if TYPE_CHECKING:
    import requests

Kind = Literal["stdout", "stderr"]
STREAMS: tuple[Kind, Kind] = ("stdout", "stderr")
#: Contract 8: with `follow` an empty chunk comes so often, at least; seconds.
_TICK = 0.5
#: The last line of a container can reach its client after its end: so long, and so often, the logs are read again.
_LATE_SECONDS, _LATE_PAUSE = 1.5, 0.25
_CHUNK = 32_768
#: What a client says with status 404 of a task without output.
_NOTHING_YET = ("not started yet", "log entry for task")

#: The allocation of a workload, null before it has one, and whether the workload is over.
Look = Callable[[], tuple[str | None, bool]]


def read(api: Api, allocation: str | None, tail: int | None) -> Iterator[LogChunk]:
    """Yield the output so far, or its last lines of each stream."""
    if allocation is None:
        return
    for kind in STREAMS:
        if tail is None:
            yield from _chunks(api, allocation, kind, 0)
        elif tail > 0:
            lines, _ = _tail(api, allocation, kind, tail)
            yield from (LogChunk(stream=kind, data=line) for line in lines)


def follow(api: Api, look: Look, tail: int | None) -> Iterator[LogChunk]:
    """Yield the output to its end, with an empty chunk where there is none for a while.

    A log that Nomad itself follows never ends, so it is asked for what is new, again and again: by offset, until the
    task is dead and nothing more has come.
    """
    read = dict.fromkeys(STREAMS, 0)
    begun = False
    until = None
    while True:
        allocation, over = look()
        if over and until is None:
            until = time.monotonic() + _LATE_SECONDS
        came, failure = False, None
        if allocation is not None:
            if not begun and tail is not None:
                for kind in STREAMS:
                    lines, read[kind] = _tail(api, allocation, kind, tail)
                    yield from (LogChunk(stream=kind, data=line) for line in lines)
            begun = True
            for kind in STREAMS:
                try:
                    for chunk in _chunks(api, allocation, kind, read[kind]):
                        read[kind] += len(chunk.data)
                        came = True
                        yield chunk
                except Unreachable as error:
                    failure = error  # a client that is away just now is asked again
        if until is not None and (allocation is None or time.monotonic() > until):
            if failure is not None:
                raise failure  # the last lines may be missing
            return
        if not came:
            yield LogChunk(stream="stdout", data=b"")
        time.sleep(_TICK if until is None else _LATE_PAUSE)


def _chunks(api: Api, allocation: str, kind: Kind, offset: int) -> Iterator[LogChunk]:
    for data in _pieces(_open(api, allocation, kind, offset=str(offset), origin="start")):
        yield LogChunk(stream=kind, data=data)


def _tail(api: Api, allocation: str, kind: Kind, count: int) -> tuple[list[bytes], int]:
    """Return the last lines of a stream, and the length of the whole stream."""
    whole = b"".join(_pieces(_open(api, allocation, kind, offset="0", origin="start")))
    lines = whole.splitlines(keepends=True)
    return (lines[-count:] if count else []), len(whole)


def _open(api: Api, allocation: str, kind: Kind, **query: str) -> requests.Response | None:
    """Open a log; null where there is no output yet.

    Raises:
        ProviderError: the client keeps it no longer.
    """
    try:
        return api.log(allocation, names.TASK, type=kind, **query)
    except Refusal as error:
        if any(words in str(error) for words in _NOTHING_YET):
            return None
        if error.status == 404:
            raise ProviderError(f"the client keeps the output of allocation {allocation} no longer: {error}") from error
        raise


def _pieces(answer: requests.Response | None) -> Iterator[bytes]:
    if answer is None:
        return
    import requests

    try:
        with answer:
            for data in answer.iter_content(_CHUNK):
                if data:
                    yield data
    except requests.RequestException as error:
        raise Unreachable(f"a log was cut off: {type(error).__name__}") from error
