"""The objects of a dispatch: its Job, and the Secret with the values that must not be seen."""

from __future__ import annotations

import base64
import json
from typing import Any

from agora.errors import InvalidRequest
from agora.model.spec import Spec

from agora_k8s import names
from agora_k8s.config import K8sConfig, K8sOptions
from agora_k8s.merge import merged

#: Contract 6: the backend's own deadline is a backstop, armed so many seconds after the dispatch's.
BACKSTOP = 60
#: A Secret holds at most 1 MiB (k8s.io/api/core/v1, MaxSecretSize), base64 and names aside.
MAX_SECRETS_BYTES = 1_000_000
#: etcd takes 1.5 MiB an object by default; the rest of the Job needs room too.
MAX_TOTAL_BYTES = 1_000_000

_RESERVED = "agora.dev/"
#: Parts of a pod template that the contract decides.
_FIXED_POD = ("restartPolicy", "terminationGracePeriodSeconds", "shareProcessNamespace", "activeDeadlineSeconds")
_FIXED_MAIN = ("command", "args", "image")


def check(spec: Spec, config: K8sConfig) -> None:
    """Refuse what no Job of this target could honour.

    Raises:
        InvalidRequest: names the field.
    """
    options = config.options(spec.options)
    if (spec.image or config.image) is None:
        raise InvalidRequest("image: name one, or give the target a default `image`")
    for name in (*spec.env, *spec.secrets):
        if not all(" " <= char <= "~" for char in name):
            raise InvalidRequest(f"variable {name[:80]!r}: Kubernetes takes printable ASCII names alone")
    size = sum(len(exact(text).encode()) for text in (*(spec.command or ()), *spec.env.values()))
    size += sum(len(name) for name in spec.env)
    if size > MAX_TOTAL_BYTES:
        raise InvalidRequest(
            f"command and env have {size} bytes with every dollar sign doubled; a Job of Kubernetes holds about "
            f"{MAX_TOTAL_BYTES}"
        )
    if sum(len(value.get_secret_value().encode()) for value in spec.secrets.values()) > MAX_SECRETS_BYTES:
        raise InvalidRequest(f"secrets: together they have more than {MAX_SECRETS_BYTES} bytes")
    for field in ("labels", "annotations"):
        if any(key.startswith(_RESERVED) for key in getattr(options, field)):
            raise InvalidRequest(f"options.{field}: names under {_RESERVED} belong to Agora")
    _check_patch(options.pod_template)
    try:
        job("check", "check", spec, config)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"options.pod_template: {error}") from None


def _check_patch(patch: dict[str, Any]) -> None:
    where = "options.pod_template"
    if unknown := patch.keys() - {"metadata", "spec"}:
        raise InvalidRequest(f"{where}.{min(unknown)}: a pod template has `metadata` and `spec`")
    metadata, spec = patch.get("metadata") or {}, patch.get("spec") or {}
    if not isinstance(metadata, dict) or not isinstance(spec, dict) or "$patch" in {*patch, *metadata, *spec}:
        raise InvalidRequest(f"{where}: `metadata` and `spec` must be tables, and cannot be replaced whole")
    for field in ("labels", "annotations"):
        given = metadata.get(field, {})
        if not isinstance(given, dict) or any(key.startswith((_RESERVED, "$patch")) for key in given):
            raise InvalidRequest(f"{where}.metadata.{field}: names under {_RESERVED} belong to Agora")
    for field in _FIXED_POD:
        if field in spec:
            raise InvalidRequest(f"{where}.spec.{field}: the dispatch decides this one")
    containers = spec.get("containers", [])
    if not isinstance(containers, list):
        raise InvalidRequest(f"{where}.spec.containers: must be a list")
    for one in containers:
        if not isinstance(one, dict) or one.get("name") != names.CONTAINER or "$patch" in one:
            raise InvalidRequest(
                f"{where}.spec.containers: only {names.CONTAINER!r} can be patched; a helper is an init container "
                "with `restartPolicy: Always`, which ends with the workload"
            )
        if fixed := sorted(one.keys() & set(_FIXED_MAIN)):
            raise InvalidRequest(f"{where}.spec.containers: {fixed[0]} is a field of the dispatch")


def exact(text: str) -> str:
    """Write a string so that the expansion of `$(NAME)` and `$$` gives it back unchanged."""
    return text.replace("$", "$$")


