"""What the server makes of a job that is registered: defaults, and mistakes in its own words."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from agora_conformance.emulators.nomad.errors import ApiError, Object, listed
from agora_conformance.emulators.nomad.timing import NANO

TYPES = ("service", "batch", "system", "sysbatch")
REGION = "global"
MINUTE, HOUR, DAY = 60 * NANO, 3600 * NANO, 24 * 3600 * NANO
#: Resources that a task cannot have less of (`MinResources`).
MINIMUM = (("CPU", 1), ("MemoryMB", 10))

JOB: Object = {
    "Affinities": None, "AllAtOnce": False, "Constraints": None, "ConsulNamespace": "", "Datacenters": ["*"],
    "DispatchIdempotencyToken": "", "Dispatched": False, "ID": "", "Meta": None, "Multiregion": None, "Name": "",
    "Namespace": "default", "NodePool": "default", "NomadTokenID": "", "ParameterizedJob": None, "ParentID": "",
    "Payload": None, "Periodic": None, "Priority": 50, "Region": REGION, "Spreads": None, "Stable": False,
    "Status": "", "StatusDescription": "", "Stop": False, "SubmitTime": 0, "TaskGroups": None, "Type": "service",
    "UI": None, "VaultNamespace": "", "Version": 0, "VersionTag": None,
    "Update": {
        "AutoPromote": False, "AutoRevert": False, "Canary": 0, "HealthCheck": "", "HealthyDeadline": 0,
        "MaxParallel": 0, "MinHealthyTime": 0, "ProgressDeadline": 0, "Stagger": 0,
    },
}  # fmt: skip
GROUP: Object = {
    "Affinities": None, "Constraints": None, "Consul": None, "Count": 1, "Disconnect": None,
    "EphemeralDisk": {"Migrate": False, "SizeMB": 300, "Sticky": False}, "MaxClientDisconnect": None,
    "MaxRunDuration": None, "Meta": None, "Migrate": None, "Name": "", "Networks": None,
    "PreventRescheduleOnLost": False, "Scaling": None, "Services": None, "ShutdownDelay": None, "Spreads": None,
    "StopAfterClientDisconnect": None, "Tasks": None, "Update": None, "Volumes": None,
}  # fmt: skip
RESTART: Object = {"Attempts": 3, "Delay": 15 * NANO, "Interval": DAY, "Mode": "fail", "RenderTemplates": False}
RESCHEDULE: Object = {
    "Attempts": 1, "Delay": 5 * NANO, "DelayFunction": "constant", "Interval": DAY, "MaxDelay": 0, "Unlimited": False,
}  # fmt: skip
SERVICE_RESTART: Object = RESTART | {"Attempts": 2, "Interval": 30 * MINUTE}
SERVICE_RESCHEDULE: Object = RESCHEDULE | {
    "Attempts": 0, "Delay": 30 * NANO, "DelayFunction": "exponential", "Interval": 0, "MaxDelay": HOUR,
    "Unlimited": True,
}  # fmt: skip
DISCONNECT: Object = {"LostAfter": 0, "Reconcile": "best_score", "Replace": True, "StopOnClientAfter": None}
TASK: Object = {
    "Actions": None, "Affinities": None, "Artifacts": None, "CSIPluginConfig": None, "Config": None,
    "Constraints": None, "Consul": None, "DispatchPayload": None, "Driver": "", "Env": None, "Identities": None,
    "Identity": {
        "Audience": ["nomadproject.io"], "ChangeMode": "", "ChangeSignal": "", "Env": False, "ExtraClaims": None,
        "File": False, "Filepath": "", "Name": "default", "ServiceName": "", "TTL": 0,
    },
    "KillSignal": "", "KillTimeout": 5 * NANO, "Kind": "", "Leader": False, "Lifecycle": None,
    "LogConfig": {"Disabled": False, "MaxFileSizeMB": 10, "MaxFiles": 10}, "Meta": None, "Name": "",
    "Resources": {
        "CPU": 100, "Cores": 0, "Devices": None, "DiskMB": 0, "IOPS": 0, "MemoryMB": 300, "MemoryMaxMB": 0,
        "NUMA": None, "Networks": None, "SecretsMB": 0,
    },
    "ScalingPolicies": None, "Schedule": None, "Secrets": None, "Services": None, "ShutdownDelay": 0,
    "Templates": None, "User": "", "Vault": None, "VolumeMounts": None,
}  # fmt: skip
TEMPLATE: Object = {
    "ChangeMode": "restart", "ChangeScript": None, "ChangeSignal": "", "DestPath": "", "EmbeddedTmpl": "",
    "Envvars": False, "ErrMissingKey": False, "Gid": None, "LeftDelim": "{{", "Once": False, "Perms": "0644",
    "RightDelim": "}}", "SourcePath": "", "Splay": 5 * NANO, "Uid": None, "VaultGrace": 0, "Wait": None,
}  # fmt: skip
CONSTRAINT: Object = {"LTarget": "", "Operand": "=", "RTarget": ""}
#: Fields that do not count when two versions of a job are compared.
BOOKKEEPING = ("Status", "StatusDescription", "Version", "CreateIndex", "ModifyIndex", "JobModifyIndex", "SubmitTime",
               "Stable", "NomadTokenID")  # fmt: skip


def _filled(defaults: Object, given: Any) -> Object:
    """Return what is given over its defaults; fields that nobody knows are dropped, nested defaults are kept."""
    made = dict(defaults)
    for name, value in (given or {}).items():
        if name not in defaults or value is None:
            continue
        nested = isinstance(defaults[name], dict) and isinstance(value, dict)
        made[name] = _filled(defaults[name], value) if nested else value
    return made


def canonical(given: Object) -> Object:
    """Return a job with every default filled in.

    Parameters:
        given: the job of a request.
    """
    job = _filled(JOB, given)
    job["Name"] = job["Name"] or job["ID"]
    job["Priority"] = job["Priority"] or 50
    job["Meta"] = dict(given["Meta"]) if given.get("Meta") else None
    job["Constraints"] = _constraints(given)
    for name in ("Region", "Namespace", "Type", "NodePool"):
        job[name] = job[name] or JOB[name]
    if given.get("TaskGroups"):
        job["TaskGroups"] = [_group(one, job["Type"]) for one in given["TaskGroups"]]
    return job


def _constraints(given: Object) -> list[Object] | None:
    return [_filled(CONSTRAINT, one) for one in given.get("Constraints") or []] or None


def _group(given: Object, kind: str) -> Object:
    # The servers drop this one in favour of the block `disconnect`.
    group = _filled(GROUP, {**given, "PreventRescheduleOnLost": None})
    batch = kind in ("batch", "sysbatch")
    group["RestartPolicy"] = _filled(RESTART if batch else SERVICE_RESTART, given.get("RestartPolicy"))
    group["ReschedulePolicy"] = _filled(RESCHEDULE if batch else SERVICE_RESCHEDULE, given.get("ReschedulePolicy"))
    if given.get("Disconnect") is not None:
        group["Disconnect"] = _filled(DISCONNECT, given["Disconnect"])
    group["Tasks"] = [_task(one, group["RestartPolicy"]) for one in given.get("Tasks") or []]
    # A kill signal is something that a node has to know.
    signals = sorted({one["KillSignal"] for one in group["Tasks"]} - {""})
    known = _constraints(given) or []
    if signals:
        known.append({"LTarget": "${attr.os.signals}", "Operand": "set_contains", "RTarget": ",".join(signals)})
    group["Constraints"] = known or None
    return group


def _task(given: Object, restart: Object) -> Object:
    task = _filled(TASK, given)
    task["KillTimeout"] = task["KillTimeout"] or 5 * NANO
    task["RestartPolicy"] = _filled(restart, given.get("RestartPolicy"))
    task["Constraints"] = _constraints(given)
    if given.get("Templates"):
        task["Templates"] = [_filled(TEMPLATE, one) for one in given["Templates"]]
    return task


def check(job: Object, namespaces: Collection[str], pools: Collection[str]) -> None:
    """Refuse a job that is not acceptable.

    Parameters:
        job: with its defaults.
        namespaces, pools: what there is.

    Raises:
        ApiError: 500 with the mistakes.
    """
    if job["Region"] != REGION:
        raise ApiError(500, "No path to region")
    problems = mistakes(job)
    if not problems and job["Namespace"] not in namespaces:
        problems = [f'job "{job["ID"]}" is in nonexistent namespace "{job["Namespace"]}"']
    if not problems and job["NodePool"] not in pools:
        problems = [f'job "{job["ID"]}" is in nonexistent node pool "{job["NodePool"]}"']
    if problems:
        raise ApiError(500, listed(problems))


def mistakes(job: Object) -> list[str]:
    """Return what is wrong with a job by itself."""
    found = []
    if not job["ID"]:
        found.append("Missing job ID")
    elif " " in job["ID"]:
        found.append("Job ID contains a space")
    elif "\0" in job["ID"]:
        found.append("Job ID contains a null character")
    if job["Type"] not in TYPES:
        found.append(f'Invalid job type: "{job["Type"]}"')
    if not 1 <= job["Priority"] <= 100:
        found.append("Job priority must be between [1, 100]")
    if not job["TaskGroups"]:
        found.append("Missing job task groups")
    for group in job["TaskGroups"] or []:
        problems = _group_mistakes(group)
        if problems:
            found.append(f"Task group {group['Name']} validation failed: {listed(problems)}")
    return found


def _group_mistakes(group: Object) -> list[str]:
    found = []
    if not group["Name"]:
        found.append("Missing task group name")
    if group["Count"] < 0:
        found.append("Task group count can't be negative")
    if not group["Tasks"]:
        found.append("Missing tasks for task group")
    disconnect = group["Disconnect"]
    if disconnect and disconnect["LostAfter"] < 0:
        found.append(listed(["lost_after cannot be a negative duration"]))
    wrong = [(task["Name"], _task_mistakes(task)) for task in group["Tasks"]]
    return found + [f"Task {name} validation failed: {listed(one)}" for name, one in wrong if one]


def _task_mistakes(task: Object) -> list[str]:
    found = []
    if not task["Name"]:
        found.append("Missing task name")
    elif re.search(r"[/\\\0]", task["Name"]):
        found.append("Task name cannot include slashes")
    if not task["Driver"]:
        found.append("Missing task driver")
    if task["KillTimeout"] < 0:
        found.append("KillTimeout must be a positive value")
    short = [
        f"minimum {name} value is {least}; got {task['Resources'][name]}"
        for name, least in MINIMUM
        if task["Resources"][name] < least
    ]
    if short:
        found.append(listed([listed(short)]))
    return found


def changed(old: Object, new: Object) -> bool:
    """Whether a registration says something else than the one before."""
    return _spec(old) != _spec(new)


def _spec(job: Object) -> Object:
    return {name: value for name, value in job.items() if name not in BOOKKEEPING}


def in_place(old: Object, new: Object) -> bool:
    """Whether running tasks may stay where a job has changed: only kill timeouts are different, in its groups."""
    return _lasting(old) == _lasting(new)


def _lasting(job: Object) -> list[Object]:
    return [
        {**group, "Count": 0, "Tasks": [{**task, "KillTimeout": 0} for task in group["Tasks"]]}
        for group in job["TaskGroups"]
    ]
