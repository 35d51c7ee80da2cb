"""Events that a control plane received from a worker are handed in, and are as good as those from its output."""

import asyncio
import json
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, BlockingClient, EventType, State
from agora.config import Settings
from agora.errors import DispatchNotFound, InvalidRequest

Run = Callable[..., Any]
LOCAL = Settings(supervisor=False)


def event(id: str, number: int, kind: str = "dispatch.heartbeat", /, **data: Any) -> bytes:
    """Return an event as a worker sends it."""
    return json.dumps(
        {"id": f"abc.{number}", "type": kind, "subject": id, "sequence": number, "data": data, "specversion": "1.0"}
    ).encode()


def test_an_event_is_taken_in_once(home: Path, paper_settings: Callable[..., Settings]) -> None:
    with BlockingClient(home, settings=paper_settings()) as client:
        handle = client.dispatch(command=("true",), id="d1")
        assert client.hear(event("d1", 1, "dispatch.progress", done=1)) is True
        assert client.hear(event("d1", 1, "dispatch.progress", done=1)) is False
        assert client.hear(event("d1", 2)) is True
        told = [(one.type, one.data) for one in handle.events()][-2:]
        assert told == [(EventType.PROGRESS, {"done": 1}), (EventType.HEARTBEAT, {})]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"{", "JSON"),
        (b"[]", "JSON"),
        (b'{"id": "abc.1"}', "type"),
        (event("d1", 1).replace(b"abc.1", b"x"), "id"),
        (event("d1", 1, "dispatch.terminated", state="succeeded"), "for Agora itself to say"),
    ],
)
def test_what_is_no_event_of_a_worker_is_refused(
    home: Path, paper_settings: Callable[..., Settings], wrong: bytes, words: str
) -> None:
    with BlockingClient(home, settings=paper_settings()) as client:
        handle = client.dispatch(command=("true",), id="d1")
        before = list(handle.events())
        with pytest.raises(InvalidRequest, match=f"no event of a worker: .*{words}"):
            client.hear(wrong)
        with pytest.raises(DispatchNotFound):
            client.hear(event("d2", 1))
        assert list(handle.events()) == before


@pytest.fixture
def received() -> Iterator[tuple[str, list[bytes]]]:
    """A control plane's address, and what it received."""
    bodies: list[bytes] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", bodies
        server.shutdown()
        thread.join()


def test_a_control_plane_hands_in_what_workers_post_to_it(
    home: Path, run: Run, received: tuple[str, list[bytes]]
) -> None:
    url, bodies = received
    source = """
    import time
    from agora.worker import BlockingWorker
    with BlockingWorker() as worker:
        worker.progress(1, 2)
        time.sleep(600)
    """

    async def work() -> None:
        async with AgoraClient(home, settings=LOCAL) as client:
            handed = 0
            command = [sys.executable, "-c", textwrap.dedent(source)]
            handle = await client.dispatch(command=command, env={"AGORA_WORKER_URL": url}, grace=30)

            async def hand_in(wanted: EventType) -> None:
                nonlocal handed
                async with asyncio.timeout(40):
                    while wanted not in [event.type async for event in handle.events()]:
                        for body in bodies[handed:]:
                            handed += 1
                            assert await client.hear(body)
                        await asyncio.sleep(0.02)

            await hand_in(EventType.PROGRESS)
            await handle.cancel(reason="enough")
            record = await handle.wait(timeout=40)
            assert record.state is State.CANCELLED
            assert record.acknowledged is None, "its last word was not handed in yet"
            for body in bodies[handed:]:
                await client.hear(body)
            assert (await handle.get()).acknowledged is True

    run(work(), 100)
