"""What the API server fills in and refuses when an object is made or changed."""

from __future__ import annotations

import copy
import re
import uuid
from typing import Any

from agora_conformance.emulators.k8s.errors import ApiError, Object, invalid
from agora_conformance.emulators.k8s.resources import JOBS, PODS, SERVICE_ACCOUNTS, Resource
from agora_conformance.emulators.k8s.store import Store

_LABEL_PART = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL_PART}(\.{_LABEL_PART})*"
_NAME_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN}')"
)
_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    f"validation is '{_VALUE}')"
)
_KEY = rf"({_SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
_VARIABLE = r"[^\x00-\x1f=\x7f-\U0010ffff]+"
#: Bytes of all annotations of an object together (`TotalAnnotationSizeLimitB`).
ANNOTATIONS = 256 * 1024
#: Bytes of the data of a Secret (`MaxSecretSize`).
SECRET = 1024 * 1024
NEGATIVE_GRACE = "must be >= 0; negative values are invalid and will be treated as 1"


def check_meta(resource: Resource, item: Object) -> None:
    """Refuse names, labels and annotations that the API refuses.

    Raises:
        ApiError: 422.
    """
    meta = item["metadata"]
    name = str(meta.get("name") or meta.get("generateName") or "")
    if not name:
        raise invalid(resource, "", "metadata.name", "Required value: name or generateName is required",
                      "FieldValueRequired")  # fmt: skip
    if resource.group != "rbac.authorization.k8s.io":
        checked = name.rstrip("-") if meta.get("generateName") else name
        if not re.fullmatch(_SUBDOMAIN, checked):
            raise invalid(resource, name, "metadata.name", f'Invalid value: "{name}": {_NAME_TEXT}')
        if len(name) > 253 or (resource is JOBS and len(name) > 63):
            most = 63 if resource is JOBS else 253
            raise invalid(resource, name, "metadata.name",
                          f'Invalid value: "{name}": must be no more than {most} bytes')  # fmt: skip
    check_labels(resource, name, "metadata.labels", meta.get("labels") or {})
    size = sum(len(f"{key}{value}".encode()) for key, value in (meta.get("annotations") or {}).items())
    if size > ANNOTATIONS:
        text = f"Too long: may not be more than {ANNOTATIONS} bytes"
        raise invalid(resource, name, "metadata.annotations", text, "FieldValueTooLong")


def check_labels(resource: Resource, name: str, field: str, labels: Object) -> None:
    """Refuse labels that the API refuses.

    Raises:
        ApiError: 422.
    """
    for key, value in labels.items():
        if not re.fullmatch(_KEY, key):
            text = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an"
            raise invalid(resource, name, field, f'Invalid value: "{key}": {text} alphanumeric character')
        if len(value.encode()) > 63:
            raise invalid(resource, name, field, f'Invalid value: "{value}": must be no more than 63 bytes')
        if not re.fullmatch(_VALUE, value):
            raise invalid(resource, name, field, f'Invalid value: "{value}": {_VALUE_TEXT}')


