"""`agora providers`, `targets` and `schema`: what there is to dispatch to, and in which shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand, Session
from agora.cli.output import print_json, print_table, say, write

if TYPE_CHECKING:
    from agora.client import AgoraClient

SCHEMAS = ("event", "spec", "record", "cancel", "run")


@click.command(cls=AgoraCommand)
@click.pass_obj
def providers(session: Session, /) -> int:
    """List the installed providers; a broken one is listed with its error."""

    async def action(client: AgoraClient) -> int:
        found = client.providers()
        if session.json:
            for provider in found:
                print_json(provider)
        elif found:
            rows = [(p.name, f"{p.distribution} {p.version}", p.status, p.error or "-") for p in found]
            print_table(("NAME", "PACKAGE", "STATUS", "ERROR"), rows)
        else:
            say("no provider is installed; agora-local runs workloads on this machine")
        return 0

    return session.run(action)


@click.command(cls=AgoraCommand)
@click.pass_obj
def targets(session: Session, /) -> int:
    """List the configured targets and where each is configured."""

    async def action(client: AgoraClient) -> int:
        found = client.targets()
        if session.json:
            for target in found:
                print_json(target)
        else:
            rows = [(t.name, t.provider, t.source, t.error or "-") for t in found]
            print_table(("NAME", "PROVIDER", "CONFIGURED IN", "ERROR"), rows)
        return 0

    return session.run(action)


@click.command(cls=AgoraCommand)
@click.argument("name", type=click.Choice(SCHEMAS), required=False)
def schema(name: str | None) -> int:
    """Print the JSON Schema of the shapes that --json prints, and of the spec that --spec reads.

    Without NAME, one object with all of them.
    """
    from agora.model.base import Model
    from agora.model.cancel import CancelResult
    from agora.model.events import Event
    from agora.model.record import Record
    from agora.model.run import RunSummary
    from agora.model.spec import Spec

    models: dict[str, type[Model]] = {
        "event": Event, "spec": Spec, "record": Record, "cancel": CancelResult, "run": RunSummary,
    }  # fmt: skip
    schemas = {
        key: model.model_json_schema(mode="validation" if model is Spec else "serialization")
        for key, model in models.items()
    }
    write(json.dumps(schemas[name] if name else schemas, indent=2) + "\n")
    return 0
