"""Every recording of a real agent, replayed: the same requests must lead to the same answers, states and task events.

Each recording runs as it was, and with another job id, other kill timeouts and other exit codes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from replaying import all_of_them, batches, until_no
from yarl import URL

RECORDINGS = Path(__file__).parent.parent / "recordings" / "nomad"
#: No requests, but what was found out: test_nomad_answers.py finds it out again.
FOUND_OUT = ("interpolation-one-by-one", "event-stream-index")
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.ndjson") if path.stem not in FOUND_OUT)
#: How fast the emulated cluster is, kill timeouts and deadlines included; the workloads' own sleeps stay as they are.
SCALE = 0.25
#: Seconds between two steps, at most.
PAUSE = 0.6
#: Seconds for the emulator to reach a state of the recording.
PATIENCE = 50.0
#: Seconds that the emulator stays in a short state in which it is asked for something, as the real one was.
BUSY = 2.0
#: Deadlines are so many times as long: a busy machine has to be past the start by then.
DEADLINE = 4
#: The recorded agent's `max_kill_timeout`, and the kill timeout that a job has without one, in nanoseconds.
CAP, DEFAULT, SECOND = 15 * 10**9, 5 * 10**9, 10**9
CODES = {42: 17, 43: 18, 3: 5, 7: 9}
READ, CAPABILITIES = 'policy = "read"', "capabilities = [{}]"
#: What the tokens of the recording were allowed, in the default namespace.
TOKENS = {
    "read-only": READ,
    "submit": CAPABILITIES.format('"submit-job", "read-job", "list-jobs"'),
    "full": CAPABILITIES.format('"submit-job", "read-job", "list-jobs", "alloc-lifecycle", "read-logs"'),
}
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Numbers and times that are never the same twice; whether they are there at all still counts.
VOLATILE = re.compile(r".*Index|.*Time|AllocationTime|StartedAt|FinishedAt|WaitUntil|NormScore|Scores|SigningKeyID")
Object = dict[str, Any]


class Different(AssertionError):
    """The emulator does something else than the real agent did."""


@dataclass(frozen=True)
class Variant:
    """How a replay differs from its recording."""

    name: str
    shift: int
    codes: dict[int, int]


SAME, OTHER = Variant("as recorded", 0, {}), Variant("varied", SECOND, CODES)


# -- what is compared -----------------------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Return what counts of a value: everything but times, indexes, ids and the luck of a choice."""
    if isinstance(value, dict):
        return {name: _field(name, one) for name, one in sorted(value.items())}
    if isinstance(value, list):
        return [shape(one) for one in value]
    if isinstance(value, str):
        text = UUID.sub("UUID", value)
        text = re.sub(r"\b[0-9a-f]{64}\b", "CONTAINER", text)
        # How the lost connection to an executor is called differs from time to time.
        return re.sub(r'(error waiting on process: rpc error: code = )[^"]*', r"\1LOST", text)
    return value


def _field(name: str, value: Any) -> Any:
    if name == "ClassEligibility":
        return sorted(value.values())
    if VOLATILE.fullmatch(name):
        return "there" if value else value if value in (None, 0) else ""
    return shape(value)


def alloc_state(event: Object) -> Object:
    """Return what counts of an allocation at one moment, its task events aside."""
    alloc = event["Payload"]["Allocation"]
    tasks = {
        name: (one["State"], one["Failed"], bool(one["StartedAt"]), bool(one["FinishedAt"]), one["Restarts"])
        for name, one in (alloc.get("TaskStates") or {}).items()
    }
    names = ("ClientStatus", "ClientDescription", "DesiredStatus", "DesiredDescription", "DesiredTransition")
    links = {name: bool(alloc.get(name)) for name in ("PreviousAllocation", "NextAllocation", "AllocStates")}
    return {name: alloc.get(name) for name in names} | links | {"tasks": tasks}


def task_events(event: Object) -> Any:
    """Return an allocation's task events, times aside."""
    states = event["Payload"]["Allocation"].get("TaskStates") or {}
    return {name: shape(one["Events"]) for name, one in states.items()}


def job_state(event: Object) -> Object:
    job = event["Payload"]["Job"]
    return {"type": event["Type"]} | {name: job[name] for name in ("Status", "Stop", "Version")}