def admit(resource: Resource, item: Object) -> tuple[Object, list[str]]:
    """Return a new object with the server's defaults, and the warnings for its creator.

    Raises:
        ApiError: 422.
    """
    item = copy.deepcopy(item)
    item.setdefault("metadata", {})
    check_meta(resource, item)
    name = item["metadata"].get("name") or item["metadata"].get("generateName")
    warnings: list[str] = []
    if resource is JOBS:
        item = _admit_job(item, name)
        if item["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 0) < 0:
            warnings.append(f"spec.template.spec.terminationGracePeriodSeconds: {NEGATIVE_GRACE}")
    elif resource is PODS:
        _check_pod_spec(PODS, name, item.get("spec") or {}, "spec")
        if item["spec"].get("terminationGracePeriodSeconds", 0) < 0:
            warnings.append(f"spec.terminationGracePeriodSeconds: {NEGATIVE_GRACE}")
        item |= admit_pod_spec(item["spec"])
    elif resource.plural == "secrets":
        _admit_secret(resource, item, name)
    elif resource.plural == "namespaces":
        item |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        item["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
    return item, warnings


def _admit_secret(resource: Resource, item: Object, name: str) -> None:
    import base64

    data = dict(item.get("data") or {})
    for key, value in (item.pop("stringData", None) or {}).items():
        data[key] = base64.b64encode(value.encode()).decode()
    if sum(len(base64.b64decode(value)) for value in data.values()) > SECRET:
        raise invalid(resource, name, "data", f"Too long: may not be more than {SECRET} bytes", "FieldValueTooLong")
    if data:
        item["data"] = data
    item.setdefault("type", "Opaque")


def _admit_job(item: Object, name: str) -> Object:
    spec = item.get("spec") or {}
    template = copy.deepcopy(spec.get("template") or {})
    _check_pod_spec(JOBS, name, template.get("spec") or {}, "spec.template.spec")
    restart = template["spec"].get("restartPolicy", "Always")
    if restart not in ("Never", "OnFailure"):
        raise invalid(JOBS, name, "spec.template.spec.restartPolicy",
                      'Required value: valid values: "OnFailure", "Never"', "FieldValueRequired")  # fmt: skip
    for field in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "parallelism", "completions"):
        if (spec.get(field) or 0) < 0:
            raise invalid(JOBS, name, f"spec.{field}",
                          f"Invalid value: {spec[field]}: must be greater than or equal to 0")  # fmt: skip
    check_labels(JOBS, name, "spec.template.metadata.labels", (template.get("metadata") or {}).get("labels") or {})
    uid = item["metadata"]["uid"] = str(uuid.uuid4())
    head = template.setdefault("metadata", {})
    head["labels"] = {
        **(head.get("labels") or {}),
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    template["spec"] = _pod_defaults(template["spec"])
    known = {
        "parallelism": spec.get("parallelism", 1),
        "completions": spec.get("completions", spec.get("parallelism", 1)),
    }
    for field in ("activeDeadlineSeconds", "podFailurePolicy", "successPolicy", "ttlSecondsAfterFinished"):
        if spec.get(field) is not None:
            known[field] = spec[field]
    known |= {
        "backoffLimit": spec.get("backoffLimit", 6),
        "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
        "manualSelector": False,
        "template": template,
        "completionMode": spec.get("completionMode", "NonIndexed"),
        "suspend": spec.get("suspend") or False,
        "podReplacementPolicy": spec.get("podReplacementPolicy") or "TerminatingOrFailed",
    }
    return {**item, "spec": known, "status": {}}


def _check_pod_spec(resource: Resource, name: str, spec: Object, field: str) -> None:
    containers = spec.get("containers") or []
    if not containers:
        raise invalid(resource, name, f"{field}.containers", "Required value", "FieldValueRequired")
    seen = set()
    for at, container in enumerate(containers):
        place = f"{field}.containers[{at}]"
        if not container.get("name"):
            raise invalid(resource, name, f"{place}.name", "Required value", "FieldValueRequired")
        if container["name"] in seen:
            raise invalid(resource, name, f"{place}.name", f'Duplicate value: "{container["name"]}"',
                          "FieldValueDuplicate")  # fmt: skip
        seen.add(container["name"])
        if not container.get("image"):
            raise invalid(resource, name, f"{place}.image", "Required value", "FieldValueRequired")
        for number, variable in enumerate(container.get("env") or []):
            if not re.fullmatch(_VARIABLE, variable.get("name") or ""):
                raise invalid(resource, name, f"{place}.env[{number}].name",
                              f'Invalid value: "{variable.get("name", "")}": a valid environment variable name must '
                              "consist only of printable ASCII characters other than '='")  # fmt: skip
    grace = spec.get("activeDeadlineSeconds")
    if grace is not None and grace < 1:
        raise invalid(resource, name, f"{field}.activeDeadlineSeconds",
                      f"Invalid value: {grace}: must be between 1 and 2147483647, inclusive")  # fmt: skip


def _pod_defaults(spec: Object) -> Object:
    """Return a pod's spec with the API's defaults."""
    containers = []
    for given in spec["containers"]:
        container = {"name": given["name"], "image": given["image"], **given}
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        latest = ":" not in given["image"].rpartition("/")[2] or given["image"].endswith(":latest")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        containers.append({key: value for key, value in container.items() if value is not None})
    known: dict[str, Any] = {
        **{key: value for key, value in spec.items() if value is not None},
        "containers": containers,
    }
    known.setdefault("restartPolicy", "Always")
    known.setdefault("terminationGracePeriodSeconds", 30)
    known.setdefault("dnsPolicy", "ClusterFirst")
    known.setdefault("securityContext", {})
    known.setdefault("schedulerName", "default-scheduler")
    return known


def admit_pod_spec(spec: Object) -> Object:
    """Return the spec and the first status of a new pod."""
    known = _pod_defaults(copy.deepcopy(spec))
    account = known.get("serviceAccountName") or "default"
    away = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for what in ("not-ready", "unreachable")
    ]
    known |= {"serviceAccountName": account, "serviceAccount": account}
    known["tolerations"] = [*(known.get("tolerations") or []), *away]
    known.setdefault("priority", 0)
    known.setdefault("enableServiceLinks", True)
    known.setdefault("preemptionPolicy", "PreemptLowerPriority")
    resources = [container.get("resources") or {} for container in known["containers"]]
    quality = "BestEffort"
    if any(resources):
        limits = [(one.get("limits") or {}, one.get("requests") or one.get("limits") or {}) for one in resources]
        whole = all({"cpu", "memory"} <= limit.keys() and limit == request for limit, request in limits)
        quality = "Guaranteed" if whole else "Burstable"
    return {"spec": known, "status": {"phase": "Pending", "qosClass": quality}}


def check_account(store: Store, namespace: str, pod: Object) -> None:
    """Refuse a pod whose service account does not exist.

    Raises:
        ApiError: 403.
    """
    name = pod["spec"].get("serviceAccountName") or "default"
    if store.find(SERVICE_ACCOUNTS, namespace, name) is None:
        what = pod["metadata"].get("name") or pod["metadata"].get("generateName", "")
        text = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise ApiError(403, "Forbidden", f'pods "{what}" is forbidden: {text}', {"name": what, "kind": "pods"})


def check_change(resource: Resource, old: Object, new: Object) -> None:
    """Refuse a change that the API refuses.

    Raises:
        ApiError: 422.
    """
    meta = new["metadata"]
    name = old["metadata"]["name"]
    check_meta(resource, new)
    added = set(meta.get("finalizers") or []) - set(old["metadata"].get("finalizers") or [])
    if old["metadata"].get("deletionTimestamp") and added:
        raise ApiError(422, "Invalid", f'{resource.kind} "{name}" is invalid: metadata.finalizers: Forbidden: no new '
                       "finalizers can be added if the object is being deleted, found new finalizers "
                       f"[]string{{{', '.join(repr(one) for one in sorted(added))}}}",
                       {"name": name, "kind": resource.kind})  # fmt: skip
    if resource is JOBS:
        for field in ("template", "selector", "completions", "completionMode", "podReplacementPolicy"):
            before, after = old["spec"].get(field), new["spec"].get(field)
            if before != after and field in ("template", "selector", "completions", "completionMode"):
                raise invalid(JOBS, name, f"spec.{field}", f"Invalid value: {after!r}: field is immutable")
    if resource is PODS:
        mutable = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")
        rest = [{k: v for k, v in one["spec"].items() if k not in mutable} for one in (old, new)]
        if rest[0] != rest[1]:
            text = (
                "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
                "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
                "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
                "previously negative)"
            )
            raise invalid(PODS, name, "spec", text, "FieldValueForbidden")
