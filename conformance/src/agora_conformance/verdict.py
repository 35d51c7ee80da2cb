"""How a check ends: it returns, or it raises one of these."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What is known of one requirement after a run.

    `inapplicable`: the capability is not claimed, or the provider declares that it refuses the field.
    `untested`: the target gives no way to look. `inconclusive`: the measurement was too disturbed to tell.
    `error`: the suite itself failed. None of these is a pass.
    """

    PASS = "pass"  # noqa: S105 - a status, not a password
    FAIL = "fail"
    INAPPLICABLE = "inapplicable"
    UNTESTED = "untested"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Verdict(Exception):
    """Base of what a check raises instead of passing."""

    status: Status = Status.ERROR


class Violation(Verdict):
    """The provider breaks the requirement; the message says what was seen."""

    status = Status.FAIL


class Untested(Verdict):
    """The target gives no way to look."""

    status = Status.UNTESTED


class Inconclusive(Verdict):
    """Something was seen, but too disturbed to decide."""

    status = Status.INCONCLUSIVE


class Inapplicable(Verdict):
    """The provider declares that it does not have what the requirement is about."""

    status = Status.INAPPLICABLE


def require(condition: object, message: str) -> None:
    """Raise `Violation` with `message` unless `condition` holds."""
    if not condition:
        raise Violation(message)
