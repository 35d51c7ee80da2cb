"""What is known of a real Nomad agent beside whole recordings, and the faults: seen through HTTP and from outside."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from agora_conformance.emulators.nomad import Image, NomadEmulator, Timing

VALUES = Path(__file__).parent.parent / "recordings" / "nomad" / "interpolation-one-by-one.ndjson"
TRAPS = "trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"
NANO = 10**9
Object = dict[str, Any]


class Api:
    """Talks to one emulator."""

    def __init__(self, emulator: NomadEmulator) -> None:
        self.emulator = emulator

    def call(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        request = urllib.request.Request(self.emulator.url + path, method=method)
        request.data = None if body is None else json.dumps(body).encode()
        if token:
            request.add_header("X-Nomad-Token", token)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                text = response.read().decode()
                self.headers = dict(response.headers)
                is_json = "json" in (response.headers["Content-Type"] or "")
                return response.status, json.loads(text) if is_json else text
        except urllib.error.HTTPError as error:
            with error:
                self.headers = dict(error.headers)
                return error.code, error.read().decode()

    def register(self, script: str = TRAPS, *, id: str = "", driver: str = "raw_exec", **fields: Any) -> str:
        """Register a job and return its id; `config`, `group` and `job` add fields where they belong."""
        id = id or f"job-{uuid.uuid4().hex[:8]}"
        config = {"command": "/bin/sh", "args": ["-c", script, id], **fields.pop("config", {})}
        group, job = fields.pop("group", {}), fields.pop("job", {})
        task = {"Name": "main", "Driver": driver, "Config": config, "KillSignal": "SIGTERM", "KillTimeout": NANO}
        body = {"ID": id, "Type": "batch", "Meta": {"mark": id}, **job, "TaskGroups": [{
            "Name": "main", "RestartPolicy": {"Attempts": 0}, "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
            "Tasks": [{**task, **fields}], **group,
        }]}  # fmt: skip
        status, answer = self.call("POST", "/v1/jobs", {"Job": body, "EnforceIndex": True, "JobModifyIndex": 0})
        assert status == 200, answer
        return id

    def alloc(self, id: str) -> Object:
        found: list[Object] = self.call("GET", f"/v1/job/{id}/allocations")[1]
        return found[0] if found else {}

    def task(self, id: str) -> Object:
        states: Object = (self.alloc(id).get("TaskStates") or {}).get("main") or {"State": "", "Events": []}
        return states

    def over(self, id: str) -> bool:
        return bool(self.task(id)["State"] == "dead")

    def logs(self, id: str, query: str = "") -> Any:
        path = f"/v1/client/fs/logs/{self.alloc(id)['ID']}?task=main&type=stdout&plain=true{query}"
        return self.call("GET", path)[1]

    def wrote(self, id: str, size: int) -> bool:
        return len(self.logs(id)) >= size

    def run(self, script: str = TRAPS, **fields: Any) -> str:
        """Register a job and wait until it has said that it is up."""
        id = self.register(script, **fields)
        until(lambda: self.alloc(id).get("ClientStatus") == "running" and "up" in self.logs(id))
        return id


def until(condition: Callable[[], Any], seconds: float = 50) -> float:
    """Wait for a condition and return the seconds that it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds
        time.sleep(0.01)
    return time.monotonic() - begin


