"""`agora runs`: how the runs of programs were left, and what they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand, Exit, Session
from agora.cli.look import STATES, print_records
from agora.cli.output import (
    cause_words,
    local_time,
    print_json,
    print_pairs,
    print_table,
    say,
    seconds_since,
    span,
    write,
)
from agora.cli.params import RUN_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agora.client import AgoraClient
    from agora.model.record import Record
    from agora.model.run import RunSummary


@click.command(cls=AgoraCommand)
@click.argument("name", type=RUN_NAME, required=False)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@click.pass_obj
def runs(session: Session, /, name: str | None, limit: int | None) -> int:
    """List runs, the newest first; or with NAME show one, with its dispatches.

    The outcome is how the program that the run is a scope of left it. There is none while a run is open, and where a
    run is no more than a name that dispatches share. With --json the run alone; `agora ps --all --run NAME --json` has
    its dispatches.
    """

    async def listed(client: AgoraClient) -> int:
        found = await client.runs(limit=limit)
        if session.json:
            for one in found:
                print_json(one)
        elif found:
            rows = [(one.run, _outcome(one), _states(one) or "-", _age(one), _why(one) or "-") for one in found]
            print_table(("RUN", "OUTCOME", "DISPATCHES", "AGE", "WHY"), rows, colour=1)
        else:
            say("no runs")
        return Exit.OK

    async def shown(client: AgoraClient, name: str) -> int:
        from agora.errors import DispatchNotFound

        records = await client.list(run=name, refresh=True)
        found = await client.runs(run=name)
        if not found:
            raise DispatchNotFound(f"there is no run {name}; `agora runs` lists them")
        _show(session, found[0], records)
        return Exit.OK

    if name is None:
        return session.run(listed)
    if limit is not None:
        raise click.UsageError("--limit is for the list of runs; leave it out with NAME.")
    return session.run(lambda client: shown(client, name))


def _show(session: Session, one: RunSummary, records: Sequence[Record]) -> None:
    if session.json:
        print_json(one)
        return
    candidates = [("Run", one.run), ("Outcome", _outcome(one)), ("Dispatches", _states(one))]
    if one.outcome is not None:
        by = "/".join(part for part in (one.outcome.dispatch_id, one.outcome.name) if part)
        candidates += [
            ("Left by", " of ".join(part for part in (one.outcome.error, by) if part)),
            ("Reason", one.outcome.reason or ""),
            ("Cause", cause_words(one.outcome.cause)),
            ("Ended", local_time(one.outcome.ended_at)),
        ]
    print_pairs([(title, text) for title, text in candidates if text])
    if records:
        write("\n")
        print_records(records)


def _outcome(one: RunSummary) -> str:
    return "-" if one.outcome is None else one.outcome.state.value


def _states(one: RunSummary) -> str:
    counts = {state.value: count for state, count in one.states.items()}
    return ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)


def _age(one: RunSummary) -> str:
    begun = one.began_at or (one.outcome.ended_at if one.outcome else None)
    return "-" if begun is None else span(seconds_since(begun))


def _why(one: RunSummary) -> str:
    if one.outcome is None:
        return ""
    return cause_words(one.outcome.cause) or one.outcome.reason or one.outcome.error or ""
