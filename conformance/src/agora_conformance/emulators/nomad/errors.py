"""What Nomad answers when it refuses: a status and a text, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]


class ApiError(Exception):
    """An answer that is an error.

    Parameters:
        code: HTTP status.
        text: the body.
        headers: further HTTP headers.
    """

    def __init__(self, code: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.code, self.text, self.headers = code, text, headers or {}


def denied() -> ApiError:
    """403: the token does not allow it, or there is none."""
    return ApiError(403, "Permission denied")


def not_uuid(what: str) -> ApiError:
    """500: an id that is no UUID."""
    return ApiError(500, f"{what} lookup failed: index error: UUID must be 36 characters")


def listed(problems: Sequence[str]) -> str:
    """Write several problems as Nomad does; a nested list is a problem's own text."""
    noun = "error" if len(problems) == 1 else "errors"
    return f"{len(problems)} {noun} occurred:\n" + "".join(f"\t* {one}\n" for one in problems) + "\n"
