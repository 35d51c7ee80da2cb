"""`agora cancel`: stop dispatches, by id or in bulk."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand, Exit, Session
from agora.cli.output import (
    as_data,
    cause_words,
    end_line,
    local_time,
    number,
    print_json,
    print_table,
    printable,
    say,
    state_words,
    write_now,
)
from agora.cli.params import AGE, DISPATCH_ID, PAIR, SECONDS_TYPE
from agora.cli.progress import Progress, progress_wanted
from agora.cli.selection import Chosen, NameOrId, Selection

if TYPE_CHECKING:
    from datetime import timedelta

    from agora.client import AgoraClient
    from agora.model.cancel import CancelResult
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
    soft: int | None
    children_grace: int | None
    children_force: bool
    wait: bool


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
@click.option("--soft", type=SECONDS_TYPE, metavar="SECONDS", help="First ask its worker, for so long, to end itself.")
@click.option(
    "--children-grace", type=SECONDS_TYPE, metavar="SECONDS", help="The grace of those below it: so long at most."
)
@click.option("--children-force", is_flag=True, help="Kill those below it without grace.")
@click.option("--wait", is_flag=True, help="Wait until the end is confirmed, at most grace + 60 s.")
@click.option("--dry-run", is_flag=True, help="Show what would be cancelled and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before a bulk cancel.")
@click.pass_obj
def cancel(
    session: Session, /, ids: tuple[str, ...], run: str | None, labels: tuple[tuple[str, str], ...],
    older_than: timedelta | None, target: str | None, everything: bool, reason: str | None, grace: int | None,
    force: bool, soft: int | None, children_grace: int | None, children_force: bool, wait: bool, dry_run: bool,
    yes: bool,
) -> int:  # fmt: skip
    """Stop dispatches, by id (or a unique prefix or suffix of it) or by what they have in common.

    \b
    agora cancel 01jx… --reason "too slow"
    agora cancel --run nightly              everything live of a run
    agora cancel --run nightly report       the one of that name
    agora cancel --label team=data --older-than 2h --dry-run
    agora cancel --all --owner agent-7      everything live of an owner

    Exits 0 where every stop is under way or done, 3 where one had ended before, 7 where one is recorded and not
    accepted yet (it is tried again), 4 not found, 5 not yours, 2 malformed, 1 the store cannot be reached;
    of several the worst, in the order 0, 3, 7, 4, 5, 2, 1.
    """
    if not run:
        ids = tuple(DISPATCH_ID.convert(text, None, click.get_current_context()) for text in ids)
    if grace == 0 and not force:
        raise click.UsageError("A grace of 0 is a kill: say so with --force.")
    if soft is not None and force:
        raise click.UsageError("--soft asks it to end by itself and --force kills it at once: choose one.")
    if children_grace is not None and children_force:
        raise click.UsageError("--children-grace gives those below time and --children-force kills them: choose one.")
    selection = Selection(ids, run, dict(labels), older_than, target, everything, session.owner or None)
    selection.check()
    request = Request(reason, grace, force, soft, children_grace, children_force, wait)

    async def action(client: AgoraClient) -> int:
        chosen = await selection.choose(client)
        if dry_run:
            return show_chosen(session, chosen)
        if chosen.bulk and (own := [record for record in chosen.records if not record.forbids(session.acts_for)]):
            ask(session, own, yes)
        return await Cancelling(client, session, request).run(chosen)

    return session.run(action)


def counted(count: int) -> str:
    """Return `1 dispatch` or `3 dispatches`."""
    return f"{count} dispatch{'' if count == 1 else 'es'}"


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
    codes = [_likely_code(session, record) for record in chosen.records]
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
            f"{counted(len(records))} would be cancelled, and there is nobody to ask: add --yes, or look at "
            "them with --dry-run. Nothing was cancelled."
        )
    print_candidates(records)
    sys.stdout.flush()
    click.confirm(f"Cancel {'this' if len(records) == 1 else 'these'} {counted(len(records))}?", abort=True, err=True)


def worst(codes: list[int]) -> int:
    """Return the worst of several exit codes, 0 for none."""
    order = [int(code) for code in BEST_TO_WORST]
    return max(codes, key=order.index, default=int(Exit.OK))


def _likely_code(session: Session, record: Record) -> int:
    if why := record.forbids(session.acts_for):
        say(f"{record.id}: not yours to cancel: {why}")
        return Exit.FORBIDDEN
    return Exit.ENDED if record.state.terminal and record.state.value != "cancelled" else Exit.OK


class Cancelling:
    """The cancel of all chosen dispatches at the same time, and the wait for their ends."""

    def __init__(self, client: AgoraClient, session: Session, request: Request) -> None:
        self.client = client
        self.session = session
        self.request = request
        self.ids: list[str] = []
        self.recorded: set[str] = set()
        self.progress = Progress() if request.wait and not session.json and progress_wanted() else None

    async def run(self, chosen: Chosen) -> int:
        """Cancel, print one result each as it comes, and return the worst code."""
        import anyio

        codes: dict[str, int] = {}

        async def one(id: str) -> None:
            codes[id] = await self._cancel(id)

        self.ids = [record.id for record in chosen.records]
        try:
            async with anyio.create_task_group() as drawing:
                if self.progress:
                    drawing.start_soon(self._show_progress, self.progress)
                async with anyio.create_task_group() as cancels:
                    for id in self.ids:
                        cancels.start_soon(one, id)
                drawing.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            self._tell_interrupted(codes)
            raise
        self.progress_gives_way()
        for name in chosen.missing:
            codes[name] = self._tell_missing(name)
        if not codes and not self.session.json:
            say("nothing to cancel")
        return worst(list(codes.values()))

    def _tell_interrupted(self, codes: dict[str, int]) -> None:
        """Say what is true of those that this command leaves: Ctrl-C ends the wait, and never a cancel."""
        self.progress_gives_way()
        for id in self.ids:
            if id in self.recorded and id not in codes:
                say(f"the cancel of {id} is recorded and goes on; `agora wait {id}` waits for its end")
            elif id not in codes:
                say(f"the cancel of {id} may not be recorded yet: `agora show {id}` tells")

    def _tell_missing(self, name: str) -> int:
        from agora.model.cancel import CancelResult, Outcome

        if self.session.json:
            print_json(CancelResult(id=name, outcome=Outcome.NOT_FOUND))
        say(f"{name}: no such dispatch")
        return Exit.NOT_FOUND

    async def _cancel(self, id: str) -> int:
        from agora.cli.failures import explain
        from agora.errors import AgoraError

        ask = self.request
        try:
            result = await self.client.cancel(
                id, reason=ask.reason, grace=ask.grace, force=ask.force, soft=ask.soft,
                children_grace=ask.children_grace, children_force=ask.children_force,
            )  # fmt: skip
        except AgoraError as error:
            # One that fails must not keep the others from being cancelled.
            failure = explain(error, self.session)
            if self.session.json:
                print_json({"id": id, "error": {"type": failure.type, "message": failure.message}})
            say(f"{id}: {failure.message}")
            return failure.code
        self.recorded.add(id)
        if not self.session.json:
            self.progress_gives_way()
            for one in (result, *result.children):
                write_now(f"{one.id} {outcome_words(one)}\n")
            if result.more_children:
                say(f"{result.more_children} more below {result.id} had ended already")
        if not ask.wait or result.state is None:
            if self.session.json:
                print_json(result)
            return result.exit_code
        record = await self._wait_for_end(result)
        self.progress_gives_way()
        if self.session.json:
            print_json({**as_data(result), "record": as_data(record)})
        elif result.outcome.value in ("STOPPING", "ALREADY_STOPPING"):
            write_now(f"{end_line(record)}\n")
        return waited_code(record)

    async def _wait_for_end(self, result: CancelResult) -> Record:
        record = await self.client.get(result.id, refresh=False)
        grace = (self.request.soft or 0) + max(record.grace, self.request.grace or 0, result.effective_grace or 0)
        try:
            return await self.client.wait(result.id, timeout=grace + CANCEL_TIMEOUT + RECORD_LAG, confirmed=True)
        except TimeoutError:
            return await self.client.get(result.id, refresh=False)

    async def _show_progress(self, progress: Progress) -> None:
        import anyio

        while True:
            live = {record.id: record for record in await self.client.list(live=True)}
            if waiting := [live[id] for id in self.ids if id in live]:
                progress.show(waiting)
            await anyio.sleep(REDRAW)

    def progress_gives_way(self) -> None:
        """Take the progress lines away, so that a result can be written."""
        if self.progress:
            self.progress.hide()


def waited_code(record: Record) -> int:
    """Return the exit code of `cancel --wait` for the record at the end of the wait."""
    if not record.state.terminal:
        return Exit.UNDELIVERED
    if record.state.value != "cancelled":
        return Exit.ENDED
    return Exit.OK if record.confirmed else Exit.UNDELIVERED


def outcome_words(result: CancelResult) -> str:
    """Return what became of a cancel, for people."""
    grace = f", {number(result.effective_grace)} s of grace" if result.effective_grace is not None else ""
    by = f" by {cause_words(result.cause)}" if result.cause else ""
    match result.outcome.value:
        case "CANCELLED":
            words = "cancelled before anything was started"
        case "STOPPING" if result.delivered is None:
            words = "its worker is asked to end by itself"
        case "STOPPING":
            words = f"stopping{grace}"
        case "ALREADY_STOPPING":
            words = f"is stopping already{grace}, asked for{by}"
        case "ALREADY_CANCELLED":
            words = f"was cancelled already{by}"
        case "NOT_FOUND":
            words = "no such dispatch"
        case "FORBIDDEN":
            words = "is not yours to cancel" + (f": {result.error.message}" if result.error else "")
        case "NOT_RECORDED":
            words = f"could not be asked to stop: {result.error.message if result.error else 'its record is damaged'}"
        case already:
            words = f"had ended already: {already.removeprefix('ALREADY_').lower()}; nothing was changed"
    if result.delivered is False and result.exit_code == Exit.UNDELIVERED:
        why = f" ({result.error.type}: {result.error.message})" if result.error else ""
        words = f"{words}; recorded and not delivered yet{why}, it will be tried again"
    if result.degraded:
        words += f"; this backend could not do as asked: {', '.join(result.degraded)}"
    return printable(words)
