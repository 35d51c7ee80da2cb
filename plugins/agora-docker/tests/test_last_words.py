"""What a container says on its way out, heard without its log."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import requests
from agora.client import AgoraClient
from agora.model.observation import LogChunk, Phase, ReceiptKind
from agora.worker.marks import pack
from agora_docker import lastwords, looking, stopping
from agora_docker.engine import Engine
from agora_docker.lastwords import LastWords
from agora_docker.logs import LogReader
from agora_docker.story import Happened, Story
from docker_harness import STUBBORN, Docker, eventually, settings

pytestmark = pytest.mark.backend("docker")

WAIT = "while :; do sleep 0.05; done"
LEAVES = ("sh", "-c", f"trap 'echo LAST; echo ERROR >&2; exit 9' TERM; echo READY; {WAIT}")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time."""
    monkeypatch.setattr(lastwords, "_BEGIN", 20.0)
    monkeypatch.setattr(lastwords, "_LATE", 20.0)
    monkeypatch.setattr(looking, "_LATE", 20.0)
    monkeypatch.setattr(stopping, "_LEAVE", 20.0)


def said(chunks: tuple[LogChunk, ...] | None, stream: str) -> bytes:
    """Return what was heard on one stream."""
    assert chunks is not None
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


def test_the_last_lines_come_with_the_answer_to_the_stop(docker: Docker) -> None:
    receipt = docker.stop(docker.started(*LEAVES), 20)
    output = receipt.output
    assert receipt.kind is ReceiptKind.SIGNALLED
    assert receipt.observation is not None
    assert (receipt.observation.phase, receipt.observation.exit_code) == (Phase.ENDED, 9)
    assert said(output, "stdout").startswith(b"READY\n")
    assert said(output, "stdout").endswith(b"LAST\n")
    assert said(output, "stderr").endswith(b"ERROR\n")


