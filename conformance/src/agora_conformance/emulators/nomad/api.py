"""A request and its answer, as the parts of the API see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agora_conformance.emulators.nomad.access import Rights
from agora_conformance.emulators.nomad.errors import ApiError
from agora_conformance.emulators.nomad.timing import NANO, nanoseconds

INVALID_METHOD = "Invalid method"
#: Seconds that a blocking query waits where it does not say, and at most.
WAIT, WAIT_LIMIT = 300.0, 600.0


@dataclass(frozen=True)
class Ask:
    """A request.

    Parameters:
        method: of HTTP.
        path: decoded.
        query: its query.
        body: its JSON; None without one.
        rights: what its token allows; None for a token that nobody knows.
        token: the token.
    """

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    rights: Rights | None
    token: str

    @property
    def allowed(self) -> Rights:
        """Return what the token allows.

        Raises:
            ApiError: 403, nobody knows it.
        """
        if self.rights is None:
            raise ApiError(403, "Permission denied")
        return self.rights

    @property
    def namespace(self) -> str:
        """Return the namespace that is asked for."""
        return self.query.get("namespace") or "default"

    @property
    def writes(self) -> bool:
        """Whether it is one of the methods that change things."""
        return self.method in ("POST", "PUT")

    def needs(self, *methods: str) -> None:
        """Refuse other methods.

        Raises:
            ApiError: 405.
        """
        if self.method not in methods:
            raise ApiError(405, INVALID_METHOD)

    def flag(self, name: str) -> bool:
        """Read a switch of the query.

        Raises:
            ApiError: 400, it is neither on nor off.
        """
        text = self.query.get(name, "")
        if text.lower() in ("", "0", "f", "false"):
            return False
        if text.lower() in ("1", "t", "true"):
            return True
        raise ApiError(400, f'Failed to parse value of "{name}" ("{text}") as a bool: invalid syntax')

    def after(self) -> int:
        """Return the index that a blocking query has seen.

        Raises:
            ApiError: 400, it is none.
        """
        try:
            return int(self.query.get("index") or 0)
        except ValueError:
            raise ApiError(400, "Invalid index") from None

    def wait(self) -> float:
        """Return how many seconds a blocking query waits.

        Raises:
            ApiError: 400, it is no duration.
        """
        try:
            asked = nanoseconds(self.query["wait"]) / NANO if self.query.get("wait") else WAIT
        except ValueError:
            raise ApiError(400, "Invalid wait time") from None
        return min(asked, WAIT_LIMIT)


@dataclass(frozen=True)
class Answer:
    """An answer.

    Parameters:
        body: what is shown as JSON; None for an empty answer.
        index: `X-Nomad-Index`; None for none.
        read: it comes from a read, and says how fresh it is.
        error: 404 with a text, in place of a body.
        next: where the next page begins.
        status: of HTTP.
    """

    body: Any = None
    index: int | None = None
    read: bool = False
    error: str = ""
    next: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


#: A read that can be repeated until there is something new.
Look = Callable[[], Answer]


def found(body: Any, index: int, next: str = "") -> Answer:
    """Return the answer of a read."""
    return Answer(body, index, read=True, next=next)


def missing(text: str, index: int) -> Answer:
    """Return the answer of a read that found nothing."""
    return Answer(None, index, read=True, error=text)
