"""What the API server answers when it refuses, in its own words."""

from __future__ import annotations

from typing import Any

from agora_conformance.emulators.k8s.resources import Resource

Object = dict[str, Any]


class ApiError(Exception):
    """An answer with a Status body.

    Parameters:
        code: HTTP status.
        reason: machine-readable reason; empty for none.
        message: what people read.
        details: details of the Status.
        headers: further HTTP headers.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Object | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.headers = headers or {}

    def status(self) -> Object:
        """Return the Status body."""
        body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body["message"] = self.message
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        return {**body, "code": self.code}


def _details(resource: Resource, name: str, kind: str | None = None) -> Object:
    details: Object = {"name": name}
    if resource.group:
        details["group"] = resource.group
    return {**details, "kind": kind or resource.plural}


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no such object."""
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: the name is taken."""
    return ApiError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(resource, name))


def modified(resource: Resource, name: str) -> ApiError:
    """409: somebody changed it in between."""
    text = "the object has been modified; please apply your changes to the latest version and try again"
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {text}',
        _details(resource, name),
    )


def precondition(resource: Resource, name: str, wanted: str, found: str) -> ApiError:
    """409: a delete was meant for another object of the same name."""
    text = (
        f'Operation cannot be fulfilled on {resource.kind} "{name}": the UID in the precondition ({wanted}) does not '
        f"match the UID in record ({found}). The object might have been deleted and then recreated"
    )
    return ApiError(409, "Conflict", text, {"name": name, "kind": resource.kind})


def invalid(resource: Resource, name: str, field: str, problem: str, reason: str = "FieldValueInvalid") -> ApiError:
    """422: a field is not acceptable; `problem` begins like `Invalid value: ...`."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = _details(resource, name, resource.kind)
    details["causes"] = [{"reason": reason, "message": problem, "field": field}]
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {field}: {problem}', details)


def bad_request(message: str) -> ApiError:
    """400: the request makes no sense."""
    return ApiError(400, "BadRequest", message)


def forbidden(user: str, verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> ApiError:
    """403: this user may not do that."""
    what = f"{resource.plural}/{subresource}" if subresource else resource.plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    subject = f'{resource.qualified} "{name}" is forbidden' if name else f"{resource.qualified} is forbidden"
    text = f'{subject}: User "{user}" cannot {verb} resource "{what}" in API group "{resource.group}" {where}'
    details = _details(resource, name) if name else {k: v for k, v in _details(resource, "").items() if v}
    return ApiError(403, "Forbidden", text, details)


def expired(asked: int, oldest: int) -> ApiError:
    """410: the history does not reach back that far."""
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")
