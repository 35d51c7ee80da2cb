"""The probe workload and what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

#: Seconds between two heartbeats where the time of a death is bracketed.
BEAT = 0.1
#: Seconds between two heartbeats where they show a life and no more: each is a process that somebody has to pay for.
CALM_BEAT = 0.4
#: A pause between heartbeats longer than this means that the machine was too busy to bracket a time.
DISTURBED = 0.6


@cache
def script() -> str:
    """Return the probe's source."""
    return (files("agora_conformance") / "data" / "probe.sh").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Line:
    """One line of the probe.

    Parameters:
        event: `READY`, `beat`, `term`, `exit`, or what a mode shows.
        who: `leader`, `child` or `escaped`.
        at: seconds of the uptime of the machine that the probe runs on.
        value: the bytes that were shown.
        number: a line number or a length.
    """

    event: str
    who: str
    at: float | None = None
    value: bytes | None = None
    number: int | None = None


def parse(output: bytes) -> list[Line]:
    """Read the probe's lines; what is no whole line of the probe is left out."""
    lines = []
    for raw in output.split(b"\n"):
        try:
            data = json.loads(raw)
        except ValueError:
            continue
        if not isinstance(data, dict) or "event" not in data:
            continue
        shown = data.get("hex")
        lines.append(
            Line(
                event=str(data["event"]),
                who=str(data.get("who", "")),
                at=data.get("at"),
                value=None if shown is None else bytes.fromhex(shown),
                number=data.get("number", data.get("bytes")),
            )
        )
    return lines


@dataclass(frozen=True)
class Pulse:
    """What the heartbeats of one process of the probe prove, all times by the probe's clock.

    Parameters:
        ready: when it said READY.
        terms: when it saw each SIGTERM.
        last: its last sign of life; it died after it.
        gap: the longest pause between two signs of life.
        exited: it said that it exits by itself.
    """

    ready: float | None
    terms: tuple[float, ...]
    last: float | None
    gap: float
    exited: bool


def pulse(lines: list[Line], who: str = "leader") -> Pulse:
    """Sum up the lines of one process of the probe."""
    own = [line for line in lines if line.who == who and line.at is not None]
    times = [line.at for line in own if line.at is not None]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return Pulse(
        ready=next((line.at for line in own if line.event == "READY"), None),
        terms=tuple(line.at for line in own if line.event == "term" and line.at is not None),
        last=times[-1] if times else None,
        gap=max(gaps, default=0.0),
        exited=any(line.event == "exit" for line in own),
    )
