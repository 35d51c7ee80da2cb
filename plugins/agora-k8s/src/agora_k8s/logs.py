"""The output of a workload: from the cluster while its pod is there, then the tail that was kept here."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agora.errors import AgoraError, Unreachable
from agora.model.observation import LogChunk
from urllib3.response import BaseHTTPResponse

from agora_k8s import names, story
from agora_k8s.api import Api, Refusal, lines
from agora_k8s.cluster import Item

#: A tail is cut out of so many last lines, and read for so many seconds at most.
_TAIL_LINES = 20_000
_TAIL_SECONDS = 5.0
#: Seconds of silence after which a followed log is asked for again: a workload may say nothing for long.
_FOLLOW_SILENCE = 60.0
_READ_SILENCE = 10.0
#: Contract 8: with `follow` an empty chunk comes so often.
_TICK = 1.0
_CHUNK = 32_768
_BUFFERED = 1_000
#: What a node says in place of a log that it has removed.
_STAMP = re.compile(r"(?P<head>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(?P<part>\d{1,9}))?(?P<zone>Z|[+-]\d\d:\d\d)")
_NODE_WORDS = (b"unable to retrieve container logs", b"failed to try resolving symlinks")


@dataclass(frozen=True)
class Line:
    """A line of output.

    Parameters:
        text: with its end.
        at: when the node received it, in nanoseconds since the epoch, where it says so.
    """

    text: bytes
    at: int | None = None


def parse(raw: bytes) -> Line | None:
    """Read a line that begins with its time; null for what a node says in place of a log."""
    stamp, _, text = raw.partition(b" ")
    try:
        return Line(text, _nanoseconds(stamp.decode()))
    except ValueError:
        return None if raw.startswith(_NODE_WORDS) else Line(raw)


def _nanoseconds(stamp: str) -> int:
    """Read RFC 3339 with up to nine digits of a second."""
    found = _STAMP.fullmatch(stamp)
    if found is None:
        raise ValueError(stamp)
    whole = datetime.fromisoformat(found["head"] + ("+00:00" if found["zone"] == "Z" else found["zone"]))
    return int(whole.timestamp()) * 10**9 + int((found["part"] or "0").ljust(9, "0"))


def nanoseconds(at: datetime | None) -> int | None:
    """Return a time in nanoseconds since the epoch."""
    return None if at is None else round(at.timestamp() * 10**6) * 1000


def _moment(at: int | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at / 10**9, UTC)


def _open(api: Api, pod: Item, silence: float, **query: str) -> BaseHTTPResponse:
    asked = {"container": names.CONTAINER, "timestamps": "true", **query}
    return api.stream(api.path("pods", pod["metadata"]["name"], "log"), asked, silence)


class Tails:
    """The last output of ended workloads, a file each.

    Parameters:
        directory: where they are kept.
        cap: bytes of each; 0 keeps none.
    """

    def __init__(self, directory: Path, cap: int) -> None:
        self._directory = directory
        self._cap = cap

    def _path(self, dispatch_id: str) -> Path:
        return self._directory / f"{dispatch_id}.log"

    def keep(self, api: Api, dispatch_id: str, pod: Item) -> None:
        """Fetch the tail of an ended workload, once; what cannot be fetched any more is left out."""
        path = self._path(dispatch_id)
        if not self._cap or path.exists():
            return
        kept: deque[bytes] = deque()
        size, until = 0, time.monotonic() + _TAIL_SECONDS
        try:
            answer = _open(api, pod, _TAIL_SECONDS, tailLines=str(_TAIL_LINES))
            for raw in lines(answer):
                kept.append(raw)
                size += len(raw)
                while size > self._cap:
                    size -= len(kept.popleft())
                if time.monotonic() > until:
                    answer.close()
                    break
        except AgoraError:
            if not kept:
                return
        if kept and parse(kept[0]) is None:
            return
        self._write(path, kept)

    def _write(self, path: Path, kept: deque[bytes]) -> None:
        draft = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(kept)
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def read(self, dispatch_id: str) -> Iterator[Line] | None:
        """Yield what was kept; null where nothing was."""
        try:
            file = self._path(dispatch_id).open("rb")
        except FileNotFoundError:
            return None

        def kept() -> Iterator[Line]:
            with file:
                for raw in file:
                    if (line := parse(raw)) is not None:
                        yield line

        return kept()

    def remove(self, dispatch_id: str) -> None:
        """Forget what was kept."""
        self._path(dispatch_id).unlink(missing_ok=True)


def read(
    api: Api,
    tails: Tails,
    dispatch_id: str,
    pods: list[Item],
    *,
    since: int | None,
    tail: int | None,
) -> Iterator[LogChunk]:
    """Yield the output so far."""
    pod = story.current(pods)
    gone = pod is None or (pod["metadata"].get("deletionTimestamp") and story.ended(None, pod) is not None)
    found = tails.read(dispatch_id) if gone else None
    if found is None and pod is not None:
        found = _from_api(api, pod, since, tail)
        if (first := next(found, None)) is None:
            found = tails.read(dispatch_id)
        else:
            yield from _chunks(_after(since, _chained(first, found)))
            return
    if found is not None:
        shown = _after(since, found)
        yield from _chunks(iter(deque(shown, maxlen=tail)) if tail is not None else shown)


def _chained(first: Line, rest: Iterator[Line]) -> Iterator[Line]:
    yield first
    yield from rest


def _after(since: int | None, found: Iterator[Line]) -> Iterator[Line]:
    return (line for line in found if since is None or line.at is None or line.at > since)


def _from_api(api: Api, pod: Item, since: int | None, tail: int | None) -> Iterator[Line]:
    try:
        answer = _open(api, pod, _READ_SILENCE, **_window(since, tail))
    except Refusal:  # its container has not started, or is gone
        return
    for raw in lines(answer):
        if (line := parse(raw)) is not None:
            yield line


def _window(since: int | None, tail: int | None) -> dict[str, str]:
    query = {}
    if since is not None:
        query["sinceTime"] = datetime.fromtimestamp(since // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if tail is not None:
        query["tailLines"] = str(tail)
    return query


def _chunks(found: Iterator[Line]) -> Iterator[LogChunk]:
    """Join lines to chunks of a fair size; both streams of a workload arrive as one."""
    pieces: list[bytes] = []
    size, at = 0, None
    for line in found:
        pieces.append(line.text)
        size += len(line.text)
        at = line.at or at
        if size >= _CHUNK:
            yield LogChunk(stream="stdout", data=b"".join(pieces), at=_moment(at))
            pieces, size = [], 0
    if pieces:
        yield LogChunk(stream="stdout", data=b"".join(pieces), at=_moment(at))


def follow(
    api: Api,
    tails: Tails,
    dispatch_id: str,
    look: Callable[[], tuple[bool, list[Item]]],
    *,
    since: int | None,
    tail: int | None,
) -> Iterator[LogChunk]:
    """Yield the output to the end, with an empty chunk every second in which there is none.

    Parameters:
        look: says whether the workload is over, and lists its pods.
        since: only what was received later, in nanoseconds since the epoch.
    """
    last, first = since, True
    while True:
        over, pods = look()
        if over:
            # What came since the last line, from wherever it is kept by now.
            yield from read(api, tails, dispatch_id, pods, since=last, tail=tail if first else None)
            return
        pod = story.current(pods)
        if pod is not None and (story.container(pod).get("state") or {}).get("running"):
            seen = last  # a log that is asked for again begins with the second of its last line
            for line in _following(api, pod, seen, tail if first else None):
                if line is None:
                    yield LogChunk(stream="stdout", data=b"")
                elif seen is None or line.at is None or line.at > seen:
                    first, last = False, line.at or last
                    yield LogChunk(stream="stdout", data=line.text, at=_moment(line.at))
        else:
            yield LogChunk(stream="stdout", data=b"")
            time.sleep(_TICK / 2)


def _following(api: Api, pod: Item, since: int | None, tail: int | None) -> Iterator[Line | None]:
    """Yield lines as they come until the stream ends or breaks; null for every second without one."""
    try:
        answer = _open(api, pod, _FOLLOW_SILENCE, follow="true", **_window(since, tail))
    except (Refusal, Unreachable):
        yield None
        time.sleep(_TICK)
        return
    heard: queue.Queue[bytes | None] = queue.Queue(_BUFFERED)
    left = threading.Event()

    def listen() -> None:
        with suppress(Unreachable):
            for raw in lines(answer):
                while not left.is_set():
                    with suppress(queue.Full):
                        heard.put(raw, timeout=_TICK)
                        break
        while not left.is_set():
            with suppress(queue.Full):
                heard.put(None, timeout=_TICK)
                return

    threading.Thread(target=listen, name="agora-k8s-logs", daemon=True).start()
    try:
        while True:
            try:
                raw = heard.get(timeout=_TICK)
            except queue.Empty:
                yield None
                continue
            if raw is None:
                return
            if (line := parse(raw)) is not None:
                yield line
    finally:
        left.set()
        with suppress(Exception):
            answer.shutdown()
