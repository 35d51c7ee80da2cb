"""The emulated cluster from the command line, and kubectl against it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KUBECTL = shutil.which("kubectl")
ROLE = """
apiVersion: v1
kind: Namespace
metadata: {name: runs}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: loaded, namespace: runs}
"""
JOB = {
    "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "labels": {"a": "b"}},
    "spec": {"backoffLimit": 0, "template": {"spec": {
        "restartPolicy": "Never", "shareProcessNamespace": True,
        "containers": [{"name": "main", "image": "any:1", "command": ["sh", "-c", "echo hello; exec sleep 600"]}],
    }}},
}  # fmt: skip
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Served:
    """An emulator in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "kubeconfig"
        manifest = folder / "objects.yaml"
        manifest.write_text(ROLE)
        command = [sys.executable, "-m", "agora_conformance", "emulator", "k8s", "--scale", "0.3"]
        command += ["--kubeconfig", str(self.config), "--manifest", str(manifest)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def get(self, path: str, accept: str = "application/json") -> Any:
        request = urllib.request.Request(self.url + path, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def create(self) -> None:
        path = "/apis/batch/v1/namespaces/default/jobs"
        request = urllib.request.Request(self.url + path, data=json.dumps(JOB).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 201
        end = time.monotonic() + 50
        while self.pods() != ["Running"]:
            assert time.monotonic() < end
            time.sleep(0.02)

    def pods(self) -> list[str]:
        return [one["status"]["phase"] for one in self.get("/api/v1/namespaces/default/pods")["items"]]

    def processes(self) -> list[int]:
        found: list[int] = self.get("/emulator/processes")["processes"]
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    assert made.process.stdout is not None
    made.process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_command_ends_with_its_containers(served: Served, number: signal.Signals) -> None:
    served.create()
    pids = served.processes()
    assert pids
    served.process.send_signal(number)
    assert served.process.wait(50) == (-number if number == signal.SIGKILL else 0)
    end = time.monotonic() + 50
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_manifests_are_loaded(served: Served) -> None:
    assert served.get("/api/v1/namespaces/runs/configmaps/loaded")["metadata"]["name"] == "loaded"
    config = json.loads(served.config.read_text())
    assert config["clusters"][0]["cluster"]["server"] == served.url


def test_discovery_and_tables_as_kubectl_asks_for_them(served: Served) -> None:
    served.create()
    groups = [group["name"] for group in served.get("/apis")["groups"]]
    assert "batch" in groups
    pods = next(one for one in served.get("/api/v1")["resources"] if one["name"] == "pods")
    assert (pods["kind"], pods["shortNames"], "watch" in pods["verbs"]) == ("Pod", ["po"], True)
    table = served.get("/api/v1/namespaces/default/pods", TABLE)
    assert [one["name"] for one in table["columnDefinitions"]] == ["Name", "Ready", "Status", "Restarts", "Age"]
    (row,) = table["rows"]
    assert row["cells"][1:3] == ["1/1", "Running"]
    assert row["object"]["metadata"]["labels"]["job-name"] == "work"
    assert served.get("/apis/batch/v1/namespaces/default/jobs/work", TABLE)["rows"][0]["cells"][1] == "Running"


@pytest.mark.skipif(KUBECTL is None, reason="not tested: kubectl is not installed")
def test_kubectl(served: Served, tmp_path: Path) -> None:
    def kubectl(*arguments: str, code: int = 0) -> str:
        assert KUBECTL is not None
        command = [KUBECTL, "--kubeconfig", str(served.config), "--cache-dir", str(tmp_path / "cache"), *arguments]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=environment, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    served.create()
    assert "Running" in kubectl("get", "pods")
    assert "job.batch/work" in kubectl("get", "all")
    limit = time.monotonic() + 50
    while (said := kubectl("logs", "job/work")) != "hello\n":
        assert time.monotonic() < limit, said
    assert "Created pod: work-" in kubectl("describe", "job", "work")
    described = kubectl("describe", "pods", "-l", "job-name=work")
    assert "Controlled By:  Job/work" in described
    assert "Container started: main" in described
    assert "deleted" in kubectl("delete", "pod", "-l", "job-name=work", "--grace-period=2")
    assert served.processes() == []
    limit = time.monotonic() + 50
    while "Failed" not in (jobs := kubectl("get", "jobs")):
        assert time.monotonic() < limit, jobs
    assert "deleted" in kubectl("delete", "job", "work")
    assert "NotFound" in kubectl("get", "job", "work", code=1)
