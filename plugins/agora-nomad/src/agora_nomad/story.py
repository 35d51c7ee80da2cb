"""What the cluster's records say about one workload: pure functions from a job and its allocations.

Proof of death is a task that is `dead` and has a `FinishedAt`, and nothing else: `lost`, `unknown`, `complete` and a
dead job are said while the process runs on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agora.model.observation import SECOND_COPY, EndedBy, Observation, Phase

from agora_nomad import names, placing

Item = dict[str, Any]

#: States of an allocation in which the server has lost sight of its client.
AWAY = frozenset({"lost", "unknown"})
#: Evaluations that may still place something.
_OPEN = frozenset({"pending", "blocked"})
#: What an event of a task that never started is called here.
_REFUSED = {
    "Driver Failure": "start_failed",
    "Failed Validation": "job_refused",
    "Setup Failure": "start_failed",
    "Failed Artifact Download": "start_failed",
    "Sibling Task Failed": "start_failed",
}
_NO_PROGRAM = ("could not be found", "no such file", "executable file not found", "not found in $path")
_NO_IMAGE = ("failed to pull", "failed to find docker auth", "no such image", "failed to load image")
#: Signals whose sender means an end.
_ENDING = frozenset({"SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT"})
_KILLED = 137
#: A kill at the end of a grace may show so much early, in seconds.
_CLOCK = 0.5
#: A task keeps its last ten events (structs.Task, defaultMaxEvents).
_RING = 10
_WORDS = 1000
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def look(job: Item | None, allocations: Sequence[Item], evaluations: Sequence[Item] | None = None) -> Observation:
    """Say how a workload is.

    Parameters:
        job: its job, or what a list shows of it; null where there is none.
        allocations: every allocation of the job, read after it.
        evaluations: those of the job, read before the allocations; null where nobody asked for them.
    """
    allocation = current(allocations)
    if allocation is None:
        return _without_allocation(job, evaluations)
    if further := copies(allocations):
        words = f"allocation {further[0]['ID']} is a second copy of the workload and is being killed"
        native = {"allocation": further[0]["ID"]}
        return Observation(phase=Phase.RUNNING, reason=SECOND_COPY, message=words, native=native)
    return ended(job, allocation) or _alive(job, allocation)


def current(allocations: Sequence[Item]) -> Item | None:
    """Return the allocation that counts: the first that ran, else the last that may still run, else the first."""
    ordered = sorted(allocations, key=lambda one: one["CreateIndex"])
    ran = [one for one in ordered if _ran(one)]
    coming = [one for one in ordered if not _is_over(one)]
    return next(iter(ran or coming[-1:] or ordered), None)


def copies(allocations: Sequence[Item]) -> list[Item]:
    """Return the allocations that should not be there: Nomad has started, or is starting, the workload again."""
    first = current(allocations)
    if first is None or not _ran(first):
        return []
    return [one for one in allocations if one["CreateIndex"] > first["CreateIndex"] and not _is_over(one)]


def task(allocation: Item) -> Item:
    """Return the state of the workload's task, empty where its client has said nothing yet."""
    found: Item | None = (allocation.get("TaskStates") or {}).get(names.TASK)
    return found or {}


