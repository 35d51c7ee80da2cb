"""The HTTP answers of a real API server, recorded, against those of the emulator: status, headers and body."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agora_conformance.emulators.k8s import K8sEmulator, Timing

RECORDING = Path(__file__).parent.parent / "recordings" / "kubernetes" / "http-answers.ndjson"
LINES = [json.loads(line) for line in RECORDING.read_text(encoding="utf-8").splitlines()]
#: What differs from run to run, or between clusters.
MASKS = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"too old resource version: \d+ \(\d+\)"), "too old resource version"),
    (re.compile(r"(agora-err-\w+?)-[a-z0-9]{5}\b"), r"\1-XXXXX"),
)
#: What the emulator does not tell, or tells of itself; and a number that the kubelet writes before the next request or
#: after it.
LEFT_OUT = {
    *("managedFields", "imageID", "containerID", "hostIP", "hostIPs", "podIP", "podIPs", "nodeName", "gitCommit"),
    *("resources", "data", "remainingItemCount", "observedGeneration"),
}
#: What must be there, with any value.
OPAQUE = {"resourceVersion", "continue"}


def masked(value: Any) -> Any:
    """Return an answer without what may differ."""
    if isinstance(value, dict):
        return {key: key if key in OPAQUE else masked(one) for key, one in value.items() if key not in LEFT_OUT}
    if isinstance(value, list):
        return [masked(one) for one in value]
    if isinstance(value, str):
        text = json.dumps(value)
        for pattern, mask in MASKS:
            text = pattern.sub(mask, text)
        return json.loads(text)
    return value


class Client:
    """Sends recorded requests; pods have other names here."""

    def __init__(self, emulator: K8sEmulator) -> None:
        self.emulator = emulator
        self.pods: dict[str, str] = {}
        self.token = ""

    def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        for recorded, here in self.pods.items():
            path = path.replace(recorded, here)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.emulator.url + path, data=data, method=method)
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, dict(response.headers), response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read().decode()

    def learn(self, recorded: str, here: str) -> None:
        """Pair the names of pods of the recording with those of this run."""
        pattern = re.compile(r"agora-err-\w+?-[a-z0-9]{5}\b")
        self.pods |= dict(zip(pattern.findall(recorded), pattern.findall(here), strict=False))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    timing = Timing()
    with K8sEmulator(timing=timing, missing=("localhost/none:*",), history=60, open=False) as emulator:
        token = emulator.token("admin")
        group, everything = "rbac.authorization.k8s.io", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
        head = {"apiVersion": f"{group}/v1", "metadata": {"name": "all"}}
        role = {"apiGroup": group, "kind": "ClusterRole", "name": "all"}
        user = {"apiGroup": group, "kind": "User", "name": "admin"}
        emulator.load(
            [
                {**head, "kind": "ClusterRole", "rules": [everything]},
                {**head, "kind": "ClusterRoleBinding", "subjects": [user], "roleRef": role},
            ]
        )
        for name in ("extension-apiserver-authentication", "other"):
            emulator.load(
                [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}], namespace="kube-system"
            )
        made = Client(emulator)
        made.token = token
        yield made


def comparable(title: str, body: Any) -> Any:
    """Return the part of an answer that a recording fixes."""
    body = masked(body)
    if title == "immutable change: patch template: 422":
        for holder in (body, *body["details"]["causes"]):
            holder["message"] = re.sub(
                r"Invalid value: .*: field is immutable", "VALUE: field is immutable", holder["message"]
            )
    if title == "field selector":  # the real cluster had other pods, too
        body["items"] = [one for one in body["items"] if one["metadata"]["name"].startswith("agora-err")]
        body["metadata"].pop("continue", None)
    return body


def difference(here: Any, there: Any, path: str = "") -> str:
    """Return the first place where two answers differ."""
    if isinstance(here, dict) and isinstance(there, dict):
        found = (difference(here.get(key), there.get(key), f"{path}.{key}") for key in sorted({*here, *there}))
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        found = (
            difference(one, other, f"{path}[{at}]") for at, (one, other) in enumerate(zip(here, there, strict=True))
        )
    else:
        return "" if here == there else f"{path}: {here!r} and not {there!r}"
    return next(filter(None, found), "")


def test_answers(client: Client) -> None:
    """All in one test, and in order: each answer depends on what was asked before."""
    for line in LINES:
        if "request" not in line:
            continue
        request = line["request"]
        wanted = line["body"]
        headers = {**(request.get("headers") or {"Content-Type": "application/json"}),
                   "Authorization": f"Bearer {client.token}"}  # fmt: skip
        end = time.monotonic() + 50
        while True:
            status, sent, text = client.send(request["method"], request["path"], request["body"], headers)
            body = json.loads(text) if text.startswith("{") and text.count("\n") < 2 else text
            if line["title"] == "watch with bookmarks, sendInitialEvents":
                body, wanted = ([json.loads(one) for one in raw.splitlines()] for raw in (text, line["body"]))
                for events in (body, wanted):
                    for event in events:
                        if event["type"] == "BOOKMARK":
                            event["object"].pop("spec", None), event["object"].pop("status", None)
            here, there = comparable(line["title"], body), comparable(line["title"], wanted)
            # What is only read may still be on its way there.
            problem = difference(here, there) or ("" if status == line["status"] else f"status {status}")
            if not problem or request["method"] != "GET" or time.monotonic() > end:
                break
            time.sleep(0.05)
        client.learn(json.dumps(line["body"]), text)
        assert not problem, f"{line['title']}: {problem}"
        assert sent.get("Warning") == line["headers"].get("Warning"), line["title"]


def test_anonymous(client: Client) -> None:
    line = next(line for line in LINES if line["title"] == "anonymous")
    status, _, text = client.send("GET", "/api/v1/namespaces/default/pods", None, {"Accept": "application/json"})
    assert (status, json.loads(text)) == (line["status"], line["body"])
