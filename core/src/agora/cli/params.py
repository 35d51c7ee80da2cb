"""How words on the command line become values."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # not generic in older versions of click

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class Seconds(ParamType):
    """A whole number of seconds, with an optional unit: `90`, `90s`, `15m`, `2h`, `7d`."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds; whether the number is allowed is for the spec to say."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(-?[0-9]{1,9})([smhdw]?)", value.strip())
        if match is None:
            self.fail(f"{value!r} is not a whole number of seconds (units: s, m, h, d, w).", param, ctx)
        return int(match[1]) * SECONDS[match[2]]


class Age(Seconds):
    """A length of time back from now."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a timedelta of at least zero."""
        if isinstance(value, timedelta):
            return value
        seconds = super().convert(value, param, ctx)
        if seconds < 0:
            self.fail(f"{value!r} is below 0: write how long ago, like 30m or 7d.", param, ctx)
        return timedelta(seconds=seconds)


class Moment(ParamType):
    """A point in time: a date and time in ISO 8601."""

    name = "time"
    wrong = "is no time like 2031-05-01T12:00 or 2031-05-01T12:00+02:00"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an aware time; one without a zone is in the local zone."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} {self.wrong}.", param, ctx)


class Since(Moment):
    """A point in time: an age (`10m`), or a date and time in ISO 8601."""

    name = "since"
    wrong = "is neither an age (10m) nor a time (2031-05-01T12:00:00)"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an aware time; one without a zone is in the local zone."""
        if isinstance(value, datetime):
            return value
        if re.fullmatch(r"[0-9]+[smhdw]?", value):
            age: timedelta = Age().convert(value, param, ctx)
            return datetime.now(UTC) - age
        return super().convert(value, param, ctx)


class Memory(ParamType):
    """A number of bytes: K, M, G, T are powers of 1000, Ki, Mi, Gi, Ti powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes; case does not matter, and a trailing B is allowed."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]I?|)B?", value.strip().upper())
        if match is None:
            self.fail(f"{value!r} is no amount of memory (like 512Mi, 2G or 1000000).", param, ctx)
        return int(float(match[1]) * BYTES[match[2]])


class Pair(ParamType):
    """`NAME=VALUE`."""

    name = "pair"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return name and value; the value may be empty, the name not."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name:
            # The value is not repeated: it may be a secret in the wrong place.
            self.fail("write NAME=VALUE.", param, ctx)
        return name, text


class Amount(ParamType):
    """`UNIT=AMOUNT`."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Return unit and number; which ones may be, the spec and the store know."""
        if isinstance(value, tuple):
            return value
        unit, equals, text = value.partition("=")
        try:
            if not equals or not unit:
                raise ValueError
            return unit, float(text)
        except ValueError:
            self.fail(f"{value!r}: write UNIT=AMOUNT, like tokens=200000.", param, ctx)


class DispatchId(ParamType):
    """A dispatch id, or a prefix or suffix of one.

    Parameters:
        ended: whether completion offers ended ones too.
    """

    name = "id"

    def __init__(self, *, ended: bool = True) -> None:
        self.ended = ended

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text if it can be part of an id; whether it is one, the store knows."""
        text: str = value
        if not re.fullmatch(r"[a-z0-9-]{1,32}", text.lower()):
            self.fail(
                f"{text[:80]!r} is no dispatch id: lower-case letters, digits and dashes, at most 32.", param, ctx
            )
        return text.lower()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the newest ids of the store, by prefix or suffix."""
        from agora.cli.completion import stored_ids

        return stored_ids(ctx, incomplete, ended=self.ended)


class RunName(ParamType):
    """The name of a run."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; whether there is such a run, the store knows."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the names of the store's runs."""
        from agora.cli.completion import stored_runs

        return stored_runs(ctx, incomplete)


SECONDS_TYPE = Seconds()
AGE = Age()
MOMENT = Moment()
SINCE = Since()
MEMORY = Memory()
PAIR = Pair()
AMOUNT = Amount()
DISPATCH_ID = DispatchId()
RUN_NAME = RunName()
UNENDED_ID = DispatchId(ended=False)
