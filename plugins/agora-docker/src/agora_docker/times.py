"""The engine's times: RFC 3339 with nanoseconds, and seconds with nanoseconds for queries."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
#: What the engine writes for a time that never came.
_NEVER = "0001-"


def parse(stamp: str | None) -> datetime | None:
    """Return a time of the engine, to the microsecond, or None for one that never came."""
    if not stamp or stamp.startswith(_NEVER):
        return None
    found = _STAMP.fullmatch(stamp)
    if found is None:
        raise ValueError(f"{stamp!r} is no time")
    whole, fraction, zone = found.groups()
    return datetime.fromisoformat(f"{whole}.{(fraction or '0')[:6]:0<6}{'+00:00' if zone == 'Z' else zone}")


def query(seconds: float) -> str:
    """Return seconds since 1970 as a query takes them."""
    nanoseconds = round(seconds * 1e9)
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"


def moment(nanoseconds: int) -> datetime:
    """Return nanoseconds since 1970 as a time."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