def eval_state(event: Object) -> Object:
    shown = shape(event["Payload"]["Evaluation"])
    if shown["Status"] == "pending":
        # A real server tells it in events of before it was known, now and then.
        shown.pop("NextEval", None)
    return {"type": event["Type"], "eval": shown}


def distinct(states: list[Any]) -> list[Any]:
    return [one for number, one in enumerate(states) if number == 0 or states[number - 1] != one]


def by_key(events: list[Object], topic: str) -> list[list[Object]]:
    """Return the events of a topic, each object's together, in order of the objects' first ones."""
    found: dict[str, list[Object]] = {}
    for event in events:
        if event["Topic"] == topic:
            found.setdefault(event["Key"], []).append(event)
    return list(found.values())


def idle(events: list[Object]) -> bool:
    """Whether an evaluation found nothing to do; how often a returning node asks for one is not fixed."""
    last = events[-1]["Payload"]["Evaluation"]
    cause = last["TriggeredBy"] in ("node-update", "reconnect", "max-disconnect-timeout")
    updates = (last.get("PlanAnnotations") or {}).get("DesiredTGUpdates") or {}
    counts = [count for one in updates.values() for name, count in one.items() if name != "Ignore"]
    return cause and not any(counts) and not any(one["Type"] == "PlanResult" for one in events)


def passing(states: list[Object], number: int, *, brief: bool) -> bool:
    """Whether a client may or may not tell this state, as it tells what is not urgent once a second."""
    state = states[number]
    if state["ClientStatus"] == "pending" and state["tasks"]:
        return True
    after = states[number + 1] if number + 1 < len(states) else None
    ends = after is not None and after["ClientStatus"] in ("complete", "failed") and after["DesiredStatus"] == "run"
    return brief and state["ClientStatus"] == "running" and ends


def brief(events: list[Object]) -> bool:
    """Whether a task has ended by itself within the second that a client may keep its start to itself."""
    for state in (events[-1]["Payload"]["Allocation"].get("TaskStates") or {}).values():
        times = {one["Type"]: one["Time"] for one in state["Events"]}
        if "Started" in times and "Terminated" in times and times["Terminated"] - times["Started"] < 1.5 * SECOND:
            return True
    return False


def allocs(events: list[Object], other: list[Object]) -> list[list[Object]]:
    """Return the states of every allocation, but those that may be skipped."""
    short = any(brief(one) for one in by_key(events, "Allocation") + by_key(other, "Allocation"))
    lives = [distinct([alloc_state(one) for one in life]) for life in by_key(events, "Allocation")]
    return [[state for number, state in enumerate(life) if not passing(life, number, brief=short)] for life in lives]


def evals(events: list[Object]) -> list[list[Object]]:
    return [[eval_state(one) for one in life] for life in by_key(events, "Evaluation") if not idle(life)]


def jobs(events: list[Object]) -> list[list[Object]]:
    return [awake(distinct([job_state(one) for one in life])) for life in by_key(events, "Job")]


def awake(states: list[Object]) -> list[Object]:
    """Leave out that a dead job is pending while an evaluation looks at it; how often a node asks is not fixed."""
    kept: list[Object] = []
    for state in states:
        again = kept and kept[-1]["Status"] == "dead" and state["Version"] == kept[-1]["Version"]
        if not (again and state["type"] in ("EvaluationUpdated", "AllocationUpdated")):
            kept.append(state)
    return kept


# -- recordings -----------------------------------------------------------------------------------------------------


