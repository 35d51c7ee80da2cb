"""`agora cancel`: stop dispatches, by id or in bulk."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from agora.cli.base import AgoraCommand, Exit, Session
from agora.cli.output import (
    local_time,
    print_json,
    print_table,
    say,
    state_words,
)
from agora.cli.params import AGE, DISPATCH_ID, PAIR, SECONDS_TYPE

if TYPE_CHECKING:
    from datetime import timedelta

    from agora.client import AgoraClient
    from agora.model.record import Record

#: The best code first; of several dispatches the worst one counts. 7 is retried by itself, 4 and 5 are not.
BEST_TO_WORST = (Exit.OK, Exit.ENDED, Exit.UNDELIVERED, Exit.NOT_FOUND, Exit.FORBIDDEN, Exit.USAGE, Exit.ERROR)
#: Added to the grace for `--wait`; the contract's cancel timeout (section 2), and a little for its record.
CANCEL_TIMEOUT = 60
RECORD_LAG = 5
REDRAW = 0.5


@dataclass(frozen=True)
class Request:
    """What is asked of every dispatch chosen."""

    reason: str | None
    grace: int | None
    force: bool
    wait: bool


@dataclass
class Chosen:
    """The dispatches that a call is about.

    Parameters:
        records: found, each once.
        missing: names that no dispatch has.
        bulk: chosen by what they have in common, so that the user may not know which they are.
    """

    records: list[Record] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    bulk: bool = False


@dataclass(frozen=True)
class Selection:
    """How the user names dispatches; a bulk selection takes live ones only."""

    ids: tuple[str, ...]
    run: str | None
    labels: dict[str, str]
    older_than: timedelta | None
    target: str | None
    everything: bool

    def check(self) -> None:
        """Refuse a selection that is empty or contradicts itself, before anything is read."""
        filters = self.labels or self.older_than is not None or self.target or self.everything
        if self.run and self.ids and filters:
            raise click.UsageError("--run RUN NAME names one dispatch; leave out the other selections.")
        if self.ids and not self.run and filters:
            raise click.UsageError("Give ids, or a selection (--run, --label, --older-than, --on, --all), not both.")
        if not self.ids and not self.run and not filters:
            raise click.UsageError("Nothing to cancel: give ids, or --run, --label, --older-than, --on or --all.")

    async def choose(self, client: AgoraClient) -> Chosen:
        """Look the dispatches up."""
        if self.run and self.ids:
            return await self._by_name(client, self.run)
        if self.ids:
            return await self._by_id(client)
        records = await client.list(
            live=True, run=self.run, labels=self.labels or None, older_than=self.older_than, target=self.target
        )
        # "Live" includes ended ones that are not confirmed yet; there is nothing left to ask of those.
        records = [record for record in records if not record.state.terminal]
        missing = []
        if self.run and not records and not await client.list(run=self.run, limit=1):
            missing.append(self.run)
        return Chosen(records, missing, bulk=True)

    async def _by_id(self, client: AgoraClient) -> Chosen:
        from agora.errors import DispatchNotFound

        chosen: dict[str, Record] = {}
        missing = []
        for text in self.ids:
            try:
                record = await client.get(await client.resolve(text), refresh=False)
                chosen[record.id] = record
            except DispatchNotFound:
                missing.append(text)
        return Chosen(list(chosen.values()), missing)

    async def _by_name(self, client: AgoraClient, run: str) -> Chosen:
        chosen = Chosen()
        for name in dict.fromkeys(self.ids):
            found = await client.list(run=run, name=name, limit=1)
            chosen.records += found
            if not found:
                chosen.missing.append(name)
        return chosen


class NameOrId(click.ParamType):
    """A dispatch id, or with `--run` the name of a dispatch in that run."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; with `--run` it is no id."""
        return str(value)

    shell_complete = DISPATCH_ID.shell_complete