@pytest.fixture(scope="module")
def shared() -> Iterator[Api]:
    """One emulator for the tests that disturb nobody else."""
    environment = {"HOME": "/home/nomad", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    images = {"slow:*": Image(present=False, pull=60)}
    with NomadEmulator(timing=Timing().scaled(0.2), environment=environment, images=images) as emulator:
        yield Api(emulator)


@pytest.fixture
def alone() -> Iterator[Api]:
    """An emulator for one test."""
    with NomadEmulator(timing=Timing(heartbeat=1.0, leader=0.5).scaled(0.2)) as emulator:
        yield Api(emulator)


def test_values_reach_arguments_and_environment_as_recorded(shared: Api) -> None:
    rows = [json.loads(line) for line in VALUES.read_text(encoding="utf-8").splitlines()]
    jobs = [
        shared.register(
            "", driver=row["driver"], Env={"AGX": row["value"]},
            config={"args": ["-c", 'printf "[%s][%s]" "$0" "$AGX"', row["value"]]}
            | ({"image": "any:1"} if row["driver"] == "docker" else {}),
        )
        for row in rows
    ]  # fmt: skip
    for row, id in zip(rows, jobs, strict=True):
        until(partial(shared.over, id))
        wanted = row["argument_and_environment_seen"]
        if isinstance(wanted, list):
            (failed,) = [one for one in shared.task(id)["Events"] if one["Type"] == "Failed Validation"]
            place = re.compile(r":1,\d+-\d+")
            assert place.sub("", failed["ValidationError"]) == place.sub("", wanted[0]), row
            continue
        # docker's log was read before it was whole, now and then.
        whole = re.sub("agora-[0-9a-f]{8}", id, wanted)
        until(partial(shared.wrote, id, len(whole)))
        assert shared.logs(id).startswith(whole), row


def test_event_stream_begins_where_the_recorded_one_did() -> None:
    with NomadEmulator(timing=Timing().scaled(0.2), buffer=20) as emulator:
        api = Api(emulator)
        # A busy client tells less of each job.
        for _ in range(10):
            api.register("exit 0")
        until(lambda: all(one["Status"] == "dead" for one in api.call("GET", "/v1/jobs")[1]))

        def first(index: int) -> int:
            with urllib.request.urlopen(f"{emulator.url}/v1/event/stream?index={index}", timeout=20) as stream:
                if index > 10**6:
                    api.register("exit 0")
                while not (entry := json.loads(stream.readline())):
                    pass
                return int(entry["Index"])

        last = max(one["ModifyIndex"] for one in api.call("GET", "/v1/allocations")[1])
        oldest = first(0)
        assert oldest > 12
        assert first(1) == first(10) == oldest
        assert first(99999999) > last


def test_job_with_a_missing_driver_says_so(shared: Api) -> None:
    id = shared.register(driver="nope")
    until(lambda: any(one["Status"] == "blocked" for one in shared.call("GET", f"/v1/job/{id}/evaluations")[1]))
    evaluation = next(one for one in shared.call("GET", f"/v1/job/{id}/evaluations")[1] if one["Status"] == "blocked")
    assert evaluation["FailedTGAllocs"]["main"]["ConstraintFiltered"] == {"missing drivers": 1}


def test_follow_ends_with_the_client_alone(shared: Api, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    id = shared.run(f"echo up; while [ -e {flag} ]; do sleep 0.05; done; printf last")
    path = f"/v1/client/fs/logs/{shared.alloc(id)['ID']}?task=main&type=stdout&follow=true&plain=true"
    with urllib.request.urlopen(shared.emulator.url + path, timeout=50) as stream:
        flag.unlink()
        seen = b""
        while not seen.endswith(b"last"):
            seen += stream.read1(100)
        stream.fp.raw._sock.settimeout(3)
        with pytest.raises(TimeoutError):
            stream.read1(1)


def test_signal_reaches_the_task(shared: Api) -> None:
    id = shared.run("trap 'echo one' USR1; echo up; while :; do sleep 0.05; done")
    path = f"/v1/client/allocation/{shared.alloc(id)['ID']}/signal"
    assert shared.call("POST", path, {"Signal": "SIGUSR1", "Task": "main"}) == (200, {"Index": 0})
    until(lambda: "one" in shared.logs(id))
    assert shared.call("POST", path, {"Signal": "SIGKILL", "Task": ""})[0] == 200
    until(lambda: not shared.emulator.processes(id))


@pytest.mark.parametrize("fault", ["throttle", "fail", "forbid"])
def test_fault_is_answered_and_nothing_done(alone: Api, fault: str) -> None:
    id = alone.run()
    getattr(alone.emulator.faults, fault)(operation="deregister")
    code = {"throttle": 429, "fail": 500, "forbid": 403}[fault]
    assert alone.call("DELETE", f"/v1/job/{id}")[0] == code
    assert alone.emulator.processes(id)
    assert alone.call("DELETE", f"/v1/job/{id}")[0] == 200
    until(lambda: not alone.emulator.processes(id))


def test_connection_is_cut_after_the_job_was_taken(alone: Api) -> None:
    alone.emulator.faults.cut(after=True, operation="register", name="")
    with pytest.raises((urllib.error.URLError, ConnectionError, OSError)):
        alone.register(id="once")
    status, text = alone.call("POST", "/v1/jobs", {"Job": {"ID": "once", "TaskGroups": []}})
    assert (status, "Missing job task groups" in text) == (500, True)
    until(lambda: alone.alloc("once").get("ClientStatus") == "running")
    assert [one.operation for one in alone.emulator.faults.requests("register")] == ["register", "register"]


def test_without_a_leader_only_stale_reads_are_answered(alone: Api) -> None:
    id = alone.run()
    alone.emulator.faults.leaderless()
    assert alone.call("GET", f"/v1/job/{id}") == (500, "No cluster leader")
    assert alone.call("DELETE", f"/v1/job/{id}") == (500, "No cluster leader")
    assert alone.call("GET", f"/v1/job/{id}?stale=true")[0] == 200
    alone.emulator.faults.leaderless(False)
    assert alone.call("GET", f"/v1/job/{id}")[0] == 200


def test_hidden_job_is_absent_and_comes_back(alone: Api) -> None:
    id = alone.run()
    alone.emulator.faults.hide(id)
    assert alone.call("GET", f"/v1/job/{id}") == (404, "job not found")
    assert alone.call("GET", f"/v1/job/{id}/allocations") == (200, [])
    assert alone.call("GET", "/v1/jobs") == (200, [])
    assert alone.emulator.processes(id)
    alone.emulator.faults.show()
    assert alone.call("GET", f"/v1/job/{id}")[0] == 200


def test_silent_stream_says_nothing(alone: Api) -> None:
    alone.emulator.faults.silence_streams()
    with urllib.request.urlopen(f"{alone.emulator.url}/v1/event/stream?topic=Job", timeout=50) as stream:
        alone.run()
        stream.fp.raw._sock.settimeout(3)
        with pytest.raises(TimeoutError):
            stream.readline()


def test_lost_node_and_a_second_copy(alone: Api) -> None:
    id = alone.run(STUBBORN)
    alone.emulator.node_away()
    until(lambda: alone.alloc(id)["ClientStatus"] == "lost")
    assert alone.call("GET", f"/v1/client/fs/logs/{alone.alloc(id)['ID']}?task=main&type=stdout") == (
        404, "No path to node",
    )  # fmt: skip
    alone.emulator.node_back()
    until(lambda: len(alone.call("GET", f"/v1/job/{id}/allocations")[1]) == 2)


def test_what_an_agent_had_not_begun_with_runs_once_it_is_back() -> None:
    with NomadEmulator(timing=Timing(observe=1.0)) as emulator:
        api = Api(emulator)
        id = api.register("sleep 600")
        until(lambda: api.call("GET", f"/v1/job/{id}/allocations")[1])
        emulator.node_away()  # before the agent has looked at it for a second
        emulator.node_back()
        until(lambda: api.alloc(id)["ClientStatus"] == "running")


def test_unknown_allocation_is_running_again(alone: Api) -> None:
    block = {"LostAfter": 3600 * NANO, "Replace": False, "Reconcile": "keep_original"}
    id = alone.run(group={"Disconnect": block}, KillTimeout=30 * NANO)
    alone.emulator.node_away()
    until(lambda: alone.alloc(id)["ClientStatus"] == "unknown")
    alone.emulator.node_back()
    until(lambda: alone.alloc(id)["ClientStatus"] == "running")
    alone.call("DELETE", f"/v1/job/{id}")
    until(lambda: alone.task(id)["State"] == "dead")
    assert [one["ExitCode"] for one in alone.task(id)["Events"] if one["Type"] == "Terminated"] == [42]
    assert len(alone.call("GET", f"/v1/job/{id}/allocations")[1]) == 1


def test_failed_task_is_restarted_where_the_job_does_not_say_otherwise(shared: Api) -> None:
    id = shared.register("exit 1", group={"RestartPolicy": {"Attempts": 1, "Delay": NANO // 10, "Mode": "fail"}})
    until(lambda: shared.task(id)["State"] == "dead")
    kinds = [one["Type"] for one in shared.task(id)["Events"]]
    assert (kinds.count("Started"), kinds.count("Restarting"), kinds[-1]) == (2, 1, "Not Restarting")


def test_stop_while_an_image_is_pulled_starts_nothing(shared: Api) -> None:
    id = shared.register(driver="docker", config={"image": "slow:1"})
    until(lambda: "Driver" in [one["Type"] for one in shared.task(id)["Events"]])
    shared.call("DELETE", f"/v1/job/{id}")
    until(lambda: "Killing" in [one["Type"] for one in shared.task(id)["Events"]])
    assert not shared.emulator.processes(id)


def test_filters(shared: Api) -> None:
    id = shared.register("exit 0", id="filtered", job={"Meta": {"a.b": "x y"}})
    for text, count in (
        ('Meta["a.b"] == "x y" and ID == "filtered"', 1), ('Meta["a.b"] != "x y" and ID == "filtered"', 0),
        ('ID == "filtered" and not (Status == "nope" or Meta["a.b"] is empty)', 1),
        ('"a.b" not in Meta and ID == "filtered"', 0), ('ID matches "^filt" and Name not matches "x$"', 1),
    ):  # fmt: skip
        assert len(shared.call("GET", f"/v1/jobs?filter={quote(text)}")[1]) == count, text
    assert shared.call("GET", f"/v1/jobs?filter={quote('ID ==')}")[0] == 400
    assert id in json.dumps(shared.call("GET", "/v1/jobs?prefix=filt")[1])


def test_tokens_and_policies_over_http() -> None:
    with NomadEmulator(timing=Timing().scaled(0.2), acl=True) as emulator:
        api, token = Api(emulator), emulator.management_token
        rules = (
            '# least\nnamespace "def*" {\n  capabilities = ["list-jobs", "read-job"]\n}\nagent { policy = "read" }\n'
        )
        assert api.call("POST", "/v1/acl/policy/least", {"Name": "least", "Rules": rules}, token)[0] == 200
        made = api.call("POST", "/v1/acl/token", {"Policies": ["least"], "Type": "client"}, token)[1]["SecretID"]
        assert api.call("GET", "/v1/jobs", token=made) == (200, [])
        assert api.call("GET", "/v1/acl/token/self", token=made)[1]["Policies"] == ["least"]
        assert api.call("GET", "/v1/agent/self", token=made)[1]["config"]["Client"]["MaxKillTimeout"] == "30s"
        assert api.call("DELETE", "/v1/job/x", token=made) == (403, "Permission denied")
        assert api.call("PUT", "/v1/system/gc", token=made)[0] == 403
        assert api.call("GET", "/.well-known/jwks.json")[1]["keys"][0]["alg"] == "RS256"


def test_served_from_the_command_line() -> None:
    command = [sys.executable, "-m", "agora_conformance", "emulator", "nomad", "--scale", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/v1/nodes", timeout=20) as response:
            assert [one["Status"] for one in json.load(response)] == ["ready"]
        request = urllib.request.Request(f"{url}/emulator/faults/fail", data=b'{"code": 502}', method="POST")
        urllib.request.urlopen(request, timeout=20).close()
        with pytest.raises(urllib.error.HTTPError, match="502") as failed:
            urllib.request.urlopen(f"{url}/v1/jobs", timeout=20)
        failed.value.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == 0
