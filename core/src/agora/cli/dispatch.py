"""`agora dispatch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agora.cli.base import AgoraCommand, Exit, Session
from agora.cli.output import print_json, say, why_words, write_now
from agora.cli.spec_flags import spec_fields, spec_options

if TYPE_CHECKING:
    from agora.client import AgoraClient


@click.command(cls=AgoraCommand, context_settings={"allow_interspersed_args": False})
@spec_options
@click.pass_obj
def dispatch(session: Session, /, target: str | None, dispatch_id: str | None, **flags: Any) -> int:
    """Dispatch a workload and return at once, with its id on stdout.

    A background supervisor looks after it. Exits 0 once it is recorded and sent; 125 where the backend
    refused to start it, which is a `failed` dispatch and not an error of the call.
    """
    fields = spec_fields(flags)
    return session.run(lambda client: send(client, session, target, dispatch_id, fields))


async def send(
    client: AgoraClient, session: Session, target: str | None, dispatch_id: str | None, fields: dict[str, Any]
) -> int:
    """Dispatch, print the id or the record, and say so where it could not start."""
    record = (await client.dispatch(target=target, id=dispatch_id, **fields)).record
    if session.json:
        print_json(record)
    else:
        write_now(f"{record.id}\n")
    if record.state.value == "failed" and record.started_at is None:
        say(f"{record.id} could not start: {record.reason or 'the backend refused it'}{why_words(record)}")
        return Exit.UNKNOWN
    return Exit.OK
