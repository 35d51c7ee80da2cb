"""Channels, in memory and over Redis: over a real server where there is one, and over one that speaks as it does."""

import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agora.worker import MemoryChannel, MemoryHub, Released, Subscription
from agora.worker.redis import Address, Connection, RedisChannel, RedisError, RedisStream

Start = Callable[..., Any]
Eventually = Callable[[Callable[[], Any]], Any]


class Spoken(socketserver.ThreadingTCPServer):
    """Speaks the part of RESP2 that is used here."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Speaker)
        self.lock = threading.Lock()
        self.subscribed: dict[bytes, list[_Speaker]] = {}
        self.streams: dict[bytes, list[bytes]] = {}
        self.passwords: list[list[bytes]] = []


class _Speaker(socketserver.StreamRequestHandler):
    server: Spoken

    def handle(self) -> None:
        try:
            while head := self.rfile.readline():
                self.answer([self._word() for _ in range(int(head[1:]))])
        except OSError:
            pass
        finally:
            with self.server.lock:
                for speakers in self.server.subscribed.values():
                    if self in speakers:
                        speakers.remove(self)

    def _word(self) -> bytes:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:-2]

    def answer(self, words: list[bytes]) -> None:
        """Answer a command."""
        server = self.server
        with server.lock:
            match words:
                case [b"AUTH", *login]:
                    server.passwords.append(login)
                    self.wfile.write(b"+OK\r\n" if login[-1] == b"right" else b"-WRONGPASS invalid password\r\n")
                case [b"SELECT", _]:
                    self.wfile.write(b"+OK\r\n")
                case [b"XADD", stream, b"MAXLEN", b"~", _, b"*", b"event", event]:
                    server.streams.setdefault(stream, []).append(event)
                    self.wfile.write(b"$3\r\n1-0\r\n")
                case [b"SUBSCRIBE", topic]:
                    server.subscribed.setdefault(topic, []).append(self)
                    self.wfile.write(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(topic), topic))
                case [b"PUBLISH", topic, message]:
                    heard = server.subscribed.get(topic, [])
                    for speaker in heard:
                        packed = b"".join(b"$%d\r\n%b\r\n" % (len(x), x) for x in (b"message", topic, message))
                        with suppress(OSError):  # one that went away, and whose thread has not seen it yet
                            speaker.wfile.write(b"*3\r\n" + packed)
                    self.wfile.write(b":%d\r\n" % len(heard))
                case _:
                    self.wfile.write(b"-ERR unknown command\r\n")


@pytest.fixture
def spoken() -> Iterator[Spoken]:
    """A server that speaks as Redis does."""
    with Spoken() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def real(tmp_path: Path, eventually: Eventually) -> Iterator[str]:
    """The address of a real server of this test's own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("not tested: a real Redis: there is no redis-server")
    processes: list[subprocess.Popen[bytes]] = []

    def begun() -> str | None:
        """Start one; return its address, or null where somebody else has taken its port meanwhile."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        eventually(lambda: processes[-1].poll() is not None or answers(port))
        return f"redis://127.0.0.1:{port}" if answers(port) else None

    def answers(port: int) -> bool:
        """Whether this test's own server is at a port, and no other."""
        try:
            connection = Connection(Address(f"redis://127.0.0.1:{port}"), 1)
        except OSError:
            return False
        try:
            return connection.command("CONFIG", "GET", "dir", seconds=5) == [b"dir", str(tmp_path).encode()]
        except OSError:
            return False
        finally:
            connection.close()

    try:
        yield eventually(begun)
    finally:
        for process in processes:
            process.terminate()
            process.wait(50)


@pytest.fixture(params=["memory", "spoken", "real"])
def channels(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """Give a maker of channels that hear each other."""
    made: list[Any] = []
    if request.param == "memory":
        hub = MemoryHub()
    elif request.param == "spoken":
        server: Spoken = request.getfixturevalue("spoken")
        url = f"redis://127.0.0.1:{server.server_address[1]}"
    else:
        url = request.getfixturevalue("real")

    def make() -> Any:
        made.append(MemoryChannel(hub) if request.param == "memory" else RedisChannel(url + "/0"))
        return made[-1]

    yield make
    for channel in made:
        channel.release()


def test_a_message_reaches_whoever_is_subscribed(channels: Callable[[], Any]) -> None:
    one, two = channels(), channels()
    first, second, other = one.subscribe("news"), two.subscribe("news"), two.subscribe("other")
    for number in range(50):
        one.publish("news", b"\r\n%d \0" % number)
    for subscription in (first, second):
        assert [subscription.get(10) for _ in range(50)] == [b"\r\n%d \0" % number for number in range(50)]
    assert other.get(0.05) is None


def test_release_wakes_who_waits_and_can_be_done_twice(channels: Callable[[], Any]) -> None:
    one, two = channels(), channels()
    subscription = one.subscribe("news")
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(Released):
            subscription.get()
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    one.release()
    one.release()
    assert ended.wait(50)
    thread.join()
    two.publish("news", b"too late")
    with pytest.raises(Released):
        subscription.get(1)
    with pytest.raises(Released):
        one.subscribe("news")
    with pytest.raises(Released):
        one.publish("news", b"x")


def test_the_server_knows_of_the_release(spoken: Spoken, eventually: Eventually) -> None:
    channel = RedisChannel(f"redis://127.0.0.1:{spoken.server_address[1]}/0")
    channel.subscribe("news")
    assert len(spoken.subscribed[b"news"]) == 1
    channel.release()
    eventually(lambda: not spoken.subscribed[b"news"])


def test_a_server_that_goes_away_is_said(spoken: Spoken) -> None:
    channel = RedisChannel(f"redis://127.0.0.1:{spoken.server_address[1]}/0")
    subscription = channel.subscribe("news")
    spoken.subscribed[b"news"][0].connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match="closed the connection"):
        subscription.get(10)
    channel.release()


