"""`agora spend`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand, Session
from agora.cli.output import print_json, spent_words, write
from agora.cli.params import AMOUNT, UNENDED_ID

if TYPE_CHECKING:
    from agora.client import AgoraClient


@click.command(cls=AgoraCommand)
@click.argument("id", type=UNENDED_ID)
@click.argument("amounts", nargs=-1, required=True, type=AMOUNT, metavar="UNIT=AMOUNT...")
@click.pass_obj
def spend(session: Session, /, id: str, amounts: tuple[tuple[str, float], ...]) -> int:
    """Add to what a dispatch has spent, for programs that count outside of it: `agora spend ID tokens=1200`.

    Prints what it has spent in all. One that has spent more than its budget is cancelled by whoever supervises it.
    """

    async def action(client: AgoraClient) -> int:
        more: dict[str, float] = {}
        for unit, amount in amounts:
            more[unit] = more.get(unit, 0.0) + amount
        record = await client.spend(await client.resolve(id), **more)
        if session.json:
            print_json(record)
        else:
            write(f"{spent_words(record)}\n")
        return 0

    return session.run(action)
