"""Events of EventBridge, read from a queue of SQS: hints that a task has changed, and nothing more.

They come at least once, in any order, and some not at all; another process may have taken them from the queue.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agora_fargate.api import Api
from agora_fargate.names import Item

DETAIL_TYPE = "ECS Task State Change"
#: "the maximum number of messages to return: 1 to 10" (botocore's SQS model, ReceiveMessage).
_AT_ONCE = 10


def task_of(body: str) -> str | None:
    """Return the ARN of the task that a message tells of; null for any other message."""
    try:
        event = json.loads(body)
        if event["detail-type"] != DETAIL_TYPE:
            return None
        return str(event["detail"]["taskArn"])
    except (ValueError, KeyError, TypeError):
        return None


class Queue:
    """A queue that EventBridge writes to.

    Parameters:
        api: its region.
        url: of the queue.
    """

    def __init__(self, api: Api, url: str) -> None:
        self._api = api
        self._url = url

    def listen(self, seconds: float) -> Sequence[str]:
        """Return the tasks that changed; waits for a message at most `seconds`, and takes all out of the queue."""
        answer = self._api.call(
            "ReceiveMessage",
            background=True,
            QueueUrl=self._url,
            MaxNumberOfMessages=_AT_ONCE,
            WaitTimeSeconds=max(1, int(seconds)),
        )
        messages: list[Item] = answer.get("Messages") or []
        if not messages:
            return []
        entries = [{"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]} for number, one in enumerate(messages)]
        self._api.call("DeleteMessageBatch", background=True, QueueUrl=self._url, Entries=entries)
        return [arn for one in messages if (arn := task_of(one.get("Body", ""))) is not None]
