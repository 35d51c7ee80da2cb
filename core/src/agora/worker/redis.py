"""Events into a Redis stream, and channels over Redis.

It speaks the few words of RESP2 (the protocol of every Redis since 1.2) that are needed, so that the image of a
workload needs no client library.
"""

from __future__ import annotations

import socket
import threading
import time

from agora.worker.channels import Channel, Released, Subscription

TYPE_CHECKING = False
if TYPE_CHECKING:
    Reply = bytes | int | list["Reply"] | None

#: A stream keeps about so many events; Redis drops the oldest.
STREAM_EVENTS = 100_000
#: How long a channel waits for an answer, in seconds.
ANSWER_SECONDS = 5.0
_MOST_BYTES = 64 * 1024 * 1024


class RedisError(ConnectionError):
    """The server refused a command, or answered what is no answer."""


class Address:
    """Where a server is, and what is wanted there.

    Parameters:
        url: `redis://[[USER]:PASSWORD@]HOST[:PORT]/DATABASE[/NAME]`, or `rediss` with TLS.
    Raises:
        ValueError: it is no such address; the message does not repeat it.
    """

    def __init__(self, url: str) -> None:
        from urllib.parse import unquote, urlsplit

        wrong = "no address of Redis: redis://[[USER]:PASSWORD@]HOST[:PORT]/DATABASE[/NAME]"
        try:
            parts = urlsplit(url)
            self.host, self.port = parts.hostname or "", parts.port or 6379
        except ValueError:
            raise ValueError(wrong) from None
        database, _, self.name = parts.path.strip("/").partition("/")
        if parts.scheme not in ("redis", "rediss") or not self.host or not (database or "0").isdecimal():
            raise ValueError(wrong)
        self.database = int(database or 0)
        self.secure = parts.scheme == "rediss"
        self.login = [unquote(part) for part in (parts.username, parts.password) if part]


class Connection:
    """One connection to a server.

    Parameters:
        address: where it is.
        seconds: how long it may take to be there.
    Raises:
        OSError: it is not reachable, or refuses.
    """

    def __init__(self, address: Address, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._socket = socket.create_connection((address.host, address.port), timeout=seconds)
        self._buffer = b""
        try:
            if address.secure:
                import ssl

                context = ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=address.host)
            if address.login:
                self.command("AUTH", *address.login, seconds=until - time.monotonic())
            if address.database:
                self.command("SELECT", str(address.database), seconds=until - time.monotonic())
        except BaseException:
            self.close()
            raise

    def command(self, *words: str | bytes, seconds: float) -> Reply:
        """Send a command and wait for its answer.

        Raises:
            RedisError: it was refused.
            OSError: no answer in time.
        """
        until = time.monotonic() + seconds
        self.send(*words, seconds=seconds)
        return self.read(until)

    def send(self, *words: str | bytes, seconds: float) -> None:
        """Send a command."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        packed = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        self._socket.settimeout(max(seconds, 0.001))
        self._socket.sendall(b"*%d\r\n%b" % (len(parts), packed))

    def read(self, until: float | None = None) -> Reply:
        """Read one answer.

        Parameters:
            until: when to give up, by the monotonic clock; never by default.
        """
        line = self._line(until)
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RedisError(f"Redis refused: {rest.decode(errors='replace')}")
        try:
            number = int(rest)
        except ValueError:
            number = -2
        if kind == b":":
            return number
        if kind not in (b"$", b"*") or not -1 <= number <= _MOST_BYTES:
            raise RedisError("what answers there is no Redis")
        if number == -1:
            return None
        if kind == b"$":
            return self._take(number + 2, until)[:-2]
        return [self.read(until) for _ in range(number)]

    def _line(self, until: float | None) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill(until)
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, count: int, until: float | None) -> bytes:
        while len(self._buffer) < count:
            self._fill(until)
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _fill(self, until: float | None) -> None:
        self._socket.settimeout(None if until is None else max(until - time.monotonic(), 0.001))
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("Redis closed the connection")
        self._buffer += data

    def close(self) -> None:
        """Let go of it, at once; whoever waits for an answer wakes."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was closed by the other side
        self._socket.close()