@click.command(cls=AgoraCommand)
@click.argument("ids", nargs=-1, metavar="[ID...]", type=NameOrId())
@click.option("--run", metavar="RUN", help="All live ones of a run; arguments are then names in it.")
@click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="Live ones with this label.")
@click.option("--older-than", type=AGE, metavar="AGE", help="Live ones requested longer ago than this (30m, 2h).")
@click.option("--on", "target", metavar="TARGET", help="Live ones on this target.")
@click.option("--all", "everything", is_flag=True, help="All live ones.")
@click.option("--reason", metavar="TEXT", help="Why; kept with the dispatch and shown to everybody.")
@click.option("--grace", type=SECONDS_TYPE, metavar="SECONDS", help="Another grace for this stop, at least 2.")
@click.option("--force", is_flag=True, help="Kill without grace, where the backend can.")
@click.option("--wait", is_flag=True, help="Wait until the end is confirmed, at most grace + 60 s.")
@click.option("--dry-run", is_flag=True, help="Show what would be cancelled and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before a bulk cancel.")
@click.pass_obj
def cancel(
    session: Session, ids: tuple[str, ...], run: str | None, labels: tuple[tuple[str, str], ...],
    older_than: timedelta | None, target: str | None, everything: bool, reason: str | None, grace: int | None,
    force: bool, wait: bool, dry_run: bool, yes: bool,
) -> int:  # fmt: skip
    """Stop dispatches, by id (or a unique prefix or suffix of it) or by what they have in common.

    \b
    agora cancel 01jx… --reason "too slow"
    agora cancel --run nightly              everything live of a run
    agora cancel --run nightly report       the one of that name
    agora cancel --label team=data --older-than 2h --dry-run

    Exits 0 where every stop is under way or done, 3 where one had ended before, 7 where one is recorded and not
    accepted yet (it is tried again), 4 not found, 5 forbidden, 2 malformed, 1 the store cannot be reached;
    of several the worst, in the order 0, 3, 7, 4, 5, 2, 1.
    """
    if not run:
        ids = tuple(DISPATCH_ID.convert(text, None, click.get_current_context()) for text in ids)
    if grace == 0 and not force:
        raise click.UsageError("A grace of 0 is a kill: say so with --force.")
    selection = Selection(ids, run, dict(labels), older_than, target, everything)
    selection.check()
    request = Request(reason, grace, force, wait)

    async def action(client: AgoraClient) -> int:
        chosen = await selection.choose(client)
        if dry_run:
            return show_chosen(session, chosen)
        if chosen.bulk and chosen.records:
            ask(session, chosen.records, yes)
        return await Cancelling(client, session, request).run(chosen)

    return session.run(action)


def show_chosen(session: Session, chosen: Chosen) -> int:
    """Print what would be cancelled; return the code that the cancel would most likely have."""
    if session.json:
        for record in chosen.records:
            print_json(record)
    elif chosen.records:
        print_candidates(chosen.records)
    else:
        say("nothing to cancel")
    for name in chosen.missing:
        say(f"{name}: no such dispatch")
    codes = [_ended_code(record) for record in chosen.records]
    return worst([*codes, *(Exit.NOT_FOUND for _ in chosen.missing)])


def print_candidates(records: list[Record]) -> None:
    """Print a short table of dispatches."""
    rows = [
        (record.id, record.name or "-", state_words(record), record.target, local_time(record.requested_at))
        for record in records
    ]
    print_table(("ID", "NAME", "STATE", "TARGET", "REQUESTED"), rows, colour=2)


def ask(session: Session, records: list[Record], yes: bool) -> None:
    """Have a bulk cancel confirmed.

    Raises:
        click.UsageError: nobody can be asked and `--yes` is missing.
        click.Abort: the answer is no.
    """
    if yes:
        return
    if session.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(
            f"{len(records)} dispatches would be cancelled, and there is nobody to ask: add --yes, or look at "
            "them with --dry-run. Nothing was cancelled."
        )
    print_candidates(records)
    sys.stdout.flush()
    click.confirm(f"Cancel these {len(records)} dispatches?", abort=True, err=True)


def worst(codes: list[int]) -> int:
    """Return the worst of several exit codes, 0 for none."""
    order = [int(code) for code in BEST_TO_WORST]
    return max(codes, key=order.index, default=int(Exit.OK))


def _ended_code(record: Record) -> int:
    return Exit.ENDED if record.state.terminal and record.state.value != "cancelled" else Exit.OK


class Cancelling:
    """The cancel of all chosen dispatches at the same time, and the wait for their ends."""

    def __init__(self, client: AgoraClient, session: Session, request: Request) -> None:
        self.client = client
        self.session = session
        self.request = request
        self.latest: dict[str, Record] = {}

    async def run(self, chosen: Chosen) -> int:
        """Cancel, print one result each in the order given, and return the worst code."""
        import anyio

        codes: dict[str, int] = {}

        async def one(record: Record) -> None:
            codes[record.id] = await self._cancel(record.id)

        self.latest = {record.id: record for record in chosen.records}
        async with anyio.create_task_group() as tasks:
            if self.request.wait:
                tasks.start_soon(self._show_progress, tasks.cancel_scope)
            async with anyio.create_task_group() as cancels:
                for record in chosen.records:
                    cancels.start_soon(one, record)
            tasks.cancel_scope.cancel()
        for name in chosen.missing:
            codes[name] = self._tell_missing(name)
        if not codes and not self.session.json:
            say("nothing to cancel")
        return worst(list(codes.values()))

    def _tell_missing(self, name: str) -> int:
        from agora.model.cancel import CancelResult, Outcome

        if self.session.json:
            print_json(CancelResult(id=name, outcome=Outcome.NOT_FOUND))
        say(f"{name}: no such dispatch")
        return Exit.NOT_FOUND
