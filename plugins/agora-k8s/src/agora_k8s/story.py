"""What the cluster's objects say about one workload: pure functions from a Job and its pods to an observation.

Proof of death is a container that is `terminated` and had started, and nothing else: a node that went away leaves
"Failed", "nothing active" and "pod gone" behind while the process runs on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from agora.model.observation import SECOND_COPY, EndedBy, Observation, Phase
from pydantic import ValidationError

from agora_k8s import names

Item = dict[str, Any]

#: Waiting reasons of a container that do not end by themselves, and what they are called here.
STUCK = {
    "ErrImageNeverPull": "image_missing",
    "InvalidImageName": "image_missing",
    "ErrImagePull": "image_missing",
    "ImagePullBackOff": "image_missing",
    "ImageInspectError": "image_missing",
    "RegistryUnavailable": "image_missing",
    "SignatureValidationFailed": "image_missing",
    "CreateContainerConfigError": "container_refused",
    "CreateContainerError": "container_refused",
    "RunContainerError": "container_refused",
}
#: Those that no time can heal.
HOPELESS = frozenset({"ErrImageNeverPull", "InvalidImageName"})
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
_KILLED = 137
#: Times of a node and of the API server differ by this much at most where they are compared, in seconds.
_SAME_CLOCK = 1.0
_WORDS = 1000


def look(job: Item | None, pods: Sequence[Item]) -> Observation:
    """Say how a workload is.

    Parameters:
        job: its Job, null where there is none.
        pods: every pod with its marks, listed before the Job.
    """
    pod = current(pods)
    if pod is None:
        return _without_pod(job)
    seen, told = ended(job, pod), None if job is None else recorded(job)
    if seen is not None and told is not None:
        # What was written down first stands, whatever has been seen since.
        return told.model_copy(update={"native": seen.native}) if len(pods) == 1 else told
    if seen is None and (told is not None or pod is not _ordered(pods)[0]):
        name = pod["metadata"]["name"]
        words = f"{name} is a second copy of the workload and is being killed"
        return Observation(phase=Phase.RUNNING, reason=SECOND_COPY, message=words, native={"pod": name})
    return seen or _alive(pod)


def current(pods: Sequence[Item]) -> Item | None:
    """Return the pod that counts: the newest that may still run, else the first one that ran."""
    ordered = _ordered(pods)
    if alive := [pod for pod in ordered if ended(None, pod) is None]:
        return alive[-1]
    ran = [pod for pod in ordered if (seen := ended(None, pod)) is not None and not seen.never_started]
    return next(iter(ran or ordered), None)


def _ordered(pods: Sequence[Item]) -> list[Item]:
    return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def moment(text: str | None) -> datetime | None:
    """Read a time of the API; null for none and for the epoch, which stands for none."""
    if not text:
        return None
    at = datetime.fromisoformat(text)
    return at if at.timestamp() > 0 else None


def condition(item: Item, name: str) -> Item | None:
    """Return a condition that is true."""
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == name and one["status"] == "True"), None)


def container(pod: Item) -> Item:
    """Return the status of the workload's container, empty where the node has said nothing yet."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((one for one in statuses if one["name"] == names.CONTAINER), {})


def is_over(job: Item) -> bool:
    """Whether a Job has ended, as far as the cluster is concerned."""
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def recorded(job: Item) -> Observation | None:
    """Return the end that was written on a Job."""
    text = names.annotation(job, names.RESULT)
    if text is None:
        return None
    try:
        seen = Observation.model_validate_json(text)
    except ValidationError:
        return None
    return seen if seen.phase is Phase.ENDED else None


def record(seen: Observation) -> str:
    """Write an end for `recorded`."""
    return seen.model_dump_json(exclude_defaults=True, exclude={"native"})


def stop_note(summary: str, grace: int, at: datetime | None) -> str:
    """Write what asked for a stop, for an annotation: who and why, the grace, when by the server's clock."""
    return json.dumps({"by": summary, "grace": grace, "at": None if at is None else at.isoformat()}, ensure_ascii=False)


# -- the end ---------------------------------------------------------------------------------------------------


