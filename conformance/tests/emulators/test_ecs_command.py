"""The emulated ECS from the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from ecs_account import NETWORK

PATIENCE = 50.0


class Served:
    """An emulator in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "agora_conformance", "emulator", "ecs", "--scale", "0.01"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]
        self.variables = dict(self.process.stdout.readline().split()[-1].split("=", 1) for _ in range(6))

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/emulator/{path}", timeout=20) as response:
            return json.load(response)

    def post(self, path: str, **body: Any) -> None:
        request = urllib.request.Request(f"{self.url}/emulator/{path}", data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.process.kill()
    made.process.wait()
    assert made.process.stdout is not None
    made.process.stdout.close()


def test_a_client_needs_nothing_but_the_variables(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in served.variables.items():
        monkeypatch.setenv(name, value)
    client = boto3.session.Session().client("ecs")
    container = {"name": "main", "image": "any:1", "command": ["sleep", "600"]}
    made = client.register_task_definition(
        family="work", requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256", memory="512",
        containerDefinitions=[container],
    )["taskDefinition"]["taskDefinitionArn"]  # fmt: skip
    request = {"taskDefinition": made, "launchType": "FARGATE", "networkConfiguration": NETWORK}
    (task,) = client.run_task(**request, startedBy="me")["tasks"]
    end = time.monotonic() + PATIENCE
    while not (pids := served.get("processes?task=me")["processes"]):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert served.get(f"terms?task={task['taskArn']}")["terms"] == []
    served.post("faults/throttle", times=1, action="ListTasks")
    client.list_tasks()  # the SDK tries again
    assert served.get("processes?task=nobody")["processes"] == []
    client.close()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(50) == 0
    end = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_options_of_other_backends_are_refused() -> None:
    command = [sys.executable, "-m", "agora_conformance", "emulator", "ecs", "--acl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, "no such option" in done.stderr) == (2, True)
