"""What is known of a real cluster beside the recordings, and the faults: seen through HTTP and from outside."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agora_conformance.emulators.k8s import Image, K8sEmulator, Timing

Object = dict[str, Any]
PODS, JOBS, SECRETS = (
    "/api/v1/namespaces/default/pods",
    "/apis/batch/v1/namespaces/default/jobs",
    "/api/v1/namespaces/default/secrets",
)
MERGE = "application/merge-patch+json"
READY = "echo ready; while :; do sleep 0.05; done"
STUBBORN, TRAPS = f"trap '' TERM; {READY}", f"trap 'exit 42' TERM; {READY}"
#: A real second of a grace lasts this long.
SECOND = 0.3


class Api:
    """Talks to one emulator."""

    def __init__(self, emulator: K8sEmulator) -> None:
        self.emulator = emulator

    def call(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", token: str = ""
    ) -> tuple[int, Any]:
        request = urllib.request.Request(self.emulator.url + path, method=method)
        request.data = None if body is None else json.dumps(body).encode()
        request.add_header("Content-Type", kind)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                text = response.read().decode()
                return response.status, json.loads(text) if text.startswith("{") else text
        except urllib.error.HTTPError as error:
            with error:
                self.headers = error.headers
                return error.code, json.loads(error.read())

    def job(self, program: str | None = READY, name: str = "", wait: str = "Running", **spec: Any) -> str:
        """Create a Job and wait for its pod's phase; return its name."""
        name = name or f"job-{uuid.uuid4().hex[:6]}"
        container = {"name": "main", "image": "any:1", "imagePullPolicy": "Never", **spec.pop("container", {})}
        if program is not None:
            container["command"] = ["/bin/sh", "-c", program]
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 60 if program == TRAPS else 5,
            "containers": [container],
            **spec.pop("pod", {}),
        }
        template = {"metadata": {"finalizers": spec.pop("finalizers", [])}, "spec": pod}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
                "spec": {"backoffLimit": 0, "template": template, **spec}}  # fmt: skip
        status, answer = self.call("POST", JOBS, body)
        assert status == 201, answer
        if wait:
            self.until(lambda: (self.pod(name) or {"status": {}})["status"].get("phase") == wait)
            if wait == "Running" and program in (READY, STUBBORN, TRAPS):
                self.until(lambda: "ready" in self.log(name))
        return name

    def pod(self, job: str) -> Object | None:
        found: list[Object] = self.call("GET", f"{PODS}?labelSelector=job-name={job}")[1]["items"]
        return found[0] if found else None

    def path(self, job: str) -> str:
        pod = self.pod(job)
        assert pod is not None
        return f"{PODS}/{pod['metadata']['name']}"

    def log(self, job: str, query: str = "") -> str:
        return str(self.call("GET", f"{self.path(job)}/log{query}")[1])

    def state(self, job: str) -> Object:
        pod = self.pod(job)
        assert pod is not None
        statuses = pod["status"].get("containerStatuses") or [{"state": {"waiting": {"reason": "Unknown"}}}]
        state: Object = statuses[0]["state"]
        return state

    def over(self, job: str) -> bool:
        return "terminated" in self.state(job)

    def conditions(self, job: str) -> dict[str, str]:
        found = self.call("GET", f"{JOBS}/{job}")[1]["status"].get("conditions") or []
        return {one["type"]: one["reason"] for one in found if one["status"] == "True"}

    def processes(self, job: str) -> list[int]:
        return self.emulator.processes(f"job-name={job}")

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition."""
        end = time.monotonic() + 50
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def shared() -> Iterator[Api]:
    """One emulator for the tests that disturb nobody else."""
    timing = Timing(second=SECOND, job_batch=0.2, sandbox_stop=0.2, cleanup=0.1, never_started=0.1)
    images = {"entry:*": Image(("echo",), ("from", "image")), "slow:*": Image(present=False, pull=60)}
    with K8sEmulator(timing=timing, images=images) as emulator:
        yield Api(emulator)


@pytest.fixture
def alone() -> Iterator[Api]:
    """An emulator for one test."""
    timing = Timing(second=SECOND, job_batch=0.2, sandbox_stop=0.2, cleanup=0.1, node_monitor=0.5, kubelet_start=0.1)
    with K8sEmulator(timing=timing, history=100, bookmarks=0.2) as emulator:
        yield Api(emulator)


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """A file; programs wait until it is gone."""
    path = tmp_path / "flag"
    path.touch()
    return path


class Watch:
    """A watch on pods, in a thread."""

    def __init__(self, api: Api, query: str = "", path: str = PODS) -> None:
        self.events: list[Object] = []
        self.ended = threading.Event()
        self._response = urllib.request.urlopen(f"{api.emulator.url}{path}?watch=1{query}", timeout=120)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(http.client.HTTPException, OSError), self._response:
            for line in self._response:
                self.events.append(json.loads(line))
        self.ended.set()

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]


# -- stopping -------------------------------------------------------------------------------------------------------


def test_pid_1_and_the_shared_namespace(shared: Api) -> None:
    codes = {}
    for share in (False, True):
        name = shared.job("exec sleep 600", pod={"shareProcessNamespace": share}, finalizers=["test.dev/keep"])
        shared.call("DELETE", f"{shared.path(name)}?gracePeriodSeconds=6")
        shared.until(partial(shared.over, name))
        assert not shared.processes(name)
        codes[share] = shared.state(name)["terminated"]["exitCode"]
    # PID 1 without a handler does not see SIGTERM, and is killed after the grace.
    assert codes == {False: 137, True: 143}


def test_a_shorter_grace_later_changes_nothing(shared: Api) -> None:
    name = shared.job(STUBBORN)
    begin = time.monotonic()
    assert shared.call("DELETE", f"{shared.path(name)}?gracePeriodSeconds=9")[0] == 200
    status, pod = shared.call("DELETE", f"{shared.path(name)}?gracePeriodSeconds=1")
    assert (status, pod["metadata"]["deletionGracePeriodSeconds"]) == (200, 1)
    shared.until(lambda: not shared.processes(name))
    assert time.monotonic() - begin >= 9 * SECOND


def test_the_smallest_grace_is_two_seconds(shared: Api) -> None:
    name = shared.job(STUBBORN)
    path, begin = shared.path(name), time.monotonic()
    shared.call("DELETE", f"{path}?gracePeriodSeconds=1")
    shared.until(lambda: not shared.processes(name))
    assert time.monotonic() - begin >= 2 * SECOND


def test_a_force_delete_leaves_the_process(shared: Api) -> None:
    name = shared.job(STUBBORN, pod={"terminationGracePeriodSeconds": 8})
    path, begin = shared.path(name), time.monotonic()
    shared.call("DELETE", f"{path}?gracePeriodSeconds=0")
    shared.until(lambda: shared.pod(name) is None)
    assert shared.processes(name)
    shared.until(lambda: not shared.processes(name))
    assert time.monotonic() - begin >= 8 * SECOND


def test_job_delete_without_policy_orphans(shared: Api) -> None:
    name = shared.job()
    shared.call("DELETE", f"{JOBS}/{name}")
    shared.until(lambda: shared.call("GET", f"{JOBS}/{name}")[0] == 404)
    shared.until(lambda: not (shared.pod(name) or {})["metadata"].get("ownerReferences"))
    time.sleep(0.3)  # what would delete it had its chance
    assert shared.processes(name)
    assert not (shared.pod(name) or {})["metadata"].get("deletionTimestamp")


def test_our_finalizer_keeps_the_pod_and_delays_a_foreground_delete(shared: Api) -> None:
    name = shared.job(TRAPS, finalizers=["test.dev/keep"])
    shared.call("DELETE", f"{JOBS}/{name}?propagationPolicy=Foreground")
    shared.until(lambda: "terminated" in shared.state(name))
    assert shared.state(name)["terminated"]["exitCode"] == 42
    shared.until(lambda: (shared.pod(name) or {})["metadata"]["deletionGracePeriodSeconds"] == 0)
    assert shared.call("GET", f"{JOBS}/{name}")[1]["metadata"]["finalizers"] == ["foregroundDeletion"]
    shared.call("PATCH", shared.path(name), {"metadata": {"finalizers": None}}, MERGE)
    shared.until(lambda: shared.call("GET", f"{JOBS}/{name}")[0] == 404)


def test_finalizer_and_annotation_in_one_patch_and_json_patch(shared: Api) -> None:
    name = shared.job(TRAPS)
    path = shared.path(name)
    patch = {"metadata": {"finalizers": ["test.dev/keep"], "annotations": {"test.dev/cause": "{}"}}}
    status, pod = shared.call("PATCH", path, patch, "application/strategic-merge-patch+json")
    assert (status, pod["metadata"]["finalizers"]) == (200, ["batch.kubernetes.io/job-tracking", "test.dev/keep"])
    shared.call("DELETE", path)
    status, _ = shared.call("PATCH", path, {"metadata": {"finalizers": ["a/b", "c/d"]}}, MERGE)
    assert status == 422
    shared.until(lambda: shared.call("GET", path)[1]["metadata"]["finalizers"] == ["test.dev/keep"])
    steps = [{"op": "test", "path": "/metadata/finalizers/0", "value": "test.dev/keep"},
             {"op": "remove", "path": "/metadata/finalizers/0"}]  # fmt: skip
    assert shared.call("PATCH", path, steps, "application/json-patch+json")[0] == 200
    shared.until(lambda: shared.pod(name) is None)
    assert shared.call("PATCH", path, steps, "application/json-patch+json")[0] == 404


def test_pod_deadline_keeps_the_pod(shared: Api) -> None:
    name = shared.job(TRAPS)
    shared.call("PATCH", shared.path(name), {"spec": {"activeDeadlineSeconds": 1}}, MERGE)
    shared.until(lambda: "terminated" in shared.state(name))
    pod = shared.pod(name) or {}
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    assert (shared.state(name)["terminated"]["exitCode"], pod["metadata"].get("deletionTimestamp")) == (42, None)


def test_replacement_policy_failed_waits_for_the_end(shared: Api) -> None:
    name = shared.job(STUBBORN, podReplacementPolicy="Failed")
    shared.call("DELETE", f"{shared.path(name)}?gracePeriodSeconds=10")
    shared.until(lambda: shared.call("GET", f"{JOBS}/{name}")[1]["status"].get("terminating") == 1)
    assert (shared.conditions(name), bool(shared.processes(name))) == ({}, True)
    shared.until(lambda: "Failed" in shared.conditions(name))


def test_ttl_and_owned_secret(shared: Api, flag: Path) -> None:
    name = shared.job(f"while [ -e {flag} ]; do sleep 0.05; done", ttlSecondsAfterFinished=2)
    job = shared.call("GET", f"{JOBS}/{name}")[1]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    secret = {"metadata": {"name": name, "ownerReferences": [owner]}, "stringData": {"a": "b"}}
    assert shared.call("POST", SECRETS, secret)[1]["data"] == {"a": "Yg=="}
    flag.unlink()
    shared.until(lambda: shared.call("GET", f"{SECRETS}/{name}")[0] == 404)
    assert (shared.call("GET", f"{JOBS}/{name}")[0], shared.pod(name)) == (404, None)


# -- starting -------------------------------------------------------------------------------------------------------


def test_environment_from_a_secret_is_not_expanded(shared: Api) -> None:
    shared.call("POST", SECRETS, {"metadata": {"name": "words"}, "stringData": {"key": "$(KNOWN) $$"}})
    env = [{"name": "KNOWN", "value": "x"},
           {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "words", "key": "key"}}},
           {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]  # fmt: skip
    name = shared.job('printf "%s|%s|%s" "$$SECRET" "$$POD" "$(KNOWN)"', wait="Succeeded", container={"env": env})
    pod = shared.pod(name) or {}
    assert shared.log(name) == f"$(KNOWN) $$|{pod['metadata']['name']}|x"


@pytest.mark.parametrize(
    ("container", "pod", "reason"),
    [
        ({"image": "missing/x:1"}, {}, "ErrImageNeverPull"),
        ({"image": "missing/x:1", "imagePullPolicy": "Always"}, {}, "ErrImagePull"),
        ({"image": "Bad/X"}, {}, "InvalidImageName"),
        ({"envFrom": [{"secretRef": {"name": "no"}}]}, {}, "CreateContainerConfigError"),
        ({}, {"securityContext": {"runAsNonRoot": True}}, "CreateContainerConfigError"),
    ],
)  # fmt: skip
def test_containers_that_cannot_start(shared: Api, container: Object, pod: Object, reason: str) -> None:
    name = shared.job(wait="Pending", container=container, pod=pod, finalizers=["test.dev/keep"])
    shared.until(lambda: shared.state(name)["waiting"]["reason"] == reason)
    assert shared.call("GET", f"{shared.path(name)}/log")[0] == 400
    shared.call("DELETE", shared.path(name))
    shared.until(lambda: "terminated" in shared.state(name))
    end = shared.state(name)["terminated"]
    assert (end["exitCode"], end["reason"], end["startedAt"]) == (137, "ContainerStatusUnknown", None)


def test_a_pull_that_takes_long_can_be_stopped(shared: Api) -> None:
    name = shared.job(wait="Pending", container={"image": "slow:1", "imagePullPolicy": "Always"})
    shared.until(lambda: (shared.pod(name) or {})["status"].get("containerStatuses"))
    shared.call("PATCH", f"{JOBS}/{name}", {"spec": {"suspend": True}}, MERGE)
    shared.until(lambda: shared.pod(name) is None)
    assert shared.conditions(name) == {"Suspended": "JobSuspended"}


def test_start_error_and_image_command(shared: Api) -> None:
    name = shared.job(None, wait="Failed", container={"command": ["no-such-program"]})
    assert (shared.state(name)["terminated"]["exitCode"], shared.state(name)["terminated"]["reason"]) == (
        128,
        "StartError",
    )
    name = shared.job(None, wait="Succeeded", container={"image": "entry:1"})
    assert shared.log(name) == "from image\n"
    name = shared.job(None, wait="Succeeded", container={"image": "entry:1", "args": ["other"]})
    assert shared.log(name) == "other\n"


def test_unschedulable_pod_is_gone_at_once(shared: Api) -> None:
    name = shared.job(wait="Pending", pod={"nodeSelector": {"disk": "none"}})
    shared.until(lambda: (shared.pod(name) or {})["status"].get("conditions"))
    (condition,) = (shared.pod(name) or {})["status"]["conditions"]
    assert (condition["reason"], "node affinity/selector" in condition["message"]) == ("Unschedulable", True)
    shared.call("DELETE", shared.path(name))
    shared.until(lambda: "Failed" in shared.conditions(name))


def test_service_account_must_exist(shared: Api) -> None:
    name = shared.job(wait="", pod={"serviceAccountName": "nobody"})
    events = f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={name},reason=FailedCreate"
    shared.until(lambda: shared.call("GET", events)[1]["items"])
    assert shared.pod(name) is None


# -- logs, lists, watches --------------------------------------------------------------------------------------------


def test_log_options_and_follow(shared: Api, flag: Path) -> None:
    name = shared.job(f"echo one; echo two >&2; while [ -e {flag} ]; do sleep 0.05; done; echo three")
    shared.until(lambda: "two" in shared.log(name))
    follow = f"{shared.emulator.url}{shared.path(name)}/log?follow=true&tailLines=1"
    with urllib.request.urlopen(follow, timeout=20) as response:
        flag.unlink()
        assert response.read() == b"two\nthree\n"
    assert shared.log(name, "?limitBytes=5") == "one\nt"
    assert shared.log(name, "?sinceSeconds=600") == "one\ntwo\nthree\n"
    assert "is not valid" in shared.call("GET", f"{shared.path(name)}/log?container=other")[1]["message"]


def test_pagination_and_selectors(alone: Api) -> None:
    for number in range(5):
        alone.call(
            "POST", SECRETS, {"metadata": {"name": f"s{number}", "labels": {"odd": str(number % 2), "all": "yes"}}}
        )
    seen, token = [], ""
    while True:
        page = alone.call("GET", f"{SECRETS}?limit=2&continue={token}")[1]
        seen.append([one["metadata"]["name"] for one in page["items"]])
        if not (token := page["metadata"].get("continue", "")):
            break
        assert page["metadata"]["remainingItemCount"] == 5 - sum(map(len, seen))
    assert seen == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    for selector, count in (("odd=1", 2), ("odd!=1", 3), ("odd in (0,1),all", 5), ("!all", 0), ("odd notin (0)", 2)):
        query = urllib.request.quote(selector)  # type: ignore[attr-defined]
        assert len(alone.call("GET", f"{SECRETS}?labelSelector={query}")[1]["items"]) == count, selector


def test_watch_follows_labels_and_sends_bookmarks(alone: Api) -> None:
    watch = Watch(alone, "&labelSelector=a=1&allowWatchBookmarks=true&resourceVersion=1000", SECRETS)
    alone.call("POST", SECRETS, {"metadata": {"name": "s", "labels": {"a": "1"}}})
    alone.call("PATCH", f"{SECRETS}/s", {"metadata": {"labels": {"b": "2"}}}, MERGE)
    alone.call("PATCH", f"{SECRETS}/s", {"metadata": {"labels": {"a": "2"}}}, MERGE)
    alone.call("PATCH", f"{SECRETS}/s", {"metadata": {"labels": {"a": "1"}}}, MERGE)
    alone.until(lambda: "BOOKMARK" in watch.types() and watch.types().count("ADDED") == 2)
    assert [kind for kind in watch.types() if kind != "BOOKMARK"] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]


def test_history_has_an_end(alone: Api) -> None:
    for number in range(60):
        alone.call("POST", SECRETS, {"metadata": {"name": f"s{number}"}})
        alone.call("DELETE", f"{SECRETS}/s{number}")
    watch = Watch(alone, "&resourceVersion=1001", SECRETS)
    assert watch.ended.wait(50)
    assert [(event["type"], event["object"]["code"]) for event in watch.events] == [("ERROR", 410)]


# -- nodes ----------------------------------------------------------------------------------------------------------


def test_node_away_then_back_gives_the_full_grace_again(alone: Api) -> None:
    name = alone.job(STUBBORN)
    alone.call("DELETE", f"{alone.path(name)}?gracePeriodSeconds=8")
    alone.until(lambda: len(alone.emulator.terms(f"job-name={name}")) == 1)
    alone.emulator.node_away()
    time.sleep(9 * SECOND)
    assert alone.processes(name)
    assert "running" in alone.state(name)
    assert alone.call("GET", f"{alone.path(name)}/log")[0] == 500
    begin = time.monotonic()
    alone.emulator.node_back()
    alone.until(lambda: not alone.processes(name))
    assert time.monotonic() - begin >= 8 * SECOND
    assert len(alone.emulator.terms(f"job-name={name}")) <= 2
    alone.until(lambda: alone.pod(name) is None)


# -- rights ---------------------------------------------------------------------------------------------------------


def test_roles(alone: Api, tmp_path: Path) -> None:
    subject = {"kind": "ServiceAccount", "name": "agora", "namespace": "default"}
    rules = [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["mine"]},
    ]
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "r"}}
    alone.emulator.load(
        [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agora"}},
            {**head, "kind": "Role", "rules": rules},
            {**head, "kind": "RoleBinding", "subjects": [subject], "roleRef": {"kind": "Role", "name": "r"}},
        ]
    )
    token = alone.emulator.token("system:serviceaccount:default:agora")
    answers = {
        ("GET", PODS): 200, ("GET", f"{PODS}/x/log"): 404, ("GET", f"{PODS}?watch=1"): 403,
        ("DELETE", f"{PODS}/x"): 403,
        ("GET", f"{SECRETS}/mine"): 404, ("GET", f"{SECRETS}/other"): 403, ("GET", SECRETS): 403, ("GET", JOBS): 403,
        ("GET", "/api/v1/pods"): 403, ("GET", "/api/v1/namespaces/kube-system/pods"): 403,
    }  # fmt: skip
    assert {asked: alone.call(*asked, token=token)[0] for asked in answers} == answers
    assert alone.call("GET", PODS, token="stranger")[0] == 401
    config = json.loads(alone.emulator.kubeconfig(tmp_path / "config", token=token).read_text())
    assert config["users"][0]["user"]["token"] == token
    assert (tmp_path / "config").stat().st_mode & 0o077 == 0


# -- faults ---------------------------------------------------------------------------------------------------------


def test_refusals(alone: Api) -> None:
    faults = alone.emulator.faults
    faults.throttle(2, retry_after=3, verb="create")
    for _ in range(2):
        status, body = alone.call("POST", SECRETS, {"metadata": {"name": "s"}})
        assert (status, body["reason"], alone.headers["Retry-After"]) == (429, "TooManyRequests", "3")
    faults.fail(1, code=503, resource="secrets")
    assert alone.call("GET", PODS)[0] == 200
    assert alone.call("POST", SECRETS, {"metadata": {"name": "s"}})[0] == 503
    assert alone.call("POST", SECRETS, {"metadata": {"name": "s"}})[0] == 201
    faults.fail(None)
    assert [alone.call("GET", PODS)[0] for _ in range(3)] == [500] * 3
    faults.clear()
    assert alone.call("GET", PODS)[0] == 200
    assert len(faults.requests(verb="create", resource="secrets")) == 4


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_cut_connection(alone: Api, after: bool) -> None:
    alone.emulator.faults.cut(1, after=after, verb="create")
    with pytest.raises((ConnectionError, http.client.HTTPException, urllib.error.URLError)):
        alone.call("POST", SECRETS, {"metadata": {"name": "s"}})
    assert alone.call("GET", f"{SECRETS}/s")[0] == (200 if after else 404)


def test_slow_answers_and_hidden_objects(alone: Api) -> None:
    alone.emulator.faults.slow(0.4, verb="list")
    begin = time.monotonic()
    assert alone.call("GET", SECRETS)[0] == 200
    assert time.monotonic() - begin >= 0.4
    alone.emulator.faults.clear()
    alone.emulator.faults.hide_created(4)
    alone.call("POST", SECRETS, {"metadata": {"name": "s"}})
    assert alone.call("GET", f"{SECRETS}/s")[0] == 404
    assert alone.call("POST", SECRETS, {"metadata": {"name": "s"}})[0] == 409
    alone.until(lambda: alone.call("GET", f"{SECRETS}/s")[0] == 200)


def test_watches_that_break(alone: Api) -> None:
    first = Watch(alone)
    alone.until(lambda: alone.emulator.faults.requests(verb="watch"))
    alone.emulator.faults.expire()
    assert first.ended.wait(50)
    assert first.events[-1]["object"]["code"] == 410
    second = Watch(alone)
    alone.until(lambda: len(alone.emulator.faults.requests(verb="watch")) == 2)
    alone.emulator.faults.cut_watches()
    assert second.ended.wait(50)
    assert second.events == []


def test_lost_events(alone: Api) -> None:
    alone.emulator.faults.lose_events(1, resource="secrets", type="DELETED")
    watch = Watch(alone, path=SECRETS)
    for name in ("one", "two"):
        alone.call("POST", SECRETS, {"metadata": {"name": name}})
        alone.call("DELETE", f"{SECRETS}/{name}")
    alone.until(lambda: watch.types().count("DELETED") == 1)
    assert watch.types() == ["ADDED", "ADDED", "DELETED"]


def test_clock_skew(alone: Api) -> None:
    alone.emulator.faults.skew(server=3600)
    _, made = alone.call("POST", SECRETS, {"metadata": {"name": "s"}})
    ahead = time.strptime(made["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
    assert 3500 < time.mktime(ahead) - time.timezone - time.time() < 3700


def test_control_over_http(alone: Api) -> None:
    name = alone.job()
    shown = alone.call("GET", f"/emulator/processes?labelSelector=job-name={name}")[1]["processes"]
    assert shown[0] == alone.processes(name)[0]  # its children come and go
    assert alone.call("POST", "/emulator/faults/fail", {"times": 1, "verb": "list"})[0] == 200
    assert [alone.call("GET", PODS)[0] for _ in range(2)] == [500, 200]
    assert alone.call("POST", "/emulator/faults/fail", {"nonsense": 1})[0] == 400
    assert alone.call("POST", "/emulator/faults/nothing")[0] == 404
    assert alone.call("POST", "/emulator/node/away")[0] == 200
    alone.until(lambda: alone.call("GET", "/api/v1/nodes/node-1")[1]["status"]["conditions"][0]["status"] == "Unknown")
