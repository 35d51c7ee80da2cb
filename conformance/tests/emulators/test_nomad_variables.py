"""Variables, templates that read them, and remarks beside a job: as documented, not yet seen on a real agent."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from agora_conformance.emulators.nomad import NomadEmulator, Timing

POLICY = """
namespace "default" {
  capabilities = ["submit-job", "read-job", "list-jobs", "read-logs"]
  variables {
    path "nomad/jobs/mine-*" { capabilities = ["%s"] }
  }
}
"""
TRAPS = "trap 'exit 42' TERM; while :; do sleep 0.05; done"


def eventually(look: Callable[[], Any], within: float = 50.0) -> None:
    until = time.monotonic() + within
    while not look():
        assert time.monotonic() < until, f"not within {within} s"
        time.sleep(0.05)


class Client:
    """Talks to an emulator with a token."""

    def __init__(self, emulator: NomadEmulator, token: str = "") -> None:
        self.emulator, self.token = emulator, token or emulator.management_token

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(self.emulator.url + path, method=method)
        request.data = None if body is None else json.dumps(body).encode()
        request.add_header("X-Nomad-Token", self.token)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, _read(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _read(error.read())

    def put(self, path: str, query: str = "", **items: str) -> tuple[int, Any]:
        return self.call("PUT", f"/v1/var/{path}{query}", {"Items": items})

    def job(self, script: str, template: str, *, id: str, group: str = "main", **more: Any) -> None:
        templates = [{
            "EmbeddedTmpl": template, "DestPath": "secrets/env", "Envvars": True, "ChangeMode": "noop",
            "Perms": "0400",
        }]  # fmt: skip
        task = {
            "Name": "main", "Driver": "raw_exec", "Config": {"command": "/bin/sh", "args": ["-c", script]},
            "KillSignal": "SIGTERM", "Templates": templates, **more,
        }  # fmt: skip
        body = {"ID": id, "Type": "batch", "TaskGroups": [{
            "Name": group, "RestartPolicy": {"Attempts": 0}, "ReschedulePolicy": {"Attempts": 0}, "Tasks": [task],
        }]}  # fmt: skip
        status, answer = self.call("POST", "/v1/jobs", {"Job": body})
        assert status == 200, answer

    def task(self, id: str) -> dict[str, Any]:
        _, found = self.call("GET", f"/v1/job/{id}/allocations")
        states = (found[0]["TaskStates"] or {}) if found else {}
        state: dict[str, Any] = states.get("main") or {"State": "", "Events": []}
        return state

    def over(self, id: str) -> bool:
        return bool(self.task(id)["State"] == "dead")

    def says(self, id: str, event: str) -> bool:
        return event in [one["Type"] for one in self.task(id)["Events"]]

    def output(self, id: str) -> Any:
        _, found = self.call("GET", f"/v1/job/{id}/allocations")
        return self.call("GET", f"/v1/client/fs/logs/{found[0]['ID']}?task=main&type=stdout&plain=true")[1]


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@pytest.fixture(scope="module")
def emulator() -> Iterator[NomadEmulator]:
    with NomadEmulator(acl=True, timing=Timing().scaled(0.3)) as cluster:
        yield cluster


@pytest.fixture
def client(emulator: NomadEmulator) -> Client:
    return Client(emulator)


@pytest.fixture
def job() -> str:
    return f"mine-{uuid.uuid4().hex[:8]}"


# -- the API -----------------------------------------------------------------------------------------------------


def test_a_variable_is_written_read_and_removed(client: Client, job: str) -> None:
    path = f"nomad/jobs/{job}/main"
    status, made = client.put(path, a="1", b="two\nlines")
    assert (status, made["Path"], made["Items"]) == (200, path, {"a": "1", "b": "two\nlines"})
    assert client.call("GET", f"/v1/var/{path}") == (200, made)
    status, listed = client.call("GET", f"/v1/vars?prefix=nomad/jobs/{job}")
    assert (status, [one["Path"] for one in listed], "Items" in listed[0]) == (200, [path], False)
    assert client.call("DELETE", f"/v1/var/{path}") == (204, "")
    assert client.call("DELETE", f"/v1/var/{path}") == (204, ""), "what is not there is no error"
    assert client.call("GET", f"/v1/var/{path}") == (404, "variable not found")
    assert client.call("GET", f"/v1/vars?prefix=nomad/jobs/{job}") == (200, [])


def test_a_write_can_depend_on_what_was_seen(client: Client, job: str) -> None:
    path = f"nomad/jobs/{job}"
    assert client.put(path, "?cas=0", a="1")[0] == 200
    status, conflict = client.put(path, "?cas=0", a="2")
    assert (status, conflict["Items"]) == (409, {"a": "1"})
    seen = conflict["ModifyIndex"]
    assert client.put(path, f"?cas={seen + 1}", a="2")[0] == 409
    assert client.put(path, f"?cas={seen}", a="2")[0] == 200
    assert client.call("DELETE", f"/v1/var/{path}?cas={seen}")[0] == 409
    assert client.call("GET", f"/v1/var/{path}")[1]["Items"] == {"a": "2"}
    assert client.call("DELETE", f"/v1/var/{path}?cas=no")[0] == 400
    assert client.call("DELETE", f"/v1/var/{path}")[0] == 204
    status, conflict = client.put(path, "?cas=5", a="2")
    assert (status, conflict["ModifyIndex"]) == (409, 0)


@pytest.mark.parametrize(
    ("path", "items", "status", "words"),
    [
        ("nomad/jobs/x", {}, 400, "variable missing required Items object"),
        ("nomad/jobs/x", {"a": "x" * 65_536}, 500, "variables are limited to 64KiB in total size"),
        ("nomad/other", {"a": "x"}, 500, "only paths at"),
        ("a.b", {"a": "x"}, 500, 'invalid path "a.b"'),
        ("x" * 129, {"a": "x"}, 500, "invalid path"),
    ],
)
def test_what_no_variable_can_be(client: Client, path: str, items: dict[str, str], status: int, words: str) -> None:
    answer = client.put(path, **items)
    assert answer[0] == status
    assert words in answer[1]
    assert client.put("nomad/jobs/full", a="x" * 65_535)[0] == 200


@pytest.mark.parametrize("capability", ["write", "destroy", "list", "read"])
def test_rights_are_by_path(emulator: NomadEmulator, client: Client, job: str, capability: str) -> None:
    path = f"nomad/jobs/{job}"
    client.put(path, a="1")
    poor = Client(emulator, emulator.token(POLICY % capability))
    assert (poor.put(path, a="2")[0] == 200) is (capability == "write")
    listed = poor.call("GET", "/v1/vars")
    assert listed[0] == 200, "what may not be listed is left out, and no error"
    assert (path in [one["Path"] for one in listed[1]]) is (capability in ("list", "read"))
    assert (poor.call("GET", f"/v1/var/{path}")[0] == 200) is (capability == "read")
    assert (poor.call("DELETE", f"/v1/var/{path}")[0] == 204) is (capability == "destroy")
    assert poor.call("GET", "/v1/var/nomad/jobs/other")[0] == 403
    assert poor.call("PUT", "/v1/var/nomad/jobs/other", {"Items": {"a": "1"}})[0] == 403


def test_a_conflict_shows_nothing_to_those_who_may_not_read(emulator: NomadEmulator, client: Client, job: str) -> None:
    client.put(f"nomad/jobs/{job}", a="hidden")
    status, conflict = Client(emulator, emulator.token(POLICY % "write")).put(f"nomad/jobs/{job}", "?cas=0", a="2")
    assert (status, conflict["Items"], conflict["ModifyIndex"] > 0) == (409, None, True)


# -- templates ---------------------------------------------------------------------------------------------------


def test_a_template_reads_the_variables_of_its_job_as_they_are(client: Client, job: str) -> None:
    odd = 'TOKEN="a\\nb {{ env \\"HOME\\" }} ${HOME} \\u00e9"\n'
    client.put(f"nomad/jobs/{job}/main/main", environment=odd, other="x")
    text = f'{{{{with nomadVar "nomad/jobs/{job}/main/main"}}}}{{{{.environment}}}}O={{{{ .other }}}}{{{{end}}}}'
    client.job('printf "%s|%s" "$TOKEN" "$O"; ls -l "$NOMAD_SECRETS_DIR"/env | cut -c1-10', text, id=job)
    eventually(partial(client.over, job))
    assert client.output(job) == 'a\nb {{ env "HOME" }} ${HOME} é|x-r--------\n'


@pytest.mark.parametrize("own", [True, False])
def test_a_task_reads_nothing_else(client: Client, job: str, own: bool) -> None:
    path = f"nomad/jobs/{job}" if own else "nomad/jobs/another"
    client.put(path, a="A=1")
    client.job("exit 7", f'{{{{with nomadVar "{path}"}}}}{{{{.a}}}}{{{{end}}}}', id=job)
    eventually(partial(client.over, job))
    assert client.says(job, "Started") is own
    told = [one["DisplayMessage"] for one in client.task(job)["Events"] if "Template failed" in one["DisplayMessage"]]
    assert bool(told) is not own


def test_a_task_waits_for_its_variable_and_can_be_stopped_meanwhile(client: Client, job: str) -> None:
    text = f'{{{{with nomadVar "nomad/jobs/{job}"}}}}{{{{.a}}}}{{{{end}}}}'
    client.job("exit 7", text, id=job)
    stopped = f"{job}-stopped"
    client.job("exit 7", text.replace(job, stopped), id=stopped)
    for one in (job, stopped):
        eventually(partial(client.says, one, "Template"))
    assert client.task(job)["State"] == "pending"
    (waits,) = [one for one in client.task(job)["Events"] if one["Type"] == "Template"]
    assert waits["DisplayMessage"] == f"Missing: nomad.var.block(nomad/jobs/{job}@default.global)"
    client.call("DELETE", f"/v1/job/{stopped}")
    client.put(f"nomad/jobs/{job}", a="A=1")
    for one in (job, stopped):
        eventually(partial(client.over, one))
    assert client.says(job, "Started")
    assert not client.says(stopped, "Started")


# -- remarks -----------------------------------------------------------------------------------------------------


def test_a_scaling_event_without_a_count_changes_nothing_but_itself(client: Client, job: str) -> None:
    client.job(TRAPS, "", id=job)
    eventually(lambda: client.task(job)["State"] == "running")
    _, before = client.call("GET", f"/v1/job/{job}")
    evaluations = client.call("GET", f"/v1/job/{job}/evaluations")[1]
    body = {"Target": {"Group": "main"}, "Message": "why", "Meta": {"actor": "a"}}
    status, answer = client.call("POST", f"/v1/job/{job}/scale", body)
    assert (status, answer["EvalID"], answer["JobModifyIndex"]) == (200, "", before["ModifyIndex"])
    assert client.call("GET", f"/v1/job/{job}")[1] == before
    assert client.call("GET", f"/v1/job/{job}/evaluations")[1] == evaluations
    shown = client.call("GET", f"/v1/job/{job}/scale")[1]
    (event,) = shown["TaskGroups"]["main"]["Events"]
    assert (event["Message"], event["Meta"], event["Count"], event["EvalID"]) == ("why", {"actor": "a"}, None, None)
    client.call("DELETE", f"/v1/job/{job}?purge=true")
    assert client.call("GET", f"/v1/job/{job}/scale") == (404, "job not found")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "missing task group name for scaling action"),
        ({"Target": {"Group": "other"}}, 400, 'task group "other" specified for scaling does not exist in job'),
    ],
)
def test_a_remark_needs_a_group(client: Client, job: str, body: dict[str, Any], status: int, words: str) -> None:
    client.job("exit 0", "", id=job)
    assert client.call("POST", f"/v1/job/{job}/scale", body) == (status, words)
    unknown = {"Target": {"Group": "main"}}
    assert client.call("POST", "/v1/job/unknown/scale", unknown) == (404, 'job "unknown" not found')


def test_a_remark_needs_the_right(emulator: NomadEmulator, client: Client, job: str) -> None:
    client.job("exit 0", "", id=job)
    reader = Client(emulator, emulator.token('namespace "default" { capabilities = ["read-job"] }'))
    assert reader.call("POST", f"/v1/job/{job}/scale", {"Target": {"Group": "main"}})[0] == 403
    assert reader.call("GET", f"/v1/job/{job}/scale")[0] == 200
