"""A client of the emulated ECS: boto3 over HTTP, and the host's processes."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from agora_conformance.emulators.ecs import EcsEmulator
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

Object = dict[str, Any]
GROUP = "/agora"
ROLE = "arn:aws:iam::123456789012:role/execution"
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"], "securityGroups": ["sg-1"]}}
READY = "echo ready; while :; do sleep 0.05; done"
STUBBORN, TRAPS = f"trap '' TERM; {READY}", f"trap 'echo bye; exit 42' TERM; {READY}"
#: Seconds for anything that has to happen.
PATIENCE = 50.0


class Ecs:
    """Talks to one emulator."""

    def __init__(self, emulator: EcsEmulator) -> None:
        self.emulator = emulator
        where = {
            "endpoint_url": emulator.url,
            "region_name": emulator.region,
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
            "config": Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=50),
        }
        session = boto3.session.Session()
        self.ecs = session.client("ecs", **where)
        self.logs = session.client("logs", **where)
        self.secrets = session.client("secretsmanager", **where)
        self.queues = session.client("sqs", **where)

    def close(self) -> None:
        """Close the connections."""
        for client in (self.ecs, self.logs, self.secrets, self.queues):
            client.close()

    def definition(self, program: str | None = READY, *, more: list[Object] | None = None, **about: Any) -> str:
        """Register a task definition of one shell program, and return its ARN."""
        options = {"awslogs-group": GROUP, "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "agora"}
        container: Object = {
            "name": "main",
            "image": "any:1",
            "stopTimeout": 100 if program == TRAPS else 5,
            "linuxParameters": {"initProcessEnabled": True},
            "logConfiguration": {"logDriver": "awslogs", "options": {**options, "mode": "blocking"}},
        }
        if program is not None:
            container |= {"entryPoint": ["/bin/sh", "-c"], "command": [program]}
        container |= about.pop("container", {})
        request: Object = {
            "family": f"family-{uuid.uuid4().hex[:8]}",
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "cpu": "256",
            "memory": "512",
            "executionRoleArn": ROLE,
            "containerDefinitions": [container, *(more or [])],
        }
        found = self.ecs.register_task_definition(**(request | about))
        return str(found["taskDefinition"]["taskDefinitionArn"])

    def request(self, definition: str, **about: Any) -> Object:
        """Return a RunTask request."""
        return {
            "cluster": "default",
            "taskDefinition": definition,
            "launchType": "FARGATE",
            "networkConfiguration": NETWORK,
        } | about

    def start(self, program: str | None = READY, *, until: str = "RUNNING", **about: Any) -> str:
        """Run a shell program in a task, wait for its status, and return its ARN."""
        container, more = about.pop("container", {}), about.pop("more", None)
        request = self.request(self.definition(program, container=container, more=more), **about)
        (task,) = self.ecs.run_task(**request)["tasks"]
        arn = str(task["taskArn"])
        if until:
            self.reaches(arn, until)
        if until == "RUNNING" and program in (READY, STUBBORN, TRAPS):
            self.until(lambda: "ready" in self.output(arn))
        return arn

    def task(self, arn: str, **about: Any) -> Object:
        """Return a task as DescribeTasks tells it."""
        (found,) = self.ecs.describe_tasks(tasks=[arn], **about)["tasks"]
        return dict(found)

    def main(self, arn: str) -> Object:
        """Return the first container of a task."""
        return dict(self.task(arn)["containers"][0])

    def reaches(self, arn: str, status: str) -> Object:
        """Wait for a status that lasts, and return the task as it was then."""
        seen: list[Object] = []

        def there() -> bool:
            seen[:] = [self.task(arn)]
            return bool(seen[0]["lastStatus"] == status)

        self.until(there)
        return seen[0]

    def output(self, arn: str, container: str = "main") -> list[str]:
        """Return the lines of a container that can be read by now."""
        stream = f"agora/{container}/{arn.rpartition('/')[2]}"
        try:
            found = self.logs.get_log_events(logGroupName=GROUP, logStreamName=stream, startFromHead=True)
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in found["events"]]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)

    def gone(self, pids: list[int]) -> None:
        """Wait until processes are gone from the host."""
        self.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    def raw(self, target: str, body: Any, **headers: str) -> tuple[int, Object]:
        """Send a request that no SDK has looked at; return the status and the answer."""
        request = urllib.request.Request(self.emulator.url, method="POST")
        request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in {
            "X-Amz-Target": target,
            "Content-Type": "application/x-amz-json-1.1",
            "Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/eu-central-1/ecs/aws4_request",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


def refused(call: Callable[..., Any], kind: str, words: str, **request: Any) -> Object:
    """Check that a request is answered with an error, and return the whole answer."""
    with pytest.raises(ClientError) as caught:
        call(**request)
    answer: Object = caught.value.response
    assert answer["Error"]["Code"] == kind, answer["Error"]
    assert words in answer["Error"]["Message"], answer["Error"]
    return answer