def moment(text: str | None) -> datetime | None:
    """Read a time of the API; null for none and for the year 1, which stands for none."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))


def nanoseconds(value: int) -> datetime:
    """Read a time that the API tells in nanoseconds since the epoch."""
    return datetime.fromtimestamp(value / 10**9, UTC)


def seconds(text: str | None) -> float | None:
    """Read a duration as Go writes one, `1m30s`; null for anything else."""
    parts = _DURATION.findall(text or "")
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def kill_timeout(job: Item | None) -> float | None:
    """Return the grace that a job asks for, in seconds; null where only a list showed it."""
    for group in (job or {}).get("TaskGroups") or ():
        for one in group.get("Tasks") or ():
            if one.get("Name") == names.TASK and one.get("KillTimeout"):
                return float(one["KillTimeout"]) / 10**9
    return None


def announced_grace(job: Item | None, allocation: Item) -> float | None:
    """Return the grace that the client announced when it began to kill; null before, and where it may be another.

    A grace that was changed on a running job is announced, and not used.
    """
    killing = _last(task(allocation).get("Events") or (), "Killing")
    return None if killing is None or _changed(job, allocation) else _grace_of(killing)


# -- the end ---------------------------------------------------------------------------------------------------


def ended(job: Item | None, allocation: Item) -> Observation | None:
    """Return the end of an allocation's workload, null where there is no proof of it."""
    if not _is_over(allocation):
        return None
    state = task(allocation)
    if not _ran(allocation):
        return _never(allocation)
    events = state.get("Events") or []
    terminated = _last(events, "Terminated")
    code = _code(terminated)
    details = (terminated or {}).get("Details") or {}
    oom = True if details.get("oom_killed") == "true" else None
    return Observation(
        phase=Phase.ENDED,
        exit_code=code,
        signal=_signal(terminated),
        oom=oom,
        reason="oom_killed" if oom else None,
        started_at=moment(state.get("StartedAt")),
        ended_at=moment(state.get("FinishedAt")),
        native=_native(allocation),
        **_stop(job, allocation, terminated, code),
    )


def _is_over(allocation: Item) -> bool:
    state = task(allocation)
    return state.get("State") == "dead" and moment(state.get("FinishedAt")) is not None


def _ran(allocation: Item) -> bool:
    state = task(allocation)
    events = state.get("Events") or ()
    return moment(state.get("StartedAt")) is not None or any(
        event["Type"] in ("Started", "Terminated") for event in events
    )


def _never(allocation: Item) -> Observation:
    reason, message = "never_started", None
    for event in task(allocation).get("Events") or ():
        if event["Type"] in _REFUSED:
            reason, message = _REFUSED[event["Type"]], _words(event)
            low = message.lower()
            if any(words in low for words in _NO_IMAGE):
                reason = "image_missing"
            elif any(words in low for words in _NO_PROGRAM):
                reason = "program_not_found"
    return Observation(
        phase=Phase.ENDED, never_started=True, reason=reason, message=_cut(message), native=_native(allocation)
    )


def _code(terminated: Item | None) -> int | None:
    """Return the exit code; -1 says that the driver has lost it."""
    if terminated is None:
        return None
    code = _number(terminated, "exit_code", "ExitCode", -1)
    return code if 0 <= code <= 255 else None


def _signal(terminated: Item | None) -> int | None:
    if terminated is None:
        return None
    number = _number(terminated, "signal", "Signal", 0)
    return number if 1 <= number <= 64 else None


def _number(event: Item, detail: str, field: str, default: int) -> int:
    text = (event.get("Details") or {}).get(detail)
    return int(event.get(field, default) if text is None else text)


def _stop(job: Item | None, allocation: Item, terminated: Item | None, code: int | None) -> dict[str, Any]:
    """Say what stopped a workload that had started: nobody, the backstop, somebody."""
    events = task(allocation).get("Events") or []
    before = events[: events.index(terminated)] if terminated is not None else events
    killing, signals = _last(before, "Killing"), [one for one in before if one["Type"] == "Signaling"]
    if killing is None:
        if terminated is None:
            return {}
        if not signals:
            # Unless its beginning was pushed out, the record is whole: nobody asked it to end.
            whole = len(events) < _RING or events[0]["Type"] == "Received"
            return {"stop_reached": False if whole else None}
        sent = {_sent(one) for one in signals} & _ENDING
        if sent and code != 0:
            return {"ended_by": EndedBy.EXTERNAL, "message": f"somebody sent {', '.join(sorted(sent))}"}
        return {}
    told: dict[str, Any] = {"stop_reached": True, **_forced(job, allocation, killing, signals, terminated, code)}
    grace = announced_grace(job, allocation)
    words = " ".join(filter(None, (_words(killing), allocation.get("ClientDescription"))))
    if "max_run_duration" in words:
        return {**told, "ended_by": EndedBy.DEADLINE, "message": "allocation exceeded max_run_duration"}
    message = _cut(allocation.get("DesiredDescription") or None)
    return {**told, "ended_by": EndedBy.EXTERNAL, "message": message, "effective_grace": grace}


