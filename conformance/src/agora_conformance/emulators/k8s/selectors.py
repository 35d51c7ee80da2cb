"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from agora_conformance.emulators.k8s.errors import Object, bad_request

Test = Callable[[Object], bool]

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"({_NAME})\s+(in|notin)\s+\(([^()]*)\)")
_EQUAL = re.compile(rf"({_NAME})\s*(==|=|!=)\s*({_NAME})?")
_EXISTS = re.compile(rf"(!?)\s*({_NAME})")


def labels(text: str) -> Test:
    """Return the test of a label selector.

    Raises:
        ApiError: 400, it cannot be read.
    """
    tests = [_requirement(part.strip()) for part in re.split(r",(?![^()]*\))", text) if part.strip()]
    return lambda item: all(test(item["metadata"].get("labels") or {}) for test in tests)


def _requirement(text: str) -> Callable[[Object], bool]:
    if found := _SET.fullmatch(text):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda have: have.get(key) in values
        return lambda have: have.get(key) not in values
    if found := _EQUAL.fullmatch(text):
        key, operator, value = found.groups()
        value = value or ""
        if operator == "!=":
            return lambda have: have.get(key) != value
        return lambda have: have.get(key) == value
    if found := _EXISTS.fullmatch(text):
        absent, key = found.groups()
        return lambda have: (key not in have) if absent else (key in have)
    first = text.lstrip("!")[:1] or text[-1:]
    raise bad_request(f"unable to parse requirement: found '{first or '!'}', expected: identifier")


def fields(text: str) -> Test:
    """Return the test of a field selector.

    Raises:
        ApiError: 400, it cannot be read.
    """
    tests: list[Test] = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"([A-Za-z0-9.]+)(==|=|!=)(.*)", part)
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        tests.append(_field(*found.groups()))
    return lambda item: all(test(item) for test in tests)


def _field(path: str, operator: str, value: str) -> Test:
    keys = path.split(".")

    def test(item: Object) -> bool:
        found: Any = item
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return (str("" if found is None else found) == value) is (operator != "!=")

    return test


def both(label_selector: str, field_selector: str) -> Test:
    """Return the test of both selectors together."""
    first, second = labels(label_selector), fields(field_selector)
    return lambda item: first(item) and second(item)
