"""Filter expressions of list requests, as far as Nomad's clients use them (go-bexpr)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from agora_conformance.emulators.nomad.errors import ApiError, Object

TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<symbol>==|!=|[()\[\].])|(?P<word>[^\s()\[\]."`=!]+))"""
)
Test = Callable[[Object], bool]
KEYWORDS = ("and", "or", "not", "in", "is", "contains", "matches", "empty")


def parse(text: str) -> Test:
    """Return the test that an expression stands for.

    Raises:
        ApiError: 400, it is none.
    """
    parser = _Parser(text)
    test = parser.expression()
    parser.end()
    return test


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._tokens: list[tuple[str, str]] = []
        while self._at < len(text.rstrip()):
            found = TOKEN.match(text, self._at)
            if found is None or found.lastgroup is None:
                raise self._bad()
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            self._at = found.end()
        self._next = 0

    def _bad(self) -> ApiError:
        return ApiError(400, f"failed to create result paginator: failed to read filter expression: {self._text}")

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._next + ahead
        return self._tokens[at] if at < len(self._tokens) else ("end", "")

    def _take(self, *wanted: str) -> str:
        kind, value = self._peek()
        if kind == "end" or (wanted and value not in wanted):
            raise self._bad()
        self._next += 1
        return value

    def end(self) -> None:
        """Refuse what is left over."""
        if self._peek()[0] != "end":
            raise self._bad()

    def expression(self) -> Test:
        """Read tests that are joined by `or`."""
        tests = [self._all()]
        while self._peek()[1] == "or":
            self._next += 1
            tests.append(self._all())
        return lambda item: any(test(item) for test in tests)

    def _all(self) -> Test:
        tests = [self._one()]
        while self._peek()[1] == "and":
            self._next += 1
            tests.append(self._one())
        return lambda item: all(test(item) for test in tests)

    def _one(self) -> Test:
        if self._peek() == ("word", "not"):
            self._next += 1
            test = self._one()
            return lambda item: not test(item)
        if self._peek()[1] == "(":
            self._next += 1
            test = self.expression()
            self._take(")")
            return test
        return self._comparison()

    def _comparison(self) -> Test:
        if self._peek()[0] == "text" or "in" in (self._peek(1)[1], self._peek(1)[1] == "not" and self._peek(2)[1]):
            value = self._value()
            negated = self._negated()
            self._take("in")
            path = self._selector()
            return lambda item: (value in _members(_find(item, path))) != negated
        path = self._selector()
        return self._operation(path)

    def _operation(self, path: list[str]) -> Test:
        word = self._take()
        if word == "is":
            negated = self._negated()
            self._take("empty")
            return lambda item: bool(_find(item, path)) == negated
        negated = word in ("!=", "not")
        if word == "not":
            word = self._take("contains", "matches", "in")
        if word not in ("==", "!=", "contains", "matches"):
            raise self._bad()
        value = self._value()

        def test(item: Object) -> bool:
            there = _find(item, path)
            if word == "contains":
                return (value in _members(there)) != negated
            return (re.search(value, str(there)) is not None if word == "matches" else _same(there, value)) != negated

        return test

    def _negated(self) -> bool:
        if self._peek()[1] == "not":
            self._next += 1
            return True
        return False

    def _value(self) -> str:
        kind, value = self._peek()
        self._next += 1
        if kind == "text":
            return value[1:-1].replace('\\"', '"').replace("\\\\", "\\") if value[0] == '"' else value[1:-1]
        if kind != "word":
            raise self._bad()
        return value

    def _selector(self) -> list[str]:
        path = [self._word()]
        while self._peek()[1] in (".", "["):
            if self._take() == ".":
                path.append(self._word())
            else:
                path.append(self._value())
                self._take("]")
        return path

    def _word(self) -> str:
        kind, value = self._peek()
        if kind != "word" or value in KEYWORDS:
            raise self._bad()
        self._next += 1
        return value


def _find(item: Object, path: list[str]) -> Any:
    """Return what a selector stands for; a key that a map lacks is nothing, a field that there is not an error."""
    value: Any = item
    for number, name in enumerate(path):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif number == 0:
            raise ApiError(
                400,
                f"failed to read result page: error finding value in datum: /{'/'.join(path)} at part 0: couldn't find "
                f'key: struct field with name "{name}"',
            )
        else:
            return None
    return value


def _members(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(one) for one in value or ()]


def _same(value: Any, text: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == text
    return value is not None and str(value) == text
