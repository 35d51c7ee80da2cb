"""Which dispatches a `cancel` is about: ids, a name in a run, or what they have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from agora.cli.params import UNENDED_ID, ParamType

if TYPE_CHECKING:
    from datetime import timedelta

    from click.shell_completion import CompletionItem

    from agora.client import AgoraClient
    from agora.model.record import Record


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
    owner: str | None = None

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
            live=True, run=self.run, labels=self.labels or None, older_than=self.older_than, target=self.target,
            owner=self.owner,
        )  # fmt: skip
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


class NameOrId(ParamType):
    """A dispatch id, or with `--run` the name of a dispatch in that run."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; with `--run` it is no id."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer what can still be cancelled: ids, or with `--run` the names of that run."""
        from agora.cli.completion import stored_names

        if run := ctx.params.get("run"):
            return stored_names(ctx, run, incomplete)
        return UNENDED_ID.shell_complete(ctx, param, incomplete)