def test_a_worker_is_acknowledged_though_no_log_can_be_had_after_the_end(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may hold a log back for long."""
    id = "last-words"
    fields = {"id": "ab.1", "type": "dispatch.cancelled", "subject": id, "sequence": 1, "data": {"clean": True}}
    mark = pack(id, json.dumps(fields).encode()).decode().rstrip()
    script = f'trap \'printf "%b\\n" "$WORDS"; exit 9\' TERM; echo READY; {WAIT}'
    over = threading.Event()
    whole, send = LastWords.whole, Engine.request

    def last(self: LastWords, *story: Any) -> tuple[LogChunk, ...] | None:
        heard = whole(self, *story)
        over.set()
        return heard

    def held_back(self: Engine, method: str, path: str, **arguments: Any) -> Any:
        assert not (over.is_set() and path.endswith("/logs"))
        return send(self, method, path, **arguments)

    monkeypatch.setattr(LastWords, "whole", last)

    async def life() -> None:
        async with AgoraClient(tmp_path / "home", settings=settings(docker), supervisor=False) as client:
            docker.installation = (tmp_path / "home" / "installation").read_text().strip()
            handle = await client.dispatch(docker.spec("sh", "-c", script, env={"WORDS": mark}, grace=20), id=id)
            async for chunk in handle.logs(follow=True):
                if b"READY" in chunk.data:
                    break
            with monkeypatch.context() as patch:
                patch.setattr(Engine, "request", held_back)
                await client.cancel(id)
                record = await client.get(id, refresh=False)
            assert over.is_set()
            assert (record.exit_code, record.confirmed, record.acknowledged) == (9, True, True)

    anyio.run(life)


@pytest.mark.parametrize("how", ["much", "refused", "late", "cut"])
def test_what_may_not_be_all_is_left_to_the_log(docker: Docker, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    gate = threading.Event()
    if how == "much":
        monkeypatch.setattr(lastwords, "_KEPT", 0)
    elif how == "refused":
        stream = Engine.stream

        def refused(self: Engine, method: str, path: str, **arguments: Any) -> Any:
            return stream(self, method, path.replace("/attach", "/no-such-thing"), **arguments)

        monkeypatch.setattr(Engine, "stream", refused)
    elif how == "cut":
        heard = LastWords._frames

        def cut(self: LastWords, pieces: Any) -> Iterator[tuple[int, bytes]]:
            yield from list(heard(self, pieces))[:1]
            raise requests.ConnectionError("reset")

        monkeypatch.setattr(LastWords, "_frames", cut)
    handle = docker.started(*LEAVES)
    with monkeypatch.context() as patch:
        if how == "late":
            patch.setattr(lastwords, "_LATE", 0.5)
            patch.setattr(LogReader, "read", lambda *_: iter([gate.wait(60)][:0]))
        receipt = docker.stop(handle, 20)
        gate.set()
    assert receipt.observation is not None
    assert receipt.observation.phase is Phase.ENDED
    assert receipt.output is None


TIMES: dict[str, Callable[[], list[Happened]]] = {
    "before": lambda: [Happened(5, "attach"), Happened(6, "kill", signal=15), Happened(7, "die", exit_code=9)],
    "after": lambda: [Happened(5, "kill", signal=15), Happened(6, "attach"), Happened(7, "die", exit_code=9)],
    "others": lambda: [Happened(1, "attach"), Happened(5, "kill", signal=15), Happened(7, "die", exit_code=9)],
    "unsignalled": lambda: [Happened(5, "attach"), Happened(7, "die", exit_code=9)],
}


@pytest.mark.parametrize("when", TIMES)
def test_only_who_listened_before_the_signal_heard_all(when: str) -> None:
    story = Story([Happened(0, "start"), *TIMES[when]()])
    assert lastwords._listened(story, 3) == (when == "before")


def test_the_output_of_one_who_began_late_is_not_taken_for_all_beside_somebody_else(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = docker.started("sh", "-c", f"trap 'echo FIRST; sleep 1; exit 9' TERM; echo READY; {WAIT}")
    path = f"/containers/{handle.data['container']}/attach"
    params = {"stream": "1", "stdout": "1"}
    ours, first = Engine.stream, threading.Event()

    @contextlib.contextmanager
    def late(self: Engine, method: str, path: str, **arguments: Any) -> Iterator[requests.Response]:
        assert not path.endswith("/attach") or first.wait(60)
        with ours(self, method, path, **arguments) as response:
            yield response

    with docker.outside.stream("POST", path, params=params) as somebody, monkeypatch.context() as patch:

        def listen() -> None:
            for _ in somebody.iter_content(1):
                first.set()

        reading = threading.Thread(target=listen)
        reading.start()
        patch.setattr(lastwords, "_BEGIN", 0.01)
        patch.setattr(Engine, "stream", late)
        receipt = docker.stop(handle, 20)
        reading.join(60)
    assert receipt.observation is not None
    assert receipt.output is None


def test_nobody_listens_for_ever_to_an_engine_that_hangs(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lastwords, "_SILENT", 0.5)
    monkeypatch.setattr(looking, "_LISTEN", 0.5)
    container = str(docker.started(*LEAVES).data["container"])
    looker, engine = docker.provider._looker, docker.provider._engine
    assert looker.inspect(container)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        engine._endpoint = dataclasses.replace(engine._endpoint, url=f"unix://{tmp_path}/silent")
        engine._close_idle()
        with looker.listening(container) as events, LastWords(engine, container, events):
            assert events is not None
        eventually(lambda: not [one for one in threading.enumerate() if one.name == "agora-docker-stream"])


def test_nobody_listens_any_more_once_the_stop_was_left(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_LEAVE", 2.0)
    attached: list[str] = []
    stream = Engine.stream

    def noted(self: Engine, method: str, path: str, **arguments: Any) -> Any:
        attached.append(path.rpartition("/")[2])
        return stream(self, method, path, **arguments)

    monkeypatch.setattr(Engine, "stream", noted)
    handle = docker.started(*STUBBORN)
    assert docker.stop(handle, 20).observation is None
    assert "attach" in attached
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "agora-docker-stream"])
    docker.provider.kill(handle)