def job(dispatch_id: str, installation: str, spec: Spec, config: K8sConfig) -> dict[str, Any]:
    """Return the Job of a dispatch; suspended where its Secret has still to be made."""
    options = config.options(spec.options)
    marks = names.marks(dispatch_id, installation, spec.digest())
    about = {name: value for name, value in (("agora.dev/run", spec.run), ("agora.dev/name", spec.name)) if value}
    labels = {**options.labels, **marks}
    template = merged(
        {
            "metadata": {"labels": labels, "annotations": {**options.annotations, **about}},
            "spec": _pod_spec(dispatch_id, spec, config, options),
        },
        options.pod_template,
    )
    making = {names.MAKING: "secret", names.SECRETS: json.dumps(len(spec.secrets))} if spec.secrets else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.object_name(dispatch_id),
            "labels": labels,
            "annotations": {**options.annotations, **about, **making},
        },
        "spec": {
            "suspend": bool(spec.secrets),
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": spec.timeout + BACKSTOP,
            "ttlSecondsAfterFinished": config.ttl,
            "template": template,
        },
    }


def secret(dispatch_id: str, installation: str, spec: Spec, owner: dict[str, Any]) -> dict[str, Any]:
    """Return the Secret of a dispatch, which the cluster removes with the Job."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": names.object_name(dispatch_id),
            "labels": names.marks(dispatch_id, installation, spec.digest()),
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                }
            ],
        },
        "data": {
            key: base64.b64encode(spec.secrets[name].get_secret_value().encode()).decode()
            for name, key in _secret_keys(spec)
        },
    }


def _secret_keys(spec: Spec) -> list[tuple[str, str]]:
    """Pair the names of the secrets with keys of the Secret, which takes fewer characters than a variable."""
    return [(name, f"value-{number}") for number, name in enumerate(sorted(spec.secrets))]


def _pod_spec(dispatch_id: str, spec: Spec, config: K8sConfig, options: K8sOptions) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.grace,
        "shareProcessNamespace": True,
        "enableServiceLinks": False,
        "automountServiceAccountToken": options.automount_token,
        "containers": [_container(dispatch_id, spec, config, options)],
    }
    tolerations = [
        {
            "tolerationSeconds" if key == "toleration_seconds" else key: value
            for key, value in one.model_dump(exclude_none=True).items()
        }
        for one in options.tolerations
    ]
    optional = {
        "serviceAccountName": options.service_account,
        "nodeSelector": dict(options.node_selector),
        "tolerations": tolerations,
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
        "hostNetwork": options.host_network,
        "priorityClassName": options.priority_class,
        "runtimeClassName": options.runtime_class,
        "securityContext": _pod_security(options),
    }
    return {**pod, **{name: value for name, value in optional.items() if value}}


def _pod_security(options: K8sOptions) -> dict[str, Any]:
    ids = {"runAsUser": options.run_as_user, "runAsGroup": options.run_as_group, "fsGroup": options.fs_group}
    context: dict[str, Any] = {name: value for name, value in ids.items() if value is not None}
    if options.security == "restricted":
        context |= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return context


def _container(dispatch_id: str, spec: Spec, config: K8sConfig, options: K8sOptions) -> dict[str, Any]:
    container: dict[str, Any] = {"name": names.CONTAINER, "image": spec.image or config.image}
    if spec.command is not None:
        container["command"] = [exact(text) for text in spec.command]
    if spec.cwd is not None:
        container["workingDir"] = spec.cwd
    if options.image_pull_policy:
        container["imagePullPolicy"] = options.image_pull_policy
    env: list[dict[str, Any]] = [{"name": name, "value": exact(value)} for name, value in spec.env.items()]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": names.object_name(dispatch_id), "key": key}}}
        for name, key in _secret_keys(spec)
    ]
    if env:
        container["env"] = env
    asked = {}
    if spec.resources.cpu is not None:
        asked["cpu"] = f"{max(1, round(spec.resources.cpu * 1000))}m"
    if spec.resources.memory is not None:
        asked["memory"] = str(spec.resources.memory)
    resources = {"requests": {**asked, **options.requests}, "limits": {**asked, **options.limits}}
    if resources := {name: values for name, values in resources.items() if values}:
        container["resources"] = resources
    if options.security == "restricted":
        container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return container