class RedisStream:
    """A stream that takes events, each in the field `event` as CloudEvents JSON.

    Parameters:
        url: the server, with the name of the stream.
    Raises:
        ValueError: no such address.
    """

    def __init__(self, url: str) -> None:
        self._address = Address(url)
        if not self._address.name:
            raise ValueError("the address of Redis has no stream: redis://HOST/DATABASE/STREAM")
        self._connection: Connection | None = None

    def send(self, event: bytes, seconds: float) -> None:
        """Add an event."""
        until = time.monotonic() + seconds
        try:
            if self._connection is None:
                self._connection = Connection(self._address, seconds)
            self._connection.command(
                *("XADD", self._address.name, "MAXLEN", "~", str(STREAM_EVENTS), "*", "event", event),
                seconds=until - time.monotonic(),
            )
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next event opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class RedisChannel(Channel):
    """A channel over Redis: a message reaches whoever is subscribed at that moment, and is kept for nobody.

    Parameters:
        url: `redis://[[USER]:PASSWORD@]HOST[:PORT]/DATABASE`, or `rediss` with TLS.
    Raises:
        ValueError: no such address.
    """

    def __init__(self, url: str) -> None:
        self._address = Address(url)
        self._lock = threading.Lock()
        self._released = False
        self._out: Connection | None = None
        self._in: Connection | None = None
        self._subscriptions: list[Subscription] = []
        self._confirmed: dict[bytes, threading.Event] = {}

    def publish(self, topic: str, message: bytes) -> None:
        """Hand a message to everybody who is subscribed now."""
        with self._lock:
            self._check(topic)
            try:
                if self._out is None:
                    self._out = Connection(self._address, ANSWER_SECONDS)
                self._out.command("PUBLISH", topic, message, seconds=ANSWER_SECONDS)
            except OSError:
                if self._out is not None:
                    self._out.close()
                    self._out = None
                self._check(topic)
                raise

    def subscribe(self, topic: str) -> Subscription:
        """Hear a topic; from the return on no message is missed, unless the server is.

        What was subscribed before the server went away stays broken; subscribing anew connects anew.
        """
        subscription = Subscription(topic)
        with self._lock:
            self._check(topic)
            if self._in is None:
                self._in = Connection(self._address, ANSWER_SECONDS)
                threading.Thread(target=self._hear, args=(self._in,), name="agora-redis", daemon=True).start()
            confirmed = self._confirmed.setdefault(topic.encode(), threading.Event())
            self._in.send("SUBSCRIBE", topic, seconds=ANSWER_SECONDS)
            self._subscriptions.append(subscription)
        if not confirmed.wait(ANSWER_SECONDS):
            with self._lock:
                if subscription in self._subscriptions:
                    self._subscriptions.remove(subscription)
            raise TimeoutError(f"Redis confirmed no subscription within {ANSWER_SECONDS:g} s")
        self._check(topic)
        if subscription.why is not None:
            raise subscription.why
        return subscription

    def release(self) -> None:
        """Let go of all subscriptions: the connections are closed, which no server can hold up."""
        self._released = True
        for connection in (self._in, self._out):
            if connection is not None:
                connection.close()
        self._end(None)

    def _end(self, why: OSError | None) -> None:
        for subscription in self._subscriptions:
            subscription.release(why)
        for confirmed in list(self._confirmed.values()):
            confirmed.set()

    def _check(self, topic: str) -> None:
        if self._released:
            raise Released(topic)

    def _hear(self, connection: Connection) -> None:
        try:
            while True:
                match connection.read():
                    case [b"message", bytes(topic), bytes(message)]:
                        for subscription in self._subscriptions:
                            if subscription.topic.encode() == topic:
                                subscription.put(message)
                    case [b"subscribe", bytes(topic), _]:
                        self._confirmed[topic].set()
        except (OSError, ValueError) as error:
            if not self._released:
                why = error if isinstance(error, OSError) else ConnectionError(str(error))
                connection.close()
                with self._lock:
                    self._end(why)
                    self._in, self._subscriptions, self._confirmed = None, [], {}
