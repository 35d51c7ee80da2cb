"""`agora ps` and `agora show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand, Session
from agora.cli.follow import event_words
from agora.cli.output import (
    cause_words,
    local_time,
    number,
    print_json,
    print_pairs,
    print_table,
    printable,
    say,
    seconds_since,
    span,
    spent_words,
    state_words,
    write,
)
from agora.cli.params import AGE, DISPATCH_ID, PAIR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from agora.client import AgoraClient
    from agora.model.events import Event
    from agora.model.record import Note, Record

STATES = (
    "pending", "submitted", "running", "stopping", "succeeded", "failed", "cancelled", "timed_out", "lost",
)  # fmt: skip


@click.command(cls=AgoraCommand)
@click.option("-a", "--all", "everything", is_flag=True, help="Ended ones too.")
@click.option(
    "--state",
    "--status",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    metavar="STATE",
    help="Only this state, live or ended; may be given several times.",
)
@click.option("--run", metavar="RUN", help="Only this run.")
@click.option("--name", metavar="NAME", help="Only this name.")
@click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="Only with this label.")
@click.option("--on", "target", metavar="TARGET", help="Only on this target.")
@click.option("--older-than", type=AGE, metavar="AGE", help="Only those requested longer ago than this.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@click.option("--refresh/--no-refresh", default=True, help="Whether to ask the backends first (at most 2 s).")
@click.pass_obj
def ps(
    session: Session, /, everything: bool, states: tuple[str, ...], run: str | None, name: str | None,
    labels: tuple[tuple[str, str], ...], target: str | None, older_than: timedelta | None, limit: int | None,
    refresh: bool,
) -> int:  # fmt: skip
    """List dispatches, the newest first: the live ones, or with --all every one.

    Live are those that have not ended, and those whose end is not confirmed yet. With --owner, those of that owner.
    """

    async def action(client: AgoraClient) -> int:
        records = await client.list(
            states=states or None, live=None if everything or states else True,
            run=run, name=name, labels=dict(labels) or None, target=target, owner=session.owner or None,
            older_than=older_than, limit=limit, refresh=refresh,
        )  # fmt: skip
        if session.json:
            for record in records:
                print_json(record)
        elif records:
            print_records(records)
        else:
            say("no dispatches" if everything or states else "nothing is live (--all shows ended ones)")
        return 0

    return session.run(action)


def print_records(records: Sequence[Record]) -> None:
    """Print a table of dispatches, with their owners where any has one."""
    owned = any(record.owner for record in records)
    titles = ("ID", "NAME", "STATE", "TARGET", *(("OWNER",) if owned else ()), "AGE", "CAUSE")
    print_table(titles, [_row(record, owned) for record in records], colour=2)


def _row(record: Record, owned: bool) -> tuple[str, ...]:
    name = "/".join(part for part in (record.run, record.name) if part) or "-"
    age = span(seconds_since(record.requested_at))
    owner = (record.owner or "-",) if owned else ()
    return record.id, name, state_words(record), record.target, *owner, age, cause_words(record.cause) or "-"


@click.command(cls=AgoraCommand)
@click.argument("id", type=DISPATCH_ID)
@click.pass_obj
def show(session: Session, /, id: str) -> int:
    """Show one dispatch: how it stands, who stopped it and why, and what happened when.

    With --json the record alone; `agora events --json` has the events.
    """

    async def action(client: AgoraClient) -> int:
        record = await client.get(await client.resolve(id))
        if session.json:
            print_json(record)
            return 0
        events = [event async for event in client.events(record.id)]
        print_pairs(record_pairs(record, command_of(events)))
        write("\nTimeline\n")
        for event in events:
            write(timeline_line(event, record) + "\n")
        return 0

    return session.run(action)


def command_of(events: Sequence[Event]) -> str:
    """Return the command as its first event has it, in a shell's spelling; empty where the image has its own."""
    import shlex

    command = events[0].data.get("command") if events else None
    return shlex.join(command) if isinstance(command, list) else ""


def record_pairs(record: Record, command: str = "") -> list[tuple[str, str]]:
    """Return what is known of a record as titled lines; what is not known is left out."""
    grace = f"{record.grace} s"
    if record.effective_grace is not None and record.effective_grace != record.grace:
        grace += f" asked, {number(record.effective_grace)} s in force"
    candidates = [
        ("Dispatch", record.id),
        ("Name", "/".join(part for part in (record.run, record.name) if part)),
        ("Command", command),
        ("State", state_words(record)),
        ("Owner", record.owner or ""),
        ("Target", f"{record.target} (provider {record.provider})"),
        ("Cause", cause_words(record.cause)),
        ("Policy", record.cause.policy or "" if record.cause else ""),
        ("Exit code", _known(record.exit_code)),
        ("Signal", _known(record.signal)),
        ("Confirmed", _flag(record.confirmed, "the end is proven", "nobody has seen a proof of the end yet")),
        (
            "Acknowledged",
            _flag(record.acknowledged, "the worker reported a clean cancel", "the worker did not get done in time"),
        ),
        ("Delivered", _flag(record.delivered, "the backend accepted the stop", "no backend accepted the stop yet")),
        ("Reachable", _flag(record.reachable, "", "the backend did not answer; this is the last that is known")),
        ("Degraded", ", ".join(record.degraded)),
        ("Grace", grace),
        ("Deadline", f"{local_time(record.deadline)} ({record.timeout} s)" if record.deadline else ""),
        ("Spent", spent_words(record)),
        ("Start at", _time(record.start_at)),
        ("Requested", local_time(record.requested_at)),
        ("Submitted", _time(record.submitted_at)),
        ("Started", _time(record.started_at)),
        ("Stopping", _time(record.stopping_at)),
        ("Ended", _time(record.ended_at)),
        ("Labels", ", ".join(f"{key}={value}" for key, value in sorted(record.labels.items()))),
        ("Native", ", ".join(f"{key}={value}" for key, value in record.native.items())),
    ]
    pairs = [(title, text) for title, text in candidates if text]
    for note in record.notes:
        if note.type == "children_asked":
            pairs += _children_pairs(note)
        else:
            details = ", ".join(f"{key}={value}" for key, value in note.data.items())
            pairs.append(("Note", f"{local_time(note.at)} {note.type} {details}".rstrip()))
    return pairs


def _children_pairs(note: Note) -> list[tuple[str, str]]:
    """Return what became of those below it when it was asked to stop, a line each."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in note.data["outcomes"].items())
    lines = [f"{local_time(note.at)} asked to stop with it: {counts}"]
    lines += [f"{id} {outcome}" for id, outcome in note.data["children"].items()]
    if note.data["more"]:
        lines.append(f"and {note.data['more']} more")
    return [("Children" if number == 0 else "", line) for number, line in enumerate(lines)]


def timeline_line(event: Event, record: Record) -> str:
    """Return one event with its time, and its distance from the request."""
    since = event.time.timestamp() - record.requested_at.timestamp()
    moment = local_time(event.time, milliseconds=True)
    return printable(f"  {moment}  {since:+9.3f} s  {event_words(event)}")


def _known(value: int | None) -> str:
    return "" if value is None else str(value)


def _flag(value: bool | None, yes: str, no: str) -> str:
    words = {True: yes, False: no, None: ""}[value]
    return f"{'yes' if value else 'no'}: {words}" if words else ""


def _time(moment: datetime | None) -> str:
    return local_time(moment) if moment else ""
