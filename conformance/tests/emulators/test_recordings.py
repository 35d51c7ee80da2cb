"""Every recording of a real cluster, replayed: the same actions must lead to the same object states, times aside.

Each recording runs as it was, and with another name, another grace and another exit code.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from agora_conformance.emulators.k8s import K8sEmulator, Timing
from replaying import all_of_them, batches, until_no

RECORDINGS = Path(__file__).parent.parent / "recordings" / "kubernetes"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.ndjson") if path.stem != "http-answers")
TRACKING = "batch.kubernetes.io/job-tracking"
#: Graces and exit codes are changed by this much in the second run.
SHIFT = 1
CODES = {42: 17, 3: 5}
#: Seconds for the emulator to reach a state of the recording.
PATIENCE = 50.0
#: Deadlines are so many times as long: a busy machine has to be past the start by then.
DEADLINE = 3
#: How fast the emulated cluster is, graces and deadlines included; the workloads' own sleeps stay as they are.
SCALE = 0.4
Object = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """How a replay differs from its recording."""

    name: str
    grace: Callable[[int], int]
    code: Callable[[int], int]


SAME = Variant("as recorded", lambda grace: grace, lambda code: code)
OTHER = Variant("varied", lambda grace: grace + SHIFT if grace else 0, lambda code: CODES.get(code, code))


# -- what is compared -----------------------------------------------------------------------------------------------


def pod_state(kind: str, pod: Object, variant: Variant) -> Object:
    """Return what counts of a pod: everything but times, ids, addresses and the tracking mark."""
    status, meta = pod["status"], pod["metadata"]
    grace = meta.get("deletionGracePeriodSeconds")
    containers = []
    for one in status.get("containerStatuses") or []:
        ((state, words),) = one["state"].items()
        shown = {key: words.get(key) for key in ("reason", "message", "exitCode", "signal") if key in words}
        if "exitCode" in shown:
            shown["exitCode"] = variant.code(shown["exitCode"])
        containers.append((one["name"], state, shown, bool(words.get("startedAt")), one["ready"], one["started"]))
    return {
        "gone": kind == "DELETED",
        "phase": status.get("phase"),
        "reason": status.get("reason"),
        "deletion": None if grace is None else variant.grace(grace),
        "generation": (meta["generation"], status.get("observedGeneration")),
        "bound": bool(pod["spec"].get("nodeName")),
        "finalizers": [one for one in meta.get("finalizers", []) if one != TRACKING],
        "conditions": [
            (one["type"], one["status"], one.get("reason"), one.get("message"))
            for one in status.get("conditions") or []
        ],
        "containers": containers,
    }


def job_state(kind: str, job: Object, _variant: Variant) -> Object:
    """Return what counts of a Job."""
    status, meta = job["status"], job["metadata"]
    return {
        "gone": kind == "DELETED",
        "generation": meta["generation"],
        "suspend": job["spec"]["suspend"],
        "deletion": (bool(meta.get("deletionTimestamp")), meta.get("deletionGracePeriodSeconds")),
        "finalizers": meta.get("finalizers"),
        "started": "startTime" in status,
        "completed": "completionTime" in status,
        "conditions": [
            (one["type"], one["status"], one["reason"], one["message"]) for one in status.get("conditions") or []
        ],
    }


def tracked(kind: str, pod: Object, _variant: Variant) -> Object:
    """Return whether the Job controller holds a pod; it may let go before the kubelet does, or as the last."""
    return {"tracked": kind != "DELETED" and TRACKING in pod["metadata"].get("finalizers", [])}


def counted(_kind: str, job: Object, _variant: Variant) -> Object:
    """Return what the Job controller has counted for good."""
    return {name: job["status"].get(name) for name in ("succeeded", "failed")}


#: What is compared side by side. The Job controller and the kubelet do not wait for one another, so that the order
#: of their marks on one object is not fixed; within each of these it is.
FACETS = {
    "pod": ("Pod", pod_state),
    "job": ("Job", job_state),
    "tracked": ("Pod", tracked),
    "counted": ("Job", counted),
}


def creating(state: Object) -> bool:
    """Whether a state is one of the short ones before a container runs, which watches see or miss."""
    waits = all(
        one[1] == "waiting" and one[2] == {"reason": "ContainerCreating"} for one in state.get("containers", ())
    )
    return "phase" in state and state["phase"] == "Pending" and state["deletion"] is None and waits


def states(facet: str, events: list[Object], variant: Variant) -> list[Object]:
    """Return the sequence of states of one facet, repetitions left out."""
    kind, project = FACETS[facet]
    found: list[Object] = []
    for event in events:
        if event["object"]["kind"] == kind:
            state = project(event["type"], event["object"], variant)
            if not found or found[-1] != state:
                found.append(state)
    return found


def reconciled(real: list[Object], emulated: list[Object]) -> tuple[list[Object], list[Object]]:
    """Return both sequences without the short states that only one of them shows."""
    return (
        [one for one in real if not creating(one) or one in emulated],
        [one for one in emulated if not creating(one) or one in real],
    )


# -- recordings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """An action of a recording, and the events that had been seen before it."""

    words: str
    line: Object
    before: list[Object]


def read(name: str) -> tuple[Object, list[Step], list[Object]]:
    """Return the Job that was created, the actions after that, and all events."""
    lines = [json.loads(line) for line in (RECORDINGS / f"{name}.ndjson").read_text(encoding="utf-8").splitlines()]
    events = [line for line in lines if line.get("kind") in ("Pod", "Job")]
    job = next(event["object"] for event in events if event["kind"] == "Job")
    steps = []
    for line in lines:
        words = line.get("action") or line.get("note") or ("outside" if "outside" in line else "")
        if words and words != "none" and not words.startswith("POST /apis/batch"):
            steps.append(Step(words, line, [event for event in events if _earlier(event, line, words)]))
    return job, steps, events


def _earlier(event: Object, line: Object, words: str) -> bool:
    """Whether an event had been seen before an action; the version in the answer tells it better than the clock."""
    if "log" in words or "completed" in words:
        return not event["object"]["metadata"].get("deletionTimestamp") and not event["object"]["spec"].get("suspend")
    if "at once" in words:
        pod = event["object"]
        before = event["kind"] == "Job" or TRACKING in pod["metadata"].get("finalizers", [])
        return before and not pod["spec"].get("suspend") and bool(event["t"] < line["t"] + 0.1)
    if words.endswith("/eviction"):
        return "EvictionByEvictionAPI" not in json.dumps(event) and bool(event["t"] < line["t"])
    response = line.get("response")
    first: Any = response[0] if isinstance(response, list) else response
    version = (first.get("metadata") or {}).get("resourceVersion") if isinstance(first, dict) else None
    if version:
        return int(event["object"]["metadata"]["resourceVersion"]) < int(version)
    return bool(event["t"] < line["t"])


# -- the replay -----------------------------------------------------------------------------------------------------


class Replay:
    """One recording on its way through an emulator."""

    def __init__(self, emulator: K8sEmulator, http: aiohttp.ClientSession, name: str, variant: Variant) -> None:
        self.emulator, self.http, self.variant = emulator, http, variant
        self.job, self.steps, self.recorded = read(name)
        self.old = self.job["metadata"]["name"]
        self.new = f"replay-{uuid.uuid4().hex[:8]}" if variant is OTHER else self.old
        self.seen: list[Object] = []
        last = {event["kind"]: event["object"] for event in self.recorded}
        ended = last["Pod"]["status"]["phase"] in ("Succeeded", "Failed")
        self.broke_off = ended and not last["Job"]["status"].get("conditions")

    async def run(self) -> None:
        watches = [asyncio.create_task(self._watch(path)) for path in ("/api/v1/pods", "/apis/batch/v1/jobs")]
        try:
            await self.create()
            for step in self.steps:
                await self.reach(step.before)
                await self.act(step)
            await self.reach(self.recorded)
            # What comes too much would come within the controller's period.
            await asyncio.sleep(1.2 * SCALE)
            await self.reach(self.recorded)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _watch(self, path: str) -> None:
        async with self.http.get(path, params={"watch": "1", "resourceVersion": "1000"}) as response:
            async for line in response.content:
                event = json.loads(line)
                self.seen.append(event)

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        async with self.http.request(method, path, data=data, headers={"Content-Type": kind}) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    async def create(self) -> None:
        spec = copy.deepcopy(self.job["spec"])
        if "activeDeadlineSeconds" in spec:
            spec["activeDeadlineSeconds"] *= DEADLINE
        template = spec["template"]
        for place in (spec, template["metadata"]):
            place.pop("selector", None)
        labels = template["metadata"]["labels"]
        template["metadata"]["labels"] = {
            key: labels[key] for key in labels if not re.search("job-name|controller", key)
        }
        template["spec"]["terminationGracePeriodSeconds"] = self.variant.grace(
            template["spec"]["terminationGracePeriodSeconds"]
        )
        meta = {"name": self.old, "labels": self.job["metadata"]["labels"]}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
        text = json.dumps(body).replace(self.old, self.new)
        text = re.sub(r"exit (\d+)", lambda found: f"exit {self.variant.code(int(found[1]))}", text)
        self.body = json.loads(text)
        status, _ = await self.call("POST", "/apis/batch/v1/namespaces/default/jobs", self.body)
        assert status == 201

    async def reach(self, events: list[Object]) -> None:
        """Wait until the emulator has shown what these events show; fail with the first difference."""
        if problems := await until_no(lambda: self.differences(events), self.seen, PATIENCE):
            pytest.fail("\n".join(problems))

    def differences(self, events: list[Object]) -> list[str]:
        problems = []
        for facet in FACETS:
            real, emulated = reconciled(
                states(facet, events, self.variant), states(facet, self.seen, SAME),
            )  # fmt: skip
            if self.waits_for_more(facet, events):
                emulated = emulated[: len(real)]
            if real != emulated:
                pairs = zip(real, emulated, strict=False)
                at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(real), len(emulated)))
                shown = f"  real     {real[at : at + 1]}\n  emulated {emulated[at : at + 1]}"
                problems.append(f"{facet}, state {at} of {len(real)}:\n{shown}")
        return problems

    def waits_for_more(self, facet: str, events: list[Object]) -> bool:
        """Whether the recording goes on after these events, or broke off: the emulator may be further already."""
        if events is self.recorded:
            return self.broke_off
        return facet in ("tracked", "counted")

    def pod_name(self) -> str:
        return next(str(one["object"]["metadata"]["name"]) for one in self.seen if one["object"]["kind"] == "Pod")

    async def act(self, step: Step) -> None:
        """Do what was done to the real cluster, and compare the answer."""
        if step.words.startswith(("kubelet", "outside")):
            await self.act_outside(step)
            return
        if "at once" not in step.words:
            await self.trapped()
        for response, *call in await self.calls(step):
            await self.same(response, *call)

    async def act_outside(self, step: Step) -> None:
        if step.words == "kubelet killed":
            await asyncio.to_thread(self.emulator.node_away)
        elif step.words == "kubelet started":
            await asyncio.to_thread(self.emulator.node_back)
        else:
            alive = not step.line["outside"].startswith("0 ")
            await self.until(lambda: bool(self.emulator.processes()) == alive)

    async def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    async def trapped(self) -> None:
        """Wait until a workload that sets a trap for SIGTERM has set it."""

        def ready() -> bool:
            for pid in self.emulator.processes()[:1]:
                with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since: looked at again
                    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
                    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt", "SigIgn"))]
                    return any(mask >> 14 & 1 for mask in masks)
                return False
            return True

        if "trap" in json.dumps(self.body):
            await self.until(ready)

    async def calls(self, step: Step) -> list[tuple[Any, ...]]:
        """Return the requests of an action, each after the answer that the real server gave."""
        words, response = step.words, step.line.get("response")
        pods, jobs = "/api/v1/namespaces/default/pods", "/apis/batch/v1/namespaces/default/jobs"
        pod, job = f"{pods}/{self.pod_name()}", f"{jobs}/{self.new}"
        suspend = ("PATCH", job, {"spec": {"suspend": True}}, "application/strategic-merge-patch+json")
        if found := re.match(r"DELETE pod grace\D*(\d+)( twice)?", words):
            answers = response if found[2] else [response]
            return [(answer, "DELETE", f"{pod}?gracePeriodSeconds={self.grace(found[1])}") for answer in answers or []]
        if found := re.match(r"DELETE job propagationPolicy=(\w+)", words):
            return [(response, "DELETE", f"{job}?propagationPolicy={found[1]}")]
        if words.startswith("PATCH job spec.suspend=true"):
            return [(response, *suspend)]
        if words.startswith("POST the same job name"):
            return [(response, "POST", jobs, self.body)]
        if words.startswith("GET pod log"):
            return [(response, "GET", f"{pod}/log?tailLines=10&timestamps=true")]
        if isinstance(response, list):
            unknown = (("GET", f"{pods}/nope"), ("DELETE", f"{pods}/nope"), ("DELETE", f"{jobs}/nope"))
            calls = unknown if "unknown" in words else (("DELETE", pod), suspend)
            return [(answer, *call) for answer, call in zip(response, calls, strict=True)]
        method, path = words.split()
        path = re.sub(r"/pods/[^/]+", f"/pods/{self.pod_name()}", path)
        body = step.line.get("body")
        return [(response, method, path, json.loads(self.graces(json.dumps(body))) if body else None)]

    def grace(self, text: str) -> int:
        return self.variant.grace(int(text))

    def graces(self, text: str) -> str:
        return re.sub(r'(gracePeriodSeconds": )(\d+)', lambda found: found[1] + str(self.grace(found[2])), text)

    async def same(self, response: Any, *call: Any) -> None:
        """Send a request; the answer must be what the real server answered, as far as it is not about times."""
        status, body = await self.call(*call)
        if isinstance(response, str):
            stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
            # Output takes a while to the log.
            end = time.monotonic() + PATIENCE
            while stamp.sub("", body) != stamp.sub("", response) and time.monotonic() < end:
                await asyncio.sleep(0.02)
                status, body = await self.call(*call)
            assert all(stamp.match(line) for line in body.splitlines())
            assert stamp.sub("", body) == stamp.sub("", response)
            return
        if isinstance(response, dict) and set(response) == {"status", "body"}:
            assert status == response["status"]
            response = response["body"]
        if isinstance(response, dict) and response.get("kind") == "Status":
            response = json.loads(json.dumps(response).replace(self.old, self.new))
            for item in (response, body):
                item.get("details", {}).pop("uid", None)
            assert body == response
        elif isinstance(response, dict) and response.get("kind") in ("Pod", "Job"):
            assert body["kind"] == response["kind"]
            for name in ("deletionGracePeriodSeconds", "generation"):
                wanted = response["metadata"].get(name)
                wanted = self.variant.grace(wanted) if wanted and "Grace" in name else wanted
                assert body["metadata"].get(name) == wanted, name


async def replay(name: str, variant: Variant) -> None:
    # The garbage collector comes after the Job controller's first look, on a busy machine too.
    timing = replace(Timing(node_monitor=3.0, pod_collect=6.0).scaled(SCALE), collect=0.1)
    if any('"exitCode": 42' in json.dumps(event) for event in read(name)[2]):
        # Nothing waits for a grace here: it leaves a handler the time that a busy machine takes.
        timing = replace(timing, second=1.0)
    if "right-after-create" in name:
        # The kubelet has begun before it is told to stop: keep it busy for as long as a busy machine may take.
        timing = replace(timing, observe=2.0, start=2.0, job_write=1.6)
    async with (
        K8sEmulator(timing=timing, missing=("localhost/none:*",)) as emulator,
        aiohttp.ClientSession(emulator.url, timeout=aiohttp.ClientTimeout(total=None)) as http,
    ):
        await Replay(emulator, http, name, variant).run()


@batches(NAMES)
def test_replay(names: list[str], subtests: pytest.Subtests) -> None:
    all_of_them({f"{name}, {one.name}": replay(name, one) for name in names for one in (SAME, OTHER)}, subtests)