class Recording:
    """A recording, as it is to be expected of a variant."""

    def __init__(self, name: str, variant: Variant, id: str) -> None:
        text = (RECORDINGS / f"{name}.ndjson").read_text(encoding="utf-8")
        first = re.search(r'"ID": ?"(agora-[0-9a-f]{8})', text)
        self.old, self.new = first[1] if first else "", id
        lines = [json.loads(line.replace(self.old, id) if self.old else line) for line in text.splitlines()]
        graces: dict[int, int] = {}
        for line in lines:
            for asked in re.findall(r'"KillTimeout": (\d+)', json.dumps(line.get("body"))):
                given = int(asked)
                wanted = given + variant.shift if given >= SECOND else given
                graces |= {min(given or DEFAULT, CAP): min(wanted or DEFAULT, CAP), given or DEFAULT: wanted or DEFAULT}
        # What was seen from outside was written down late now and then.
        self.lines = sorted((vary(line, variant, graces) for line in lines), key=lambda line: line.get("t", 0))
        self.events = [line["event"] for line in self.lines if "event" in line]
        self.allocs = list(dict.fromkeys(self._alloc_ids()))

    def _alloc_ids(self) -> list[str]:
        known = [one["Key"] for one in self.events if one["Topic"] == "Allocation"]
        urls = [line["request"] for line in self.lines if "request" in line and "/alloc" in line["request"]]
        logs = [line["request"] for line in self.lines if "/logs/" in line.get("request", "")]
        ids = [one for url in (*urls, *logs) for one in UUID.findall(url)]
        return known + [one for one in ids if not one.startswith("00000000")]

    def before(self, number: int) -> list[Object]:
        """Return the events that had been seen before a line; an index in its answer tells it better than the clock."""
        line = self.lines[number]
        index = (line.get("response") or {}).get("Index") if isinstance(line.get("response"), dict) else None
        if line.get("request", "").split()[0:1] != ["GET"] and isinstance(index, int) and index > 1:
            return [one for one in self.events if one["Index"] < index]
        return [one["event"] for one in self.lines if "event" in one and one["t"] < line["t"]]

    @property
    def body(self) -> Object:
        """The first job that was registered."""
        return next((line["body"] for line in self.lines if line.get("request") == "POST /v1/jobs"), {})

    @property
    def handled(self) -> bool:
        """Whether a task ended by its own handler, which takes half a second."""
        return bool(re.search(r'"(exit_code|ExitCode)": "?(42|43|17|18)\b', json.dumps(self.lines)))

    @property
    def scale(self) -> float:
        """How fast the cluster is; half as fast where a handler has to be done before a deadline is."""
        deadlines = r'"(LostAfter|StopOnClientAfter|Deadline)": [1-9]'
        return 2 * SCALE if self.handled and re.search(deadlines, json.dumps(self.lines)) else SCALE

    @property
    def lost_codes(self) -> int:
        """How many killed tasks of raw_exec ended without an exit code, by chance."""
        last = {one["Key"]: json.dumps(one) for one in self.events if one["Topic"] == "Allocation"}
        return sum("error reading from server: EOF" in one for one in last.values())


def vary(line: Any, variant: Variant, graces: dict[int, int]) -> Any:
    """Change kill timeouts and exit codes in whatever a recording says."""
    if isinstance(line, dict):
        if line.get("command") == "/bin/busybox":
            # Not every machine has it where the recorded chroot had.
            line = {**line, "command": "/bin/sh", "args": line["args"][1:]}
        return {name: _varied(name, one, variant, graces) for name, one in line.items()}
    if isinstance(line, list):
        return [vary(one, variant, graces) for one in line]
    if isinstance(line, str):
        code = r"(exit |Exit Code: |exit code: )(\d+)\b"
        text = line.replace("/bin/busybox ", "/bin/")
        text = re.sub(code, lambda found: found[1] + str(variant.codes.get(int(found[2]), int(found[2]))), text)
        grace = r"(Waiting )([\d.]+)(s before)"
        return re.sub(grace, lambda found: found[1] + _seconds(found[2], graces) + found[3], text)
    return line


def _seconds(seconds: str, graces: dict[int, int]) -> str:
    given = round(float(seconds) * SECOND)
    return f"{graces.get(given, given) / SECOND:g}"


def _varied(name: str, value: Any, variant: Variant, graces: dict[int, int]) -> Any:
    if name == "KillTimeout" and value:
        return graces.get(value, value)
    if name == "kill_timeout" and re.fullmatch(r"[\d.]+s", value):
        return _seconds(value[:-1], graces) + "s"
    if name == "MaxRunDuration" and value:
        return value * DEADLINE
    if name == "ExitCode":
        return variant.codes.get(value, value)
    if name == "exit_code":
        return str(variant.codes.get(int(value), int(value)))
    return vary(value, variant, graces)


# -- the replay -----------------------------------------------------------------------------------------------------