def ended(job: Item | None, pod: Item) -> Observation | None:
    """Return the end of a pod's workload, null where there is no proof of it."""
    terminated = (container(pod).get("state") or {}).get("terminated")
    if terminated is not None:
        return _terminated(job, pod, terminated)
    status = pod.get("status") or {}
    bound = bool(pod["spec"].get("nodeName"))
    if not bound and pod["metadata"].get("deletionTimestamp"):
        # No node may take a pod that is being deleted.
        return _never(job, pod, "never_scheduled", status.get("message"))
    if status.get("phase") == "Failed" and not container(pod) and not (bound and condition(pod, "DisruptionTarget")):
        return _never(job, pod, "node_refused", f"{status.get('reason')}: {status.get('message')}")
    return None


def _never(job: Item | None, pod: Item | None, reason: str, message: str | None) -> Observation:
    given_up = None if job is None else names.annotation(job, names.GIVEN_UP)
    if given_up is not None:
        reason, _, message = given_up.partition(": ")
    return Observation(
        phase=Phase.ENDED,
        never_started=True,
        reason=reason,
        message=_cut(message),
        ended_at=None,
        native={} if pod is None else _native(pod),
    )


def _terminated(job: Item | None, pod: Item, terminated: Item) -> Observation:
    reason, message = terminated.get("reason") or "", terminated.get("message")
    started = moment(terminated.get("startedAt"))
    if reason in _NOT_STARTED:
        missing = any(words in (message or "").lower() for words in ("no such file", "not found"))
        return _never(job, pod, "program_not_found" if missing else "start_failed", message)
    if started is None:
        if container(pod).get("containerID") or "used to be Running" in (message or ""):
            # The node looked for it and it is not there, so it is dead; how it ended is lost.
            lost = {"reason": "container_lost", "message": _cut(message), "native": _native(pod)}
            return Observation(phase=Phase.ENDED, **{**_stop(job, pod, None, None), **lost})
        return _never(job, pod, "never_started", message)
    finished = moment(terminated.get("finishedAt"))
    code = terminated.get("exitCode")
    return Observation(
        phase=Phase.ENDED,
        exit_code=code,
        signal=terminated.get("signal") or None,
        oom=True if reason == "OOMKilled" else None,
        reason="oom_killed" if reason == "OOMKilled" else None,
        started_at=started,
        ended_at=finished,
        native=_native(pod),
        **_stop(job, pod, code, finished),
    )


def _stop(job: Item | None, pod: Item, code: int | None, finished: datetime | None) -> dict[str, Any]:
    """Say what stopped a workload that had started: nobody, we, the deadline, somebody else."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    disrupted = condition(pod, "DisruptionTarget")
    words = (disrupted or {}).get("message") or status.get("message")
    ours = names.annotation(pod, names.CAUSE) or (names.annotation(job, names.CAUSE) if job is not None else None)
    deleted = moment(metadata.get("deletionTimestamp"))
    if deleted is None:
        if disrupted is not None or status.get("reason") in ("Evicted", "Terminated", "NodeShutdown"):
            return {"ended_by": EndedBy.EXTERNAL, "message": _cut(words), "stop_reached": False}
        # A pod that was not even asked to go: it ended by itself.
        return {"stop_reached": False}
    forced = _forced(pod, ours, code, finished)
    told: dict[str, Any] = {"forced": forced, "evidence": None if forced is None else "inferred"}
    if ours is None:
        if disrupted is None and job is not None and _past_deadline(job, metadata, deleted):
            told |= {"ended_by": EndedBy.DEADLINE, "message": "the Job was active longer than specified deadline"}
        else:
            told |= {"ended_by": EndedBy.EXTERNAL, "message": _cut(words or "somebody else deleted the pod")}
    return told


def _past_deadline(job: Item, metadata: Item, deleted: datetime) -> bool:
    """Whether a pod was deleted by the Job's own deadline, whose condition comes later than the end."""
    for name in ("FailureTarget", "Failed"):
        if found := condition(job, name):
            return bool(found.get("reason") == "DeadlineExceeded")
    start = moment((job.get("status") or {}).get("startTime"))
    seconds = job["spec"].get("activeDeadlineSeconds")
    if start is None or seconds is None:
        return False
    asked = deleted - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return asked >= start + timedelta(seconds=seconds - _SAME_CLOCK)


