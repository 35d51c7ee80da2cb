"""The job of a dispatch, and what no job of a target could honour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agora.errors import InvalidRequest
from agora.model.spec import Spec

from agora_nomad import exact, names
from agora_nomad.config import Constraint, Consul, NomadConfig, NomadOptions, Vault
from agora_nomad.merge import merged

#: Contract 6: the backend's own deadline is a backstop, armed so many seconds after the dispatch's.
BACKSTOP = 60
#: A client that was away for longer is given up, and **the job is started again** once any node is there, `replace`
#: or not (disconnect block). So it is longer than anything may run; seconds.
LOST_AFTER = 30 * 86_400
_SECOND = 10**9
_MIB = 1 << 20

_RESERVED = "agora."
_FIXED_JOB = frozenset({"ID", "Name", "Type", "Namespace", "Region", "Stop", "Periodic", "ParameterizedJob"})
_FIXED_GROUP = frozenset(
    {"Count", "RestartPolicy", "ReschedulePolicy", "Disconnect", "MaxRunDuration", "StopAfterClientDisconnect"}
)
_FIXED_TASK = frozenset(
    {"Driver", "KillSignal", "KillTimeout", "RestartPolicy", "Leader", "Lifecycle", "ShutdownDelay", "Schedule"}
)
#: Keys of a driver's `config` that the dispatch decides.
_FIXED_CONFIG = frozenset({"image", "command", "args", "entrypoint", "work_dir", "init"})


def check(spec: Spec, config: NomadConfig) -> None:
    """Refuse what no job of this target could honour.

    Raises:
        InvalidRequest: names the field.
    """
    options = config.options(spec.options)
    driver = options.driver or config.driver
    if driver == "docker":
        if (spec.image or config.image) is None:
            raise InvalidRequest("image: name one, or give the target a default `image`")
    elif spec.image is not None:
        raise InvalidRequest(f"image: the driver {driver} has none")
    elif spec.command is None:
        raise InvalidRequest(f"command: the driver {driver} needs one")
    if (why := exact.unfit(spec.env)) is not None:
        raise InvalidRequest(why)
    if (why := exact.unfit_secrets(_values(spec))) is not None:
        raise InvalidRequest(why)
    if any(key.startswith(_RESERVED) for key in options.meta):
        raise InvalidRequest(f"options.meta: names under {_RESERVED!r} belong to Agora")
    if fixed := sorted(options.config.keys() & _FIXED_CONFIG):
        raise InvalidRequest(f"options.config.{fixed[0]}: the dispatch decides this one")
    _check_patch(options.job)


def _values(spec: Spec) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in spec.secrets.items()}


def _check_patch(patch: Mapping[str, Any]) -> None:
    where = "options.job"
    _refuse(patch, _FIXED_JOB, where)
    meta = patch.get("Meta", {})
    if not isinstance(meta, Mapping) or any(key.startswith(_RESERVED) for key in meta):
        raise InvalidRequest(f"{where}.Meta: names under {_RESERVED!r} belong to Agora")
    for group in _items(patch, "TaskGroups", where):
        if group.get("Name") != names.TASK:
            raise InvalidRequest(f"{where}.TaskGroups: only the group {names.TASK!r} can be patched")
        _refuse(group, _FIXED_GROUP, f"{where}.TaskGroups")
        for task in _items(group, "Tasks", f"{where}.TaskGroups"):
            here = f"{where}.TaskGroups.Tasks"
            if task.get("Name") == names.TASK:
                _refuse(task, _FIXED_TASK, here)
                config = task.get("Config", {})
                _refuse(config if isinstance(config, Mapping) else {"image": None}, _FIXED_CONFIG, f"{here}.Config")
            elif not isinstance(task.get("Name"), str) or not task.get("Lifecycle"):
                raise InvalidRequest(
                    f"{here}: besides {names.TASK!r} there can only be tasks with a Name and a Lifecycle; they end "
                    "with it"
                )


def _items(table: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    given = table.get(key, [])
    if not isinstance(given, list) or not all(isinstance(item, Mapping) for item in given):
        raise InvalidRequest(f"{where}.{key}: must be a list of tables")
    return given


def _refuse(table: Mapping[str, Any], fixed: frozenset[str], where: str) -> None:
    if found := sorted(table.keys() & fixed):
        raise InvalidRequest(f"{where}.{found[0]}: the dispatch decides this one")


def registration(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that registers a job once: it is refused as long as one of its id is on record."""
    return {"Job": dict(job), "EnforceIndex": True, "JobModifyIndex": 0}


