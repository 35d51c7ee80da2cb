"""`agora supervise`, `reconcile`, `reap` and `prune`: what keeps a store and its backends tidy."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand, Session
from agora.cli.output import print_json, print_table, say, span, write
from agora.cli.params import AGE

if TYPE_CHECKING:
    from datetime import timedelta

    from agora.client import AgoraClient


@click.command(cls=AgoraCommand)
@click.option("--until-idle", is_flag=True, help="End once nothing is live any more.")
@click.pass_obj
def supervise(session: Session, /, until_idle: bool) -> int:
    """Look after everything live in the foreground, as the background supervisor does.

    It carries out recorded cancels and deadlines and notes how dispatches end. Ctrl-C or SIGTERM ends it, and never
    a dispatch.
    """

    async def action(client: AgoraClient) -> int:
        import anyio

        async def end_on_signal(scope: anyio.CancelScope) -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
                async for number in received:
                    say(f"{number.name}: no longer supervising")
                    scope.cancel()
                    return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_on_signal, tasks.cancel_scope)
            await client.supervise(until_idle=until_idle)
            tasks.cancel_scope.cancel()
        return 0

    return session.run(action)


@click.command(cls=AgoraCommand)
@click.pass_obj
def reconcile(session: Session, /) -> int:
    """Look once at everything live, and carry out recorded cancels and deadlines."""

    async def action(client: AgoraClient) -> int:
        report = await client.reconcile()
        if session.json:
            print_json(report)
            return 0
        write(f"{report.checked} checked, {len(report.changed)} changed, {len(report.unreachable)} not reachable\n")
        for title, ids in (("changed", report.changed), ("not reachable", report.unreachable)):
            for id in ids:
                write(f"{id} {title}\n")
        return 0

    return session.run(action)


@click.command(cls=AgoraCommand)
@click.option("--dry-run", is_flag=True, help="Show what would be stopped and do nothing.")
@click.option("--installation", metavar="ID", help="Take the workloads of this lost installation instead.")
@click.pass_obj
def reap(session: Session, /, dry_run: bool, installation: str | None) -> int:
    """Stop workloads that carry this installation's mark and that no record knows.

    Only those older than the longest possible dispatch are taken.
    """

    async def action(client: AgoraClient) -> int:
        found = await client.reap(dry_run=dry_run, installation=installation)
        if session.json:
            for reaped in found:
                print_json(reaped)
        elif found:
            rows = [(r.id, r.target, r.installation, span(r.age), r.action, r.reason or "-") for r in found]
            print_table(("ID", "TARGET", "INSTALLATION", "AGE", "ACTION", "REASON"), rows)
        else:
            say("nothing to reap")
        return 1 if any(reaped.action == "failed" for reaped in found) else 0

    return session.run(action)


@click.command(cls=AgoraCommand)
@click.option("--older-than", type=AGE, required=True, metavar="AGE", help="Ended longer ago than this (7d, 12h).")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted and do nothing.")
@click.pass_obj
def prune(session: Session, /, older_than: timedelta, dry_run: bool) -> int:
    """Delete dispatches that ended long ago, with their events and logs. Live ones always stay."""

    async def action(client: AgoraClient) -> int:
        ids = await client.prune(older_than, dry_run=dry_run)
        for id in ids:
            if session.json:
                print_json({"id": id, "action": "would delete" if dry_run else "deleted"})
            else:
                write(f"{id}\n")
        if not session.json:
            say(f"{len(ids)} {'would be deleted' if dry_run else 'deleted'}")
        return 0

    return session.run(action)