class Replay:
    """A recording and an emulator."""

    def __init__(self, emulator: NomadEmulator, http: aiohttp.ClientSession, recording: Recording) -> None:
        self.emulator, self.http, self.recording, self.scale = emulator, http, recording, recording.scale
        self.id = recording.new
        self.seen: list[Object] = []
        self.nodes: list[str] = ["ready"]
        self.tokens: dict[str, str] = {}
        self.registered: set[str] = set()
        self.indexes: dict[str, str] = {}
        self.waiting: list[tuple[Object, asyncio.Task[tuple[int, Any, dict[str, str]]]]] = []
        self.up = True
        self.scripts = json.dumps([line.get("body") for line in recording.lines])

    async def run(self) -> None:
        watch = asyncio.create_task(self._watch())
        try:
            await self.prepare()
            last = 0.0
            for number, line in enumerate(self.recording.lines):
                if "event" not in line:
                    await asyncio.sleep(min(max(line.get("t", last) - last, 0) * self.scale, PAUSE))
                    last = line.get("t", last)
                    await self.step(number, line)
            for line, answer in self.waiting:
                self.same(line, *await answer)
            await self.reach(self.recording.events, final=True)
            # What comes too much would come within the client's period.
            await asyncio.sleep(1.2 * self.scale)
            await self.reach(self.recording.events, final=True)
            self.compare_task_events()
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _watch(self) -> None:
        topics = [
            ("topic", one) for one in (f"Job:{self.id}", f"Allocation:{self.id}", f"Evaluation:{self.id}", "Node")
        ]
        headers = {"X-Nomad-Token": self.emulator.management_token}
        async with self.http.get("/v1/event/stream", params=topics, headers=headers) as response:
            async for line in response.content:
                for event in json.loads(line).get("Events", []):
                    if event["Topic"] == "Node":
                        self.nodes.append(event["Payload"]["Node"]["Status"])
                    else:
                        self.seen.append(event)

    async def prepare(self) -> None:
        """Do what was done before the recording began."""
        self.emulator.faults.lose_exit_codes(self.recording.lost_codes)
        for name, rules in TOKENS.items():
            policy = f'namespace "default" {{ {rules} }}'
            self.tokens[name] = self.emulator.token(policy)
        others = {one["ID"] for line in self.recording.lines for one in listed_jobs(line)} - {self.id}
        others |= {line["headers"]["X-Nomad-Nexttoken"].removeprefix("default.") for line in self.recording.lines
                   if "default." in (line.get("headers") or {}).get("X-Nomad-Nexttoken", "")}  # fmt: skip
        for one in sorted(others):
            body = json.loads(json.dumps(self.recording.body).replace(self.id, one).replace("exit 0", "exit 3"))
            body["Job"]["Meta"] = {"agora.dispatch_id": one}
            status, *_ = await self.call("POST", "/v1/jobs", body)
            assert status == 200
        for one in sorted(others):
            await self.until(f"{one} is dead", partial(self.dead, one))

    def dead(self, id: str) -> bool:
        job = self.emulator._cluster.store.jobs.get(("default", id))
        return job is not None and job["Status"] == "dead"

    async def call(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any, dict[str, str]]:
        text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        data = io.BytesIO(text.encode()) if text else None
        headers = {"X-Nomad-Token": token} if token else {}
        url = URL(self.emulator.url + path, encoded=True)
        async with self.http.request(method, url, data=data, headers=headers) as response:
            text = await response.text()
            shown = dict(response.headers)
            if "json" in shown.get("Content-Type", ""):
                return response.status, json.loads(text), shown
            return response.status, text, shown

    async def until(self, words: str, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise Different(f"not within {PATIENCE} s: {words}")
            await asyncio.sleep(0.005)

    # -- steps ---------------------------------------------------------------------------------------------------

    async def step(self, number: int, line: Object) -> None:
        if "request" in line:
            await self.request(number, line)
        elif "outside" in line and not self.passing(number):
            await self.outside(line["outside"])
        elif str(line.get("note", "")).startswith("("):
            await self.state(number, line["note"])
        elif "note" in line:
            await self.reach(self.recording.before(number))
            await self.move(line["note"])

    async def move(self, note: str) -> None:
        """Do to machines what was done to them."""
        if re.search("(client )?agent killed", note):
            await self.away()
        elif re.search("(client )?agent started", note):
            await self.back()
        elif note == "server frozen":
            await asyncio.to_thread(self.emulator.server_away)
        elif note == "server back":
            # The servers have missed the client for long by then.
            await asyncio.sleep(12 * self.scale)
            await asyncio.to_thread(self.emulator.server_back)

    async def away(self) -> None:
        self.up = False
        await asyncio.to_thread(self.emulator.node_away)

    async def back(self) -> None:
        self.up = True
        await asyncio.to_thread(self.emulator.node_back)

    async def state(self, number: int, note: str) -> None:
        """Reach a state of the node; what the client was told to do between is not noted."""
        status = re.search("'node (\\w+)'", note)
        assert status is not None
        wanted = status[1]
        # Nobody wrote down everywhere when the agent was killed and started: then it must have been before this.
        if wanted in ("down", "disconnected") and self.up and not self.noted("client agent killed"):
            await self.away()
        there = wanted in ("ready", "initializing") and self.nodes[-1] in ("down", "disconnected")
        if there and not self.up and not self.noted("client agent started"):
            await self.back()
        await self.until(f"node {wanted}", lambda: wanted in self.nodes)
        await self.reach(self.recording.before(number))

    def noted(self, words: str) -> bool:
        return any(line.get("note") == words for line in self.recording.lines)

    async def outside(self, words: str) -> None:
        """See from outside what was seen from outside."""
        count = int(words.split()[0])
        if "children" in words:
            await self.until(words, lambda: not self.marked("CHILD-MARK"))
        elif count > 1 and len(self.recording.allocs) > 1:
            await self.until(words, lambda: len(self.marked(self.id)) >= count)
        else:
            await self.until(words, lambda: bool(self.marked(self.id)) == bool(count))

    def passing(self, number: int) -> bool:
        """Whether something else was seen from outside soon after this."""
        line = self.recording.lines[number]
        return any("outside" in one and 0 < one["t"] - line["t"] < 0.6 for one in self.recording.lines)

    def marked(self, mark: str) -> list[int]:
        """Return live processes of the job with a mark among their arguments."""
        found = []
        for pid in self.emulator.processes(self.id):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0"):
                    found.append(pid)
        return found

    async def trapped(self) -> None:
        """Wait until a workload that sets a trap has set it."""

        def ready() -> bool:
            if all(one.ended for one in self.emulator._cluster.containers(self.id)):
                return True
            for pid in self.emulator.processes(self.id)[:1]:
                with contextlib.suppress(OSError):
                    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
                    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt", "SigIgn"))]
                    return any(mask >> 14 & 1 for mask in masks)
            return False

        if "trap" in self.scripts:
            await self.until("a trap", ready)

    async def request(self, number: int, line: Object) -> None:
        method, path = line["request"].split(" ", 1)
        if method in ("DELETE", "PUT") or "/signal" in path or "/stop" in path or "/drain" in path:
            await self.reach(self.recording.before(number))
            await self.trapped()
        elif method == "GET":
            await self.reach(self.recording.before(number))
            if not self.recording.events:
                await self.until("the end", self.as_over_as_recorded)
        body = await self.body(line)
        path = await self.translated(path)
        token = self.tokens_of(line.get("note", ""))
        if "index=" in path:
            self.waiting.append((line, asyncio.create_task(self.call(method, path, token=token))))
            return
        status, _, headers = await self.answer(line, method, path, body, token)
        self.indexes[line["headers"].get("X-Nomad-Index", "")] = headers.get("X-Nomad-Index", "")
        if status == 200 and method == "POST" and path == "/v1/jobs":
            self.registered.add(body["Job"]["ID"])
        if "purge=true" in path:
            self.registered.clear()

    async def answer(
        self, line: Object, method: str, path: str, body: Any, token: str
    ) -> tuple[int, Any, dict[str, str]]:  # fmt: skip
        """Send a request and return the answer, which is the recorded one.

        What a GET finds develops by itself: it is asked again until it is as recorded. A refusal, and what a request
        brings about, must be right at once.
        """
        end = time.monotonic() + PATIENCE
        while True:
            answer = await self.call(method, path, body, token)
            try:
                self.same(line, *answer)
            except Different:
                develops = method == "GET" and line["status"] == 200 and answer[0] in (200, 404)
                if not develops or time.monotonic() > end:
                    raise
            else:
                return answer
            await asyncio.sleep(0.02)

    def as_over_as_recorded(self) -> bool:
        """Whether the allocation is over, if the recorded one was when it was read."""
        read = [line["response"] for line in self.recording.lines if isinstance(line.get("response"), dict)]
        dead = any('"State": "dead"' in json.dumps(one) for one in read)
        told = [one for one in self.seen if one["Topic"] == "Allocation"]
        return not dead or (bool(told) and '"State": "dead"' in json.dumps(told[-1]))

    def tokens_of(self, note: str) -> str:
        kind = note.removeprefix("token: ")
        known = {"unknown": str(uuid.uuid4()), "malformed": "nope", "none": ""}
        return known.get(kind, self.tokens.get(kind, "")) if note.startswith("token: ") else ""

    async def body(self, line: Object) -> Any:
        """Return a request's body; where a job was purged before, unrecorded, purge it."""
        body = line.get("body")
        if isinstance(body, dict) and body.get("Job"):
            text = json.dumps(body)
            text = re.sub(r'"(\d+) times (.)"', lambda found: json.dumps(found[2] * int(found[1])), text)
            body = json.loads(text)
            id = body["Job"]["ID"]
            if line["status"] == 200 and id in self.registered and body.get("JobModifyIndex") == 0:
                await self.call("DELETE", f"/v1/job/{id}?purge=true")
            if body.get("JobModifyIndex"):
                _, job, _ = await self.call("GET", f"/v1/job/{id}")
                body["JobModifyIndex"] = job["JobModifyIndex"]
        return body

    async def translated(self, path: str) -> str:
        """Return a path with the emulator's ids."""
        meant = [number for number, one in enumerate(self.recording.allocs) if one in path]
        await self.until("the allocation", lambda: all(number < len(self.own_allocs()) for number in meant))
        own = [one["ID"] for one in self.own_allocs()]
        for old, new in zip(self.recording.allocs, own, strict=False):
            path = path.replace(old, new)
        path = re.sub(r"(?<=[?&]index=)\d+", lambda found: self.indexes.get(found[0], found[0]), path)
        node = next(iter(self.emulator._cluster.clients))
        return UUID.sub(node, path) if "/v1/node/" in path else path

    def own_allocs(self) -> list[Object]:
        rows = [one for one in self.emulator._cluster.store.allocs.values() if one["JobID"] == self.id]
        seen = [one["Key"] for one in self.seen if one["Topic"] == "Allocation"]
        gone = [{"ID": one} for one in dict.fromkeys(seen)]
        return gone or sorted(rows, key=lambda one: int(one["CreateIndex"]))

    # -- comparing -----------------------------------------------------------------------------------------------

    def same(self, line: Object, status: int, answer: Any, headers: dict[str, str]) -> None:
        """Compare an answer with the recorded one."""
        where = f"{line['request']} {line.get('note', '')}"
        if status != line["status"]:
            raise Different(f"{where}: real {line['status']}, emulated {status} {answer!r:.300}")
        wanted = {name.lower(): value for name, value in line["headers"].items()}
        given = {name.lower(): value for name, value in headers.items()}
        for name, value in wanted.items():
            exact = name == "content-type" or value == "0"
            if name not in given or (exact and given[name] != value):
                raise Different(f"{where}: header {name}: real {value}, emulated {given.get(name)}")
        real = line.get("response")
        if re.match(r"GET /v1/(jobs|allocations)", line["request"]) and isinstance(real, list):
            real, answer = (self.rows(one) for one in (real, answer))
        real, answer = normal(real), normal(answer)
        if real != answer:
            raise Different(f"{where}:\n{difference(real, answer)}")

    def rows(self, items: list[Object]) -> list[Any]:
        """Return a list, of the job's own rows everything and of others only what they tell."""
        return [one if self.id in (one["ID"], one.get("JobID")) else sorted(one) for one in items]

    async def reach(self, events: list[Object], *, final: bool = False) -> None:
        """Wait until the emulator has shown what these events show; fail with the first difference."""
        if problems := await until_no(lambda: self.differences(events, final=final), self.seen, PATIENCE):
            raise Different("\n".join(problems))

    def differences(self, events: list[Object], *, final: bool) -> list[str]:
        if not self.recording.events:
            return []
        pairs = {
            "allocation": (allocs(events, self.seen), allocs(self.seen, events)),
            "evaluation": (evals(events), evals(self.seen)),
            "job": (jobs(events), jobs(self.seen)),
        }
        problems = []
        for topic, (real, emulated) in pairs.items():
            cut = [life[: len(other)] for life, other in zip(emulated, real, strict=False)]
            shown = emulated if final else cut
            if real != shown:
                problems.append(f"{topic}s:\n{difference(real, shown)}")
        return problems

    def compare_task_events(self) -> None:
        real = [task_events(life[-1]) for life in by_key(self.recording.events, "Allocation")]
        emulated = [task_events(life[-1]) for life in by_key(self.seen, "Allocation")]
        if real and real != emulated:
            raise Different(f"task events:\n{difference(real, emulated)}")


def listed_jobs(line: Object) -> list[Object]:
    """Return the rows of an answer that is a list of jobs."""
    rows = line.get("response")
    wanted = line.get("request", "").startswith("GET /v1/jobs") and isinstance(rows, list)
    return rows if wanted and rows is not None else []


def normal(answer: Any) -> Any:
    """Return what counts of an answer; lists are in order of random ids, here in order of creation."""
    if isinstance(answer, list) and answer and isinstance(answer[0], dict) and "CreateIndex" in answer[0]:
        answer = sorted(answer, key=lambda one: int(one["CreateIndex"]))
        if "TriggeredBy" in answer[0]:
            answer = [one for one in answer if one["TriggeredBy"] not in ("node-update", "reconnect")]
    return shape(answer)


def difference(real: Any, emulated: Any, path: str = "") -> str:
    """Return the first place in which two values differ."""
    if isinstance(real, dict) and isinstance(emulated, dict):
        for name in sorted(real.keys() | emulated.keys()):
            if real.get(name, "-") != emulated.get(name, "-"):
                return difference(real.get(name, "-"), emulated.get(name, "-"), f"{path}.{name}")
    if isinstance(real, list) and isinstance(emulated, list):
        for number in range(max(len(real), len(emulated))):
            pair = [one[number] if number < len(one) else "nothing" for one in (real, emulated)]
            if pair[0] != pair[1]:
                return difference(pair[0], pair[1], f"{path}[{number}]")
    return f"at {path}\n  real     {real!s:.1500}\n  emulated {emulated!s:.1500}"


async def replay(name: str, variant: Variant) -> None:
    """Replay a recording.

    Raises:
        Different: the emulator does something else.
    """
    id = f"agora-f{uuid.uuid4().hex[:7]}"
    recording = Recording(name, variant, id)
    timing = Timing(leader=0.5, stream_denied=0.5).scaled(recording.scale)
    if recording.handled and recording.scale == SCALE:
        # Nothing waits for a kill timeout here: it leaves a handler the time that a busy machine takes.
        timing = replace(timing, second=1.0)
    if any("not started yet" in str(line.get("response")) for line in recording.lines):
        # The log is asked for before the task runs, however busy the machine is.
        timing = replace(timing, start=BUSY)
    last = [one["Payload"]["Allocation"] for one in recording.events if one["Topic"] == "Allocation"][-1:]
    if any("Task Setup" not in json.dumps(one.get("TaskStates")) for one in last):
        # The client heard of the job's start only after its end.
        timing = replace(timing, observe=BUSY)
    if any("agent killed with" in line.get("note", "") for line in recording.lines):
        # That agent was the server, too: nobody missed the client.
        timing = replace(timing, heartbeat=600.0)
    if any(line.get("note") == "server frozen" for line in recording.lines):
        # The client is heard of again while the servers still think about what its silence meant.
        timing = replace(timing, schedule=0.05, observe=0.02)
    if '"Driver": "exec"' in json.dumps(recording.body):
        # The recorded agent took that long to build a chroot.
        timing = replace(timing, chroot=BUSY)
    if recording.events and not recording.allocs:
        # The job was stopped before the plan of its start was carried out: keep the scheduler busy for that long.
        timing = replace(timing, schedule=BUSY)
    async with (
        NomadEmulator(
            timing=timing, missing=("*/none:*",), acl="access" in name, max_kill_timeout=CAP / SECOND,
            environment={"HOME": "/home/nomad", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
        ) as emulator,
        aiohttp.ClientSession(emulator.url, timeout=aiohttp.ClientTimeout(total=None)) as http,
    ):  # fmt: skip
        await Replay(emulator, http, recording).run()


@batches(NAMES)
def test_replay(names: list[str], subtests: pytest.Subtests) -> None:
    all_of_them({f"{name}, {one.name}": replay(name, one) for name in names for one in (SAME, OTHER)}, subtests)