def job(
    dispatch_id: str, installation: str, spec: Spec, config: NomadConfig, *, namespace: str, region: str | None
) -> dict[str, Any]:
    """Return the job of a dispatch, as Nomad's API takes it."""
    options = config.options(spec.options)
    about = {name: value for name, value in ((names.RUN, spec.run), (names.NAME, spec.name)) if value}
    id = names.job_id(dispatch_id)
    given = {
        "Region": region,
        "Datacenters": list(options.datacenters) or ["*"],
        "NodePool": options.node_pool,
        "Priority": options.priority,
        "Constraints": [_constraint(one) for one in options.constraints],
    }
    base: dict[str, Any] = {
        "ID": id,
        "Name": id,
        "Type": "batch",
        "Namespace": namespace,
        **{key: value for key, value in given.items() if value},
        "Meta": {**options.meta, **about},
        "TaskGroups": [_group(dispatch_id, spec, config, options)],
    }
    patched = merged(base, options.job)
    patched["Meta"] = {**(patched.get("Meta") or {}), **names.marks(dispatch_id, installation, spec.digest())}
    tasks = patched["TaskGroups"][0]["Tasks"]
    main = next(task for task in tasks if task["Name"] == names.TASK)
    theirs = main.get("Templates") or []
    if ours := [one for one in base["TaskGroups"][0]["Tasks"][0].get("Templates") or [] if one not in theirs]:
        main["Templates"] = [*theirs, *ours]
    if len(tasks) > 1:
        main["Leader"] = True
    return patched


def _group(dispatch_id: str, spec: Spec, config: NomadConfig, options: NomadOptions) -> dict[str, Any]:
    return {
        "Name": names.TASK,
        "Count": 1,
        "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
        "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
        "Disconnect": {"LostAfter": LOST_AFTER * _SECOND, "Replace": False, "Reconcile": "keep_original"},
        "MaxRunDuration": (spec.timeout + BACKSTOP) * _SECOND,
        "Tasks": [_task(dispatch_id, spec, config, options)],
    }


def _task(dispatch_id: str, spec: Spec, config: NomadConfig, options: NomadOptions) -> dict[str, Any]:
    direct, template = exact.environment(spec.env)
    hidden = exact.hidden(names.secrets_path(dispatch_id)) if spec.secrets else None
    task: dict[str, Any] = {
        "Name": names.TASK,
        "Driver": options.driver or config.driver,
        "Config": {**options.config, **_driver_config(spec, config, options)},
        "KillSignal": "SIGTERM",
        "KillTimeout": spec.grace * _SECOND,
        "Resources": _resources(spec, config, options),
    }
    optional = {
        "Env": direct,
        "Templates": [one for one in (template, hidden) if one],
        "User": options.user,
        "Vault": _vault(options.vault),
        "Consul": _consul(options.consul),
    }
    return {**task, **{key: value for key, value in optional.items() if value}}


def _driver_config(spec: Spec, config: NomadConfig, options: NomadOptions) -> dict[str, Any]:
    driver = options.driver or config.driver
    command = [exact.argument(text) for text in spec.command or ()]
    result: dict[str, Any] = {}
    if spec.cwd is not None:
        result["work_dir"] = exact.argument(spec.cwd)
    if driver == "docker":
        # A command of ours replaces the image's ENTRYPOINT, and then its CMD is left out as well.
        result |= {"image": exact.argument(spec.image or config.image or ""), "init": True}
        if command:
            result["entrypoint"] = command[:1]
            result["args"] = command[1:]
        return result
    result |= {"command": command[0], "args": command[1:]}
    if driver == "exec" and config.host_namespaces:
        result |= {"pid_mode": "host", "ipc_mode": "host"}
    return result


def _resources(spec: Spec, config: NomadConfig, options: NomadOptions) -> dict[str, Any]:
    result: dict[str, Any] = {"MemoryMB": options.memory_mb}
    if spec.resources.memory is not None:
        result["MemoryMB"] = max(10, -(-spec.resources.memory // _MIB))
    if options.memory_max_mb is not None:
        result["MemoryMaxMB"] = options.memory_max_mb
    if options.cores is not None:
        result["Cores"] = options.cores
    elif spec.resources.cpu is not None:
        result["CPU"] = max(1, round(spec.resources.cpu * config.mhz_per_core))
    else:
        result["CPU"] = options.cpu_mhz
    return result


def _constraint(one: Constraint) -> dict[str, str]:
    return {"LTarget": one.attribute, "Operand": one.operator, "RTarget": one.value}


def _vault(vault: Vault | None) -> dict[str, Any] | None:
    if vault is None:
        return None
    given = {
        "Role": vault.role,
        "Policies": list(vault.policies),
        "Namespace": vault.namespace,
        "Cluster": vault.cluster,
    }
    return {"Env": vault.env, **{key: value for key, value in given.items() if value}}


def _consul(consul: Consul | None) -> dict[str, Any] | None:
    if consul is None:
        return None
    given = {"Namespace": consul.namespace, "Partition": consul.partition, "Cluster": consul.cluster}
    return {key: value for key, value in given.items() if value}
