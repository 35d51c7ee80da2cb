"""What people and programs read: JSON lines, tables, times and the words for a record."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agora.model.cause import Cause
    from agora.model.record import Record

COLOURS = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "timed_out": "magenta", "lost": "red",
    "running": "cyan", "stopping": "yellow",
}  # fmt: skip


class OutputClosed(Exception):
    """Nothing more can be written to stdout.

    Parameters:
        error: what the system said; a broken pipe is a reader that went away.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to stdout: {error.strerror}")
        self.is_pipe = isinstance(error, BrokenPipeError)


def write(text: str) -> None:
    """Write text to stdout.

    Raises:
        OutputClosed: nobody reads it any more (`agora ps | head`), or there is no space for it.
    """
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    except OSError as error:
        raise OutputClosed(error) from None


def write_now(text: str) -> None:
    """Write text to stdout at once, for a reader that follows."""
    write(text)
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputClosed(error) from None


def say(message: str) -> None:
    """Tell the user one thing on stderr; a terminal that is gone is no error."""
    try:
        sys.stderr.write(f"agora: {printable(message, keep_lines=True)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def as_data(value: Any) -> Any:
    """Return a model or dataclass as JSON values, times in ISO 8601 UTC; anything else as it is."""
    import dataclasses

    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def print_json(value: Any) -> None:
    """Write one value as one line of JSON, at once, in ASCII so that every locale can carry it."""
    write_now(json.dumps(as_data(value), default=str) + "\n")


def printable(text: str, *, keep_lines: bool = False) -> str:
    """Return text without control characters, which could take over a terminal."""
    return "".join(c if c.isprintable() or (keep_lines and c in "\n\t") else "?" for c in text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, colour: int | None = None) -> None:
    """Write a table: aligned text, or drawn where stdout is a terminal.

    Parameters:
        header: column titles.
        rows: cells, all as text.
        colour: index of the column that holds a state.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw_table(header, cells, colour)
        return
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for row in (header, *cells):
        write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _draw_table(header: Sequence[str], rows: Sequence[Sequence[str]], colour: int | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(header):
        # An id that is cut short cannot be copied into the next command.
        table.add_column(title, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(
            Text(cell, style=COLOURS.get(cell.split(" ")[0], "") if index == colour else "")
            for index, cell in enumerate(row)
        ))  # fmt: skip
    Console().print(table)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Write `key  value` lines, aligned."""
    width = max(len(key) for key, _ in pairs)
    for key, value in pairs:
        write(f"{key.ljust(width)}  {printable(value)}\n")


def local_time(moment: datetime | None, *, milliseconds: bool = False) -> str:
    """Return a time for people, in the local zone; `-` for none."""
    if moment is None:
        return "-"
    local = moment.astimezone()
    text = local.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{local.microsecond // 1000:03d}" if milliseconds else text


def seconds_since(moment: datetime) -> float:
    """Return how long ago `moment` was, in seconds."""
    return time.time() - moment.timestamp()


def span(seconds: float) -> str:
    """Return a length of time in at most two units: `45s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    left = max(0, int(seconds))
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2]) or "0s"


def number(value: float) -> str:
    """Return seconds without a needless fraction: `5`, `2.5`."""
    return f"{value:g}"


def spent_words(record: Record) -> str:
    """Return what was spent, of how much where there is a budget: `1200 of 200000 tokens, 0.02 usd`."""
    words = []
    for unit in dict.fromkeys((*record.budget, *record.spent)):
        limit = f" of {record.budget[unit]:.12g}" if unit in record.budget else ""
        words.append(f"{record.spent.get(unit, 0.0):.12g}{limit} {unit}")
    return ", ".join(words)


def cause_words(cause: Cause | None) -> str:
    """Return `alice via cli: reason`, or an empty text."""
    return cause.summary(500) if cause is not None else ""


def start_words(record: Record) -> list[str]:
    """Return when a dispatch that waits for its time starts; nothing for any other one."""
    if record.state.value != "pending" or record.start_at is None:
        return []
    ahead = -seconds_since(record.start_at)
    return [f"starts in {span(ahead)}" if ahead >= 0 else "due to start"]


def state_words(record: Record) -> str:
    """Return the state and what is known beside it: `cancelled (forced, proven)`, `failed (exit code 3)`."""
    words = start_words(record)
    if record.forced:
        words.append("forced" + (f", {record.evidence}" if record.evidence else ""))
    if record.acknowledged:
        words.append("acknowledged by the worker")
    if record.exit_code and record.state.value == "failed":
        words.append(f"exit code {record.exit_code}")
    if record.oom:
        words.append("out of memory")
    if record.reason and record.reason != record.state.value:
        words.append(record.reason)
    if record.state.terminal and record.confirmed is False:
        words.append("not confirmed")
    if not record.state.terminal and record.reachable is False:
        words.append("not reachable")
    if not record.state.terminal and record.delivered is False:
        words.append("stop not delivered yet")
    return record.state.value + (f" ({', '.join(words)})" if words else "")


def end_line(record: Record) -> str:
    """Return one line that says how a dispatch stands, who stopped it, and why it failed in the backend's words."""
    by = f" by {cause_words(record.cause)}" if record.cause else ""
    return f"{record.id} {state_words(record)}{by}{why_words(record)}"


def why_words(record: Record) -> str:
    """Return `: ` and the backend's words for why a dispatch failed, or an empty text."""
    said = [str(note.data["message"]) for note in record.notes if note.type == "backend_said"]
    return f": {printable(said[-1])}" if said and record.state.value in ("failed", "lost") else ""
