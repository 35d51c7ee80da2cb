"""How long the parts of the emulated cluster take, and times as Nomad writes them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

#: Nanoseconds in a second: Nomad's durations and most of its times are nanoseconds.
NANO = 10**9


@dataclass(frozen=True)
class Timing:
    """Delays in seconds, as measured on a real agent (2.0.6).

    Parameters:
        second: how long one second of the API lasts: of kill timeouts, deadlines and delays in a job.
        schedule: from an evaluation to its plan.
        plan: from the plan to the evaluation's end.
        observe: from a change on the server to the client's first answer.
        start: how long the drivers raw_exec and docker take to start a task.
        chroot: how long the driver exec takes more, to build a chroot; the measured agent took 6 s.
        sync: the client's period of telling the server what ended.
        lazy: how many of these periods it waits with what is less urgent.
        heartbeat: from the last word of a client to its node being down or disconnected.
        client_start: from the start of a client to its first word.
        client_return: how long a node that was disconnected stays `initializing`.
        leader: how long a server without a leader tries before it says so.
        stream_denied: how long an event stream without the right to it stays open, silent.
        stream_heartbeat: seconds between two heartbeats of an event stream.
        docker_log: how much later than the output itself docker's log shows it.
        purge: from the purge of a job to the end of its allocations' records.
    """

    second: float = 1.0
    schedule: float = 0.001
    plan: float = 0.002
    observe: float = 0.005
    start: float = 0.08
    chroot: float = 0.0
    sync: float = 0.2
    lazy: int = 5
    heartbeat: float = 6.0
    client_start: float = 0.1
    client_return: float = 1.0
    leader: float = 5.0
    stream_denied: float = 5.0
    stream_heartbeat: float = 10.0
    docker_log: float = 0.0
    purge: float = 0.05

    def scaled(self, factor: float) -> Self:
        """Return the same cluster, `factor` times as slow; kill timeouts and deadlines included."""
        delays = {name: value * factor for name, value in vars(self).items() if name != "lazy"}
        return replace(self, **delays)


def nano(at: float | None = None) -> int:
    """Return a time as nanoseconds since the epoch; now without one."""
    return time.time_ns() if at is None else int(at * NANO)


def stamp(at: float | None = None) -> str:
    """Return a time as RFC 3339 with nanoseconds; now without one."""
    value = nano(at)
    whole = datetime.fromtimestamp(value // NANO, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{value % NANO:09d}Z"


def duration(value: int) -> str:
    """Write nanoseconds as Go writes a duration: 15s, 1.5s, 1m0s, 1ms."""
    if value == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if abs(value) < size * 1000:
            return f"{_decimal(value / size)}{unit}"
    minutes, seconds = divmod(value / NANO, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{_decimal(seconds)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _decimal(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")


def nanoseconds(text: str | int | None) -> int:
    """Read a duration: a number of nanoseconds, or a text such as `10s`, `1m30s` or `500ms`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(text, int):
        return text
    units = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": NANO, "m": 60 * NANO, "h": 3600 * NANO}
    total, rest = 0.0, text or "0s"
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = next((one for one in ("ns", "us", "µs", "ms", "s", "m", "h") if rest.startswith(one)), "")
        if not number or not unit:
            raise ValueError(f'time: invalid duration "{text}"')
        total += float(number) * units[unit]
        rest = rest[len(unit) :]
    return int(total)
