"""The services as botocore's own model describes them: what a request may say, and what an answer has to look like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from botocore.loaders import Loader  # type: ignore[import-untyped]
from botocore.model import ServiceModel  # type: ignore[import-untyped]
from botocore.validate import ParamValidator  # type: ignore[import-untyped]

from agora_conformance.emulators.ecs.errors import ApiError, Object


class Misshapen(Exception):
    """An answer of the emulator does not fit the model: a fault of the emulator."""


@dataclass(frozen=True)
class Service:
    """One service.

    Parameters:
        name: as botocore and IAM call it.
        target: what the header X-Amz-Target begins with.
        content: content type of requests and answers.
        invalid: name of the error for a request that does not fit.
        model: botocore's.
    """

    name: str
    target: str
    content: str
    invalid: str
    model: Any

    def input(self, action: str) -> Any:
        """Return the shape of a request, or None for an action that the service does not have."""
        if action not in self.model.operation_names:
            return None
        return self.model.operation_model(action).input_shape

    def check(self, action: str, body: Object) -> Object:
        """Return a request without its nulls.

        Raises:
            ApiError: it does not fit the model.
        """
        shape = self.input(action)
        if shape is None:
            return {}
        clean = _without_nulls(body)
        report = ParamValidator().validate(clean, shape)
        problems = [report.generate_report()] if report.has_errors() else []
        problems += _strictly(shape, clean, "input")
        if problems:
            raise ApiError(self.invalid, "; ".join(problems).replace("\n", "; "))
        return dict(clean)

    def fit(self, action: str, answer: Object) -> Object:
        """Return an answer that fits the model.

        Raises:
            Misshapen: it does not.
        """
        shape = self.model.operation_model(action).output_shape
        if shape is None:
            return {}
        report = ParamValidator().validate(answer, shape)
        problems = [report.generate_report()] if report.has_errors() else []
        problems += _strictly(shape, answer, "answer")
        if problems:
            raise Misshapen(f"{self.name}:{action}: {'; '.join(problems)}")
        return answer


def load(name: str, invalid: str = "InvalidParameterException") -> Service:
    """Read a service from botocore.

    Parameters:
        name: as botocore calls it.
        invalid: name of its error for requests that do not fit.
    """
    model = ServiceModel(Loader().load_service_model(name, "service-2"), name)
    about = model.metadata
    return Service(name, about["targetPrefix"], f"application/x-amz-json-{about['jsonVersion']}", invalid, model)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _strictly(shape: Any, value: Any, path: str) -> list[str]:
    """Return what ParamValidator lets pass: unknown members, values outside an enumeration, a maximum or a pattern."""
    if shape.type_name == "structure" and isinstance(value, dict):
        unknown = [f'Unknown parameter in {path}: "{name}"' for name in value if name not in shape.members]
        known = [(shape.members[name], item, f"{path}.{name}") for name, item in value.items() if name in shape.members]
        return unknown + [problem for one in known for problem in _strictly(*one)]
    if shape.type_name == "list" and isinstance(value, list):
        found = [p for i, item in enumerate(value) for p in _strictly(shape.member, item, f"{path}[{i}]")]
        return found + _within(shape, len(value), path)
    if shape.type_name == "map" and isinstance(value, dict):
        return [p for name, item in value.items() for p in _strictly(shape.value, item, f"{path}.{name}")]
    if shape.type_name == "string" and isinstance(value, str):
        return _text(shape, value, path)
    if shape.type_name in ("integer", "long") and isinstance(value, int):
        return _within(shape, value, path)
    return []


def _text(shape: Any, value: str, path: str) -> list[str]:
    if shape.enum and value not in shape.enum:
        known = ", ".join(shape.enum)
        return [
            f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy enum value set: [{known}]"
        ]
    problems = _within(shape, len(value), path)
    pattern = shape.metadata.get("pattern")
    # Python's patterns know no \p{...}; what such a pattern is about is checked where it matters.
    if pattern and r"\p{" not in pattern and not re.fullmatch(pattern, value):
        problems.append(f"Value '{value}' at '{path}' does not match the pattern {pattern}")
    return problems


def _within(shape: Any, value: int, path: str) -> list[str]:
    most = shape.metadata.get("max")
    if most is not None and value > most:
        return [f"Value at '{path}' failed to satisfy constraint: it must be at most {most}, and is {value}"]
    return []