def _forced(
    job: Item | None, allocation: Item, killing: Item, signals: list[Item], terminated: Item | None, code: int | None
) -> dict[str, Any]:
    """Infer whether it had to be killed, from the exit code and the client's times."""
    if terminated is None:
        return {}
    if code is not None and code != _KILLED:
        return {"forced": False, "evidence": "inferred"}
    shot = any(_sent(one) == "SIGKILL" for one in signals)
    grace = None if _changed(job, allocation) else _grace_of(killing)
    if not shot and grace is None:
        return {}
    lasted = (terminated["Time"] - killing["Time"]) / 10**9
    return {"forced": shot or lasted >= (grace or 0.0) - _CLOCK, "evidence": "inferred"}


def _grace_of(killing: Item) -> float | None:
    return seconds((killing.get("Details") or {}).get("kill_timeout"))


def _changed(job: Item | None, allocation: Item) -> bool:
    """Whether somebody has registered another version of the job over the running one."""
    if allocation.get("JobVersion"):
        return True
    version = (job or {}).get("Version") or 0
    return bool(version and not (job or {}).get("Stop"))


def _sent(signaling: Item) -> str:
    return str((signaling.get("Details") or {}).get("signal") or signaling.get("TaskSignal") or "")


def _last(events: Sequence[Item], kind: str) -> Item | None:
    return next((event for event in reversed(events) if event["Type"] == kind), None)


def _words(event: Item) -> str:
    details = event.get("Details") or {}
    said = (details.get(name) for name in ("driver_error", "validation_error", "setup_error", "download_error"))
    return next((str(text) for text in said if text), "") or str(event.get("DisplayMessage") or "")


# -- no end ----------------------------------------------------------------------------------------------------


def _alive(job: Item | None, allocation: Item) -> Observation:
    state = task(allocation)
    away = allocation.get("ClientStatus") in AWAY
    if state.get("State") == "running" or _ran(allocation):
        return Observation(
            phase=Phase.RUNNING,
            reachable=not away,
            reason="node_away" if away else None,
            started_at=moment(state.get("StartedAt")),
            effective_grace=announced_grace(job, allocation),
            native=_native(allocation),
        )
    events = state.get("Events") or ()
    message = _words(events[-1]) if events else None
    return Observation(
        phase=Phase.PENDING,
        reachable=not away,
        reason="node_away" if away else None,
        message=_cut(message),
        native=_native(allocation),
    )


def _without_allocation(job: Item | None, evaluations: Sequence[Item] | None) -> Observation:
    if job is None:
        return Observation(phase=Phase.ABSENT)
    if evaluations is None:
        return Observation(phase=Phase.PENDING)
    known = [one for one in evaluations if one["CreateIndex"] >= job["CreateIndex"]]
    if any(one["Status"] in _OPEN for one in known):
        why = next(filter(None, (placing.why_not(one) for one in known)), None)
        return Observation(phase=Phase.PENDING, reason="unplaceable" if why else None, message=_cut(why))
    if _never_placed(job, known):
        why = next(filter(None, (placing.why_not(one) for one in known)), None)
        return Observation(phase=Phase.ENDED, never_started=True, reason="never_placed", message=_cut(why))
    if job.get("Status") == "dead":
        return Observation(phase=Phase.ABSENT, message="the record of its allocation was removed")
    return Observation(phase=Phase.PENDING)


def _never_placed(job: Item, evaluations: Sequence[Item]) -> bool:
    """Whether a stopped job is proven never to have had an allocation.

    An allocation is removed together with the evaluation that made it, so every evaluation must be there still: from
    the registration on, each with those that followed from it.
    """
    if not job.get("Stop") or not evaluations:
        return False
    ids = {one["ID"] for one in evaluations}
    followed = {one[key] for one in evaluations for key in ("BlockedEval", "NextEval") if one.get(key)}
    done = {one["TriggeredBy"] for one in evaluations if one["Status"] == "complete"}
    return {"job-register", "job-deregister"} <= done and followed <= ids


def _native(allocation: Item) -> dict[str, Any]:
    native = {"allocation": allocation["ID"], "node": allocation.get("NodeName")}
    return {name: value for name, value in native.items() if value}


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _WORDS else text[: _WORDS - 1] + "…"
