"""Channels between workloads: subscribe, publish, release."""

from __future__ import annotations

import threading
from _queue import Empty, SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Channel(Protocol):
        """A way to other programs. Whoever ends releases it; a worker does so for every channel in its `use`."""

        def publish(self, topic: str, message: bytes) -> None:
            """Hand a message to everybody who is subscribed to a topic now.

            Raises:
                OSError: it could not be handed over.
                Released: the channel was released.
            """

        def subscribe(self, topic: str) -> Subscription:
            """Hear a topic from now on.

            Raises:
                OSError: that is not possible now.
                Released: the channel was released.
            """

        def release(self) -> object:
            """Let go of all subscriptions; whoever waits for a message wakes. Doing it again does nothing."""

else:
    Channel = object


class Released(Exception):
    """The channel was released: there will be no message."""


class Subscription:
    """The messages of one topic, in their order.

    Parameters:
        topic: which.
    Attributes:
        why: what broke, where it was not released by anybody; null else.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.why: Exception | None = None
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        self._released = False

    def get(self, seconds: float | None = None) -> bytes | None:
        """Wait for the next message.

        Parameters:
            seconds: how long at most; for ever by default, that is until the channel is released.
        Returns:
            the message, or None where none came in time.
        Raises:
            Released: there will be none.
            OSError: the channel broke.
        """
        if self._released:
            raise self.why or Released(self.topic)
        try:
            message = self._messages.get(timeout=seconds)
        except Empty:
            return None
        if message is None:
            self._messages.put(None)  # for the next one who waits
            raise self.why or Released(self.topic)
        return message

    def put(self, message: bytes) -> None:
        """Add a message; for those who make channels."""
        self._messages.put(message)

    def release(self, why: Exception | None = None) -> None:
        """Wake whoever waits; for those who make channels.

        Parameters:
            why: what broke, where it was not released by anybody.
        """
        self.why = self.why or why
        self._released = True
        self._messages.put(None)


class MemoryHub:
    """What the channels of one process have in common."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: dict[str, list[Subscription]] = {}

    def publish(self, topic: str, message: bytes) -> None:
        """Hand a message to a topic's subscribers."""
        with self._lock:
            for subscription in self._subscriptions.get(topic, ()):
                subscription.put(message)

    def add(self, subscription: Subscription) -> None:
        """Add a subscriber."""
        with self._lock:
            self._subscriptions.setdefault(subscription.topic, []).append(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscriber."""
        with self._lock:
            there = self._subscriptions.get(subscription.topic, [])
            if subscription in there:
                there.remove(subscription)
            if not there:
                self._subscriptions.pop(subscription.topic, None)

    def count(self, topic: str) -> int:
        """Return how many are subscribed to a topic."""
        with self._lock:
            return len(self._subscriptions.get(topic, ()))


class MemoryChannel(Channel):
    """A channel within one process, for tests and threads.

    Parameters:
        hub: what it shares with others; one of its own by default.
    """

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self._hub = hub or MemoryHub()
        self._own: list[Subscription] = []
        self._released = False

    def publish(self, topic: str, message: bytes) -> None:
        """Hand a message to everybody who is subscribed now."""
        self._check(topic)
        self._hub.publish(topic, message)

    def subscribe(self, topic: str) -> Subscription:
        """Hear a topic from now on."""
        self._check(topic)
        subscription = Subscription(topic)
        self._own.append(subscription)
        self._hub.add(subscription)
        return subscription

    def release(self) -> None:
        """Let go of all subscriptions of this channel."""
        self._released = True
        while self._own:
            subscription = self._own.pop()
            self._hub.remove(subscription)
            subscription.release()

    def _check(self, topic: str) -> None:
        if self._released:
            raise Released(topic)
