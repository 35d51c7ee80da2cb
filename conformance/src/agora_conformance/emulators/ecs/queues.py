"""Queues of SQS, and the rule of EventBridge that sends what happens to tasks to one of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agora_conformance.emulators.ecs.account import ACCOUNT, Account
from agora_conformance.emulators.ecs.errors import ApiError, Object
from agora_conformance.emulators.ecs.task import Task

GONE = "The specified queue does not exist."
#: Seconds that a received message stays hidden, and messages of one answer (botocore: SQS).
VISIBILITY, AT_ONCE = 30, 10
#: How often a waiting receive looks.
PERIOD = 0.01


@dataclass
class Message:
    """One message.

    Parameters:
        body: what it says.
        visible: when it can be received, by the monotonic clock.
        receipt: of the last time that it was received.
    """

    body: str
    visible: float
    receipt: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Queue:
    """One queue.

    Parameters:
        name: of it.
        visibility: seconds that a received message stays hidden.
        messages: what has not been deleted.
    """

    name: str
    visibility: float = VISIBILITY
    messages: list[Message] = field(default_factory=list)


class Queues:
    """Answers requests about queues, and receives events.

    Parameters:
        account: whose queues they are.
        url: where the emulator answers.
    """

    def __init__(self, account: Account, url: Callable[[], str]) -> None:
        self._account, self._url = account, url
        self._queues: dict[str, Queue] = {}
        self._target = ""
        self.lost = 0
        self.repeated = 0
        self.delays: list[float] = []

    def send_events_to(self, name: str) -> None:
        """Send every state change of a task to a queue, as an EventBridge rule does."""
        self._queues.setdefault(name, Queue(name))
        self._target = name
        self._account.listeners.append(self._changed)

    def _changed(self, task: Task) -> None:
        if self.lost > 0:
            self.lost -= 1
            return
        delay = self.delays.pop(0) if self.delays else 0.0
        body = json.dumps(self._event(task))
        times = 1 + (self.repeated > 0)
        self.repeated -= self.repeated > 0
        messages = self._queues[self._target].messages
        messages += [Message(body, time.monotonic() + delay) for _ in range(times)]

    def _event(self, task: Task) -> Object:
        now = _told(self._account.clock.now())
        detail = {key: _told(value) if key.endswith("At") else value for key, value in task.look().items()}
        return {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": ACCOUNT,
            "time": now,
            "region": self._account.region,
            "resources": [task.arn],
            "detail": {**detail, "updatedAt": now},
        }

    def url(self, name: str) -> str:
        """Return the URL of a queue."""
        return f"{self._url()}/{ACCOUNT}/{name}"

    def _find(self, url: str) -> Queue:
        name = url.rpartition("/")[2]
        if name not in self._queues:
            query = "AWS.SimpleQueueService.NonExistentQueue;Sender"
            raise ApiError("com.amazonaws.sqs#QueueDoesNotExist", GONE, query=query)
        return self._queues[name]

    def create(self, body: Object) -> Object:
        """CreateQueue."""
        visibility = float(body.get("Attributes", {}).get("VisibilityTimeout", VISIBILITY))
        self._queues.setdefault(body["QueueName"], Queue(body["QueueName"], visibility))
        return {"QueueUrl": self.url(body["QueueName"])}

    def delete(self, body: Object) -> Object:
        """DeleteQueue."""
        del self._queues[self._find(body["QueueUrl"]).name]
        return {}

    def get_url(self, body: Object) -> Object:
        """GetQueueUrl."""
        return {"QueueUrl": self.url(self._find(body["QueueName"]).name)}

    def attributes(self, body: Object) -> Object:
        """GetQueueAttributes."""
        queue = self._find(body["QueueUrl"])
        now = time.monotonic()
        visible = sum(one.visible <= now for one in queue.messages)
        found = {
            "QueueArn": self._account.arn("sqs", queue.name),
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(len(queue.messages) - visible),
            "VisibilityTimeout": str(int(queue.visibility)),
        }
        wanted = body.get("AttributeNames", [])
        return {"Attributes": {key: value for key, value in found.items() if key in wanted or "All" in wanted}}

    async def receive(self, body: Object) -> Object:
        """ReceiveMessage; it waits for a message if that is asked for."""
        queue, most = self._find(body["QueueUrl"]), body.get("MaxNumberOfMessages", 1)
        if not 1 <= most <= AT_ONCE:
            raise ApiError("InvalidParameterValue", f"MaxNumberOfMessages must be between 1 and {AT_ONCE}.")
        wait = body.get("WaitTimeSeconds", 0)
        if not 0 <= wait <= 20:
            raise ApiError("InvalidParameterValue", "WaitTimeSeconds must be between 0 and 20.")
        end = time.monotonic() + wait
        # Messages also become visible by themselves, with time.
        while not (found := self._take(queue, most, body.get("VisibilityTimeout"))) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(PERIOD)
        return {"Messages": found} if found else {}

    @staticmethod
    def _take(queue: Queue, most: int, visibility: float | None) -> list[Object]:
        now = time.monotonic()
        taken = [one for one in queue.messages if one.visible <= now][:most]
        for one in taken:
            one.visible = now + (queue.visibility if visibility is None else visibility)
            one.receipt = uuid.uuid4().hex
        return [
            {
                "MessageId": one.id,
                "ReceiptHandle": one.receipt,
                "Body": one.body,
                "MD5OfBody": hashlib.md5(one.body.encode(), usedforsecurity=False).hexdigest(),
            }
            for one in taken
        ]

    def delete_message(self, body: Object) -> Object:
        """DeleteMessage; a receipt that is not known deletes nothing."""
        queue = self._find(body["QueueUrl"])
        queue.messages[:] = [one for one in queue.messages if one.receipt != body["ReceiptHandle"]]
        return {}

    def delete_messages(self, body: Object) -> Object:
        """DeleteMessageBatch."""
        queue = self._find(body["QueueUrl"])
        if len(body["Entries"]) > AT_ONCE:
            raise ApiError("TooManyEntriesInBatchRequest", f"Maximum number of entries per request are {AT_ONCE}.")
        receipts = {one["ReceiptHandle"] for one in body["Entries"]}
        queue.messages[:] = [one for one in queue.messages if one.receipt not in receipts]
        return {"Successful": [{"Id": one["Id"]} for one in body["Entries"]], "Failed": []}


def _told(at: float) -> str:
    """Write a time as events do."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