def _forced(pod: Item, note: str | None, code: int | None, finished: datetime | None) -> bool | None:
    """Infer whether it had to be killed, from the exit code and the time; null where the clocks do not agree."""
    if code is None or finished is None:
        return None
    if code != _KILLED:
        return False
    metadata = pod["metadata"]
    deadline = moment(metadata["deletionTimestamp"])
    if not metadata.get("deletionGracePeriodSeconds"):  # the node's own last delete has moved the time
        deadline = _deadline_in(note)
    created, started = moment(metadata["creationTimestamp"]), moment(_terminated_of(pod).get("startedAt"))
    if deadline is None or created is None or started is None or started < created - timedelta(seconds=_SAME_CLOCK):
        return None
    return finished >= deadline - timedelta(seconds=_SAME_CLOCK)


def _terminated_of(pod: Item) -> Item:
    found: Item = (container(pod).get("state") or {}).get("terminated") or {}
    return found


def _deadline_in(note: str | None) -> datetime | None:
    try:
        told = json.loads(note or "")
        return datetime.fromisoformat(told["at"]) + timedelta(seconds=told["grace"])
    except (ValueError, TypeError, KeyError):
        return None


# -- no end ----------------------------------------------------------------------------------------------------


def _alive(pod: Item) -> Observation:
    status = container(pod)
    state = status.get("state") or {}
    metadata = pod["metadata"]
    grace = metadata.get("deletionGracePeriodSeconds") if metadata.get("deletionTimestamp") else None
    if running := state.get("running"):
        away = is_away(pod)
        return Observation(
            phase=Phase.RUNNING,
            reachable=not away,
            reason="node_away" if away else None,
            started_at=moment(running.get("startedAt")),
            effective_grace=grace or None,
            native=_native(pod),
        )
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason"), waiting.get("message")
    if reason in STUCK:
        return Observation(
            phase=Phase.PENDING, reason=STUCK[reason], message=_cut(f"{reason}: {message}"), native=_native(pod)
        )
    conditions = (pod.get("status") or {}).get("conditions") or []
    for one in conditions:
        if one["type"] == "PodScheduled" and one["status"] == "False":
            word = "unschedulable" if one.get("reason") == "Unschedulable" else None
            return Observation(phase=Phase.PENDING, reason=word, message=_cut(one.get("message")), native=_native(pod))
    lost = bool(condition(pod, "DisruptionTarget")) and (pod.get("status") or {}).get("phase") == "Failed"
    return Observation(
        phase=Phase.PENDING, reachable=not lost, reason="node_away" if lost else None, native=_native(pod)
    )


def is_away(pod: Item) -> bool:
    """Whether the cluster has lost sight of a running container: its last word is "running", and nobody is there.

    The node monitor takes `Ready` from a pod whose node is silent and leaves `ContainersReady` as it was; the pod
    collector calls a pod `Failed` whose node was removed, and leaves its container `running`.
    """
    if (pod.get("status") or {}).get("phase") == "Failed":
        return True
    return condition(pod, "Ready") is None and condition(pod, "ContainersReady") is not None


def _without_pod(job: Item | None) -> Observation:
    if job is None:
        return Observation(phase=Phase.ABSENT)
    if (seen := recorded(job)) is not None:
        return seen
    status = job.get("status") or {}
    if condition(job, "Complete") and status.get("succeeded"):
        # Only a node counts a pod as succeeded, after its containers have ended with 0; it has been removed since.
        return Observation(phase=Phase.ENDED, exit_code=0, stop_reached=False)
    if is_over(job):
        failed = condition(job, "Failed") or {}
        return Observation(phase=Phase.ABSENT, message=_cut(failed.get("message")))
    if not job["spec"].get("suspend"):
        return Observation(phase=Phase.PENDING)
    stopped = names.annotation(job, names.CAUSE) or names.annotation(job, names.GIVEN_UP)
    if stopped and condition(job, "Suspended") and not status.get("active"):
        # We suspended it while it had no pod, and its controller has taken note.
        return _never(job, None, "never_started", None)
    making = names.annotation(job, names.MAKING) is not None
    return Observation(phase=Phase.PENDING, reason="starting" if making else "suspended")


def _native(pod: Item) -> dict[str, Any]:
    native = {"pod": pod["metadata"]["name"], "node": pod["spec"].get("nodeName")}
    return {name: value for name, value in native.items() if value}


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _WORDS else text[: _WORDS - 1] + "…"
