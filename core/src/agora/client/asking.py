"""What a caller asks for, checked and put into words."""

from __future__ import annotations

import getpass
import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from agora.errors import ConfigError, InvalidRequest
from agora.model.record import State
from agora.model.spec import Name, Spec

if TYPE_CHECKING:
    from agora.state import Children

#: A start may be put off for so long: what is further ahead is a mistake in a unit or a year.
LONGEST_DELAY = timedelta(days=3_660)


@dataclass(frozen=True)
class Wanted:
    """One member of a group.

    Parameters:
        id: of the dispatch; null for a new one.
        spec: what to dispatch; null for one that is there.
        target, parent, start_at, delay: as `AgoraClient.dispatch` takes them.
        retries: the dispatch that it tries again.
    """

    id: str | None
    spec: Spec | None = None
    target: str | None = None
    parent: str | None = None
    start_at: datetime | None = None
    delay: float | None = None
    retries: str | None = None

    @property
    def start(self) -> datetime | timedelta | None:
        """When it is to start; see `start_of`."""
        return start_of(self.start_at, self.delay)


def user_name() -> str:
    """Return the name of the user, or the number where there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def owner_of(given: str | None) -> str | None:
    """Return for whom a client acts; null for one that may cancel everything.

    Parameters:
        given: the name, empty for nobody; `AGORA_OWNER` where null.
    Raises:
        InvalidRequest: it is no plain name.
    """
    owner = os.environ.get("AGORA_OWNER") if given is None else given
    if not owner:
        return None
    try:
        return TypeAdapter(Name).validate_python(owner)
    except ValidationError:
        kind, what = (ConfigError, "AGORA_OWNER") if given is None else (InvalidRequest, "owner")
        raise kind(
            f"{what} is no plain name: letters, digits, and inner dots, dashes and underscores, at most 63"
        ) from None


def spec_of(spec: Spec | None, fields: dict[str, Any]) -> Spec:
    """Make a spec of what `dispatch` was given.

    Raises:
        InvalidRequest: both were given, or a field is wrong.
    """
    if spec is not None and fields:
        raise InvalidRequest("give a Spec or its fields, not both")
    if spec is not None:
        return spec
    try:
        return Spec.model_validate(fields)
    except ValidationError as error:
        raise invalid("spec", error) from None


def start_of(start_at: Any, delay: Any) -> datetime | timedelta | None:
    """Return when a dispatch is to start: a time, or so long after it is recorded; null for at once.

    Raises:
        InvalidRequest: both were given, one is malformed, or it is more than ten years ahead.
    """
    if start_at is not None and delay is not None:
        raise InvalidRequest("start_at and delay: give one of them")
    if delay is not None:
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not delay >= 0:
            raise InvalidRequest(f"delay {delay!r} is not a number of seconds from 0 on")
        if delay > LONGEST_DELAY.total_seconds():
            raise InvalidRequest(f"delay {delay:g} s is more than {LONGEST_DELAY.days} days")
        return timedelta(seconds=delay)
    if start_at is None:
        return None
    if not isinstance(start_at, datetime) or start_at.utcoffset() is None:
        raise InvalidRequest(f"start_at {start_at!r} is no datetime with a time zone, like datetime.now(UTC)")
    if not datetime.min.replace(tzinfo=UTC) + LONGEST_DELAY < start_at <= datetime.now(UTC) + LONGEST_DELAY:
        raise InvalidRequest(f"start_at {start_at} is more than {LONGEST_DELAY.days} days ahead, or no year of ours")
    return start_at


def states_of(states: Collection[State | str]) -> list[State]:
    """Return states that may be given by their names.

    Raises:
        InvalidRequest: one is no state.
    """
    if isinstance(states, str):
        raise InvalidRequest(f"states: give a list, like [{str(states)!r}]")
    try:
        return [State(state) for state in states]
    except ValueError as error:
        raise InvalidRequest(f"states: {error}; there are: {', '.join(State)}") from None


def age_of(older_than: timedelta) -> timedelta:
    """Return a length of time back from now.

    Raises:
        InvalidRequest: it is none, or below zero.
    """
    if not isinstance(older_than, timedelta):
        raise InvalidRequest(f"older_than {older_than!r} is no timedelta, like timedelta(days=7)")
    if older_than < timedelta():
        raise InvalidRequest(f"older_than is {older_than.total_seconds():g} s: it is below 0")
    return older_than


def children_of(grace: int | None, force: bool) -> Children | None:
    """Return how those below are to be stopped; null where nothing is said of them."""
    from agora.state import Children

    return None if grace is None and not force else Children(grace, force)


def invalid(what: str, error: ValidationError) -> InvalidRequest:
    """Put what a model refused into one line, without any of the values."""
    words = []
    for one in error.errors(include_input=False, include_url=False, include_context=False):
        key = ".".join(str(part) for part in one["loc"]) or what
        words.append(f"{key}: {one['msg'].removeprefix('Value error, ')}")
    return InvalidRequest("; ".join(words))
