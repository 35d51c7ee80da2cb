"""`agora logs`, `agora events` and `agora wait`."""

from __future__ import annotations

import codecs
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from agora.cli.base import AgoraCommand, Exit, Session, record_exit_code
from agora.cli.output import OutputClosed, end_line, local_time, print_json, printable, say, write_now
from agora.cli.params import DISPATCH_ID, RUN_NAME, SECONDS_TYPE, SINCE, UNENDED_ID

if TYPE_CHECKING:
    from datetime import datetime

    from agora.client import AgoraClient
    from agora.model.events import Event
    from agora.model.observation import LogChunk


@click.command(cls=AgoraCommand)
@click.argument("id", type=DISPATCH_ID)
@click.option("-f", "--follow", is_flag=True, help="Go on until the end of the workload.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines.")
@click.option("--since", type=SINCE, metavar="WHEN", help="Only what is newer: an age (10m) or a time.")
@click.pass_obj
def logs(session: Session, /, id: str, follow: bool, tail: int | None, since: datetime | None) -> int:
    """Print the output of a workload, its stderr on stderr.

    With --json an object for each piece: stream, at, text, dropped (bytes that a size limit dropped before it).
    """

    async def action(client: AgoraClient) -> int:
        show = JsonOutput() if session.json else write_chunk
        async for chunk in client.logs(await client.resolve(id), follow=follow, since=since, tail=tail):
            if chunk.data or chunk.dropped:
                show(chunk)
        return 0

    return session.run(action)


def write_chunk(chunk: LogChunk) -> None:
    """Write a piece of output to the stream that it was written to."""
    if chunk.dropped:
        say(f"{chunk.dropped} bytes of output were dropped here")
    stream = sys.stderr if chunk.stream == "stderr" else sys.stdout
    try:
        stream.buffer.write(chunk.data)
        stream.flush()
    except OSError as error:
        raise OutputClosed(error) from None


class JsonOutput:
    """Prints pieces of output as JSON; a character that is cut by the end of a piece comes with the next."""

    def __init__(self) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: make(errors="replace") for stream in ("stdout", "stderr")}

    def __call__(self, chunk: LogChunk) -> None:
        """Print one piece."""
        print_json({
            "stream": chunk.stream,
            "at": chunk.at.isoformat() if chunk.at else None,
            "text": self._decoders[chunk.stream].decode(chunk.data),
            "dropped": chunk.dropped,
        })  # fmt: skip


@click.command(cls=AgoraCommand)
@click.argument("id", type=DISPATCH_ID, required=False)
@click.option(
    "--run", type=RUN_NAME, metavar="RUN", help="Those of all dispatches of a run, in the order in which they happened."
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the dispatch, or all of the run, has ended.")
@click.option("--after", metavar="EVENT", help="Only those after this one: its number; with --run its id, like ID/3.")
@click.pass_obj
def events(session: Session, /, id: str | None, run: str | None, follow: bool, after: str | None) -> int:
    """Print the events of a dispatch or a run: with --json as CloudEvents, one a line."""
    if (id is None) == (run is None):
        raise click.UsageError("Give an id, or --run RUN.")
    if run is None and after is not None and not after.isdecimal():
        raise click.UsageError(f"--after {after!r} is no number of an event; ids of events go with --run.")

    async def action(client: AgoraClient) -> int:
        names: dict[str, str] = {}
        if run is not None:
            found = client.run_events(run, follow=follow, after=after)
        else:
            found = client.events(await client.resolve(str(id)), follow=follow, after=int(after or 0))
        async for event in found:
            if session.json:
                print_json(event)
                continue
            if run is not None and event.subject not in names:
                names[event.subject] = (await client.get(event.subject, refresh=False)).name or event.subject
            whose = f"{names[event.subject]}  " if run is not None else ""
            moment = local_time(event.time, milliseconds=True)
            write_now(printable(f"{moment}  {whose}{event.sequence:3d}  {event_words(event)}") + "\n")
        return 0

    return session.run(action)


def event_words(event: Event) -> str:
    """Return an event's type without its prefix, and its data as `key=value`."""
    words = [event.type.value.removeprefix("dispatch.").ljust(16)]
    for key, value in event.data.items():
        if key == "cause" and isinstance(value, dict):
            words.append(_cause_data(value))
        elif value is not None and value not in ({}, [], ()):
            words.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return "  ".join(words).rstrip()


def _cause_data(cause: dict[str, Any]) -> str:
    detail = cause.get("reason") or cause.get("policy")
    return f"by {cause.get('actor')} via {cause.get('via')}" + (f": {detail}" if detail else "")


@click.command(cls=AgoraCommand, own_error=Exit.UNKNOWN)
@click.argument("ids", nargs=-1, required=True, type=UNENDED_ID, metavar="ID...")
@click.option(
    "--timeout", type=SECONDS_TYPE, metavar="SECONDS", help="Wait no longer than this; then exit 125. 0 is a look."
)
@click.option("--confirmed", is_flag=True, help="Also wait until the end is confirmed.")
@click.pass_obj
def wait(session: Session, /, ids: tuple[str, ...], timeout: int | None, confirmed: bool) -> int:
    """Wait for the end of dispatches. Ending the wait never ends a dispatch.

    Exits as `run` does: 0 succeeded, 130 cancelled, 124 timed out, 125 lost, an error of Agora's own or the end of
    --timeout, else the workload's code, or 128 + its signal, or 125. Of several ids, the first code that is not 0.
    """

    if timeout is not None and timeout < 0:
        raise click.UsageError("--timeout is below 0.")

    async def action(client: AgoraClient) -> int:
        import anyio

        full = list(dict.fromkeys([await client.resolve(id) for id in ids]))
        codes: dict[str, int] = {}

        async def one(id: str) -> None:
            codes[id] = await _wait_for(client, session, id, timeout, confirmed)

        async with anyio.create_task_group() as tasks:
            for id in full:
                tasks.start_soon(one, id)
        return next((codes[id] for id in full if codes[id]), 0)

    return session.run(action)


async def _wait_for(client: AgoraClient, session: Session, id: str, timeout: int | None, confirmed: bool) -> int:
    over = True
    try:
        record = await client.wait(id, timeout=timeout, confirmed=confirmed)
    except TimeoutError:
        record = await client.get(id, refresh=False)
        over = record.state.terminal and not (confirmed and record.confirmed is False)
    if not over:
        now = f"still {record.state.value} after {timeout} s" if timeout else record.state.value
        say(f"{id} is {now}" + (", and its end is not confirmed" if record.state.terminal else ""))
    if session.json:
        print_json(record)
    elif record.state.terminal:
        write_now(f"{end_line(record)}\n")
    return record_exit_code(record) if over else Exit.UNKNOWN