def test_after_a_server_went_away_one_subscribes_anew(spoken: Spoken) -> None:
    channel = RedisChannel(f"redis://127.0.0.1:{spoken.server_address[1]}/0")
    broken = channel.subscribe("news")
    spoken.subscribed[b"news"][0].connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match="closed the connection"):
        broken.get(10)
    again = channel.subscribe("news")
    channel.publish("news", b"after")
    assert again.get(10) == b"after"
    with pytest.raises(OSError, match="closed the connection"):
        broken.get(1)
    channel.release()


def test_a_subscription_that_the_server_refuses_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"-NOPERM this user has no permission\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=refuse)
        thread.start()
        channel = RedisChannel(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        with pytest.raises(RedisError, match="NOPERM"):
            channel.subscribe("news")
        channel.release()
        thread.join()


@pytest.mark.parametrize("how", ["cancelled", "crashed", "succeeded"])
def test_a_worker_releases_once_whatever_the_end_is(program: Start, how: str) -> None:
    one = program(
        """
        import os, time
        from agora.worker import BlockingWorker, MemoryChannel, MemoryHub
        class Counted(MemoryChannel):
            def release(self):
                super().release()
                print("released", hub.count("news"), flush=True)
        hub = MemoryHub()
        with BlockingWorker() as worker:
            channel = Counted(hub)
            worker.use(channel)
            channel.subscribe("news")
            print("ready", hub.count("news"), flush=True)
            if os.environ["HOW"] == "cancelled":
                time.sleep(60)
            if os.environ["HOW"] == "crashed":
                raise ValueError
        """,
        HOW=how,
    )
    one.says("ready 1")
    if how == "cancelled":
        one.tell()
    assert one.ends() == {"cancelled": 143, "crashed": 1, "succeeded": 0}[how]
    assert one.output == "ready 1\nreleased 0\n"


# --- events into a stream --------------------------------------------------------------------------------------

TELL = """
import time
from agora.worker import BlockingWorker
with BlockingWorker() as worker:
    worker.progress(1)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_stream_takes_events(program: Start, spoken: Spoken, eventually: Eventually) -> None:
    url = f"redis://user:right@127.0.0.1:{spoken.server_address[1]}/2/agora:events"
    one = program(TELL, AGORA_WORKER_REDIS=url)
    one.says("ready")
    eventually(lambda: spoken.streams)  # later it has the time of one stage, and what did not go there is output
    one.tell()
    assert one.ends() == 143, one.errors()
    kinds = [b"dispatch.progress" in event for event in spoken.streams[b"agora:events"]]
    assert kinds == [True, False]
    assert b'"dispatch.cancelled"' in spoken.streams[b"agora:events"][1]
    assert spoken.passwords == [[b"user", b"right"]]
    assert one.events == []


def test_a_real_stream_takes_events(real: str) -> None:
    stream = RedisStream(real + "/1/agora:events")
    stream.send(b'{"one":1}', 5)
    stream.send(b'{"two":2}', 5)
    stream.close()
    connection = Connection(Address(real + "/1"), 5)
    entries = connection.command("XRANGE", "agora:events", "-", "+", seconds=5)
    connection.close()
    assert isinstance(entries, list)
    assert [entry[1] for entry in entries if isinstance(entry, list)] == [
        [b"event", b'{"one":1}'], [b"event", b'{"two":2}'],
    ]  # fmt: skip


def test_a_server_that_hangs_costs_no_more_than_its_stage(program: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:x@127.0.0.1:{silent.getsockname()[1]}/0/events"
        one = program(TELL, AGORA_WORKER_REDIS=url, AGORA_WORKER_GRACE="10")
        one.says("ready")
        begun = time.monotonic()
        one.tell()
        assert one.ends() == 143, one.errors()
        assert time.monotonic() - begun < 8
        assert len(one.told("dispatch.cancelled")) == 1, "it is in the output instead"


def test_a_refusal_and_a_stranger_are_errors(spoken: Spoken) -> None:
    url = f"redis://:wrong@127.0.0.1:{spoken.server_address[1]}/0/events"
    with pytest.raises(RedisError, match="invalid password") as refused:
        RedisStream(url).send(b"{}", 5)
    assert "wrong@" not in str(refused.value)
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def greet() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(OSError, match=r"no Redis|reset|closed"):
            RedisStream(f"redis://127.0.0.1:{stranger.getsockname()[1]}/0/events").send(b"{}", 5)
        thread.join()


@pytest.mark.parametrize("url", ["http://h/0/s", "redis:///0/s", "redis://h/x/s", "redis://h:port/0/s", "redis://h/0"])
def test_a_wrong_address_is_said_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="address of Redis") as wrong:
        RedisStream(url)
    assert url not in str(wrong.value)


def test_a_subscription_keeps_its_messages_until_they_are_asked_for() -> None:
    subscription = Subscription("news")
    subscription.put(b"one")
    assert (subscription.get(1), subscription.get(0.01)) == (b"one", None)
