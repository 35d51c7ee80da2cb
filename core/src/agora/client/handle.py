"""A dispatch in hand: the client's verbs without the id."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING

from agora.model.cancel import CancelResult
from agora.model.cause import Cause
from agora.model.events import Event
from agora.model.observation import LogChunk
from agora.model.record import Record

if TYPE_CHECKING:
    from agora.client.client import AgoraClient


class DispatchHandle:
    """One dispatch.

    Parameters:
        client: the client that it was dispatched with.
        record: the record as it was then; `get` reads it anew.
    """

    def __init__(self, client: AgoraClient, record: Record) -> None:
        self._client = client
        self.record = record

    @property
    def id(self) -> str:
        """The dispatch id."""
        return self.record.id

    async def get(self, *, refresh: bool = True) -> Record:
        """Read the record; see `AgoraClient.get`."""
        return await self._client.get(self.id, refresh=refresh)

    async def cancel(
        self,
        *,
        reason: str | None = None,
        grace: int | None = None,
        force: bool = False,
        soft: int | None = None,
        children_grace: int | None = None,
        children_force: bool = False,
        cause: Cause | None = None,
    ) -> CancelResult:
        """Cancel it; see `AgoraClient.cancel`."""
        return await self._client.cancel(
            self.id, reason=reason, grace=grace, force=force, soft=soft,
            children_grace=children_grace, children_force=children_force, cause=cause,
        )  # fmt: skip

    async def spend(self, **amounts: float) -> Record:
        """Add to what it has spent; see `AgoraClient.spend`."""
        return await self._client.spend(self.id, **amounts)

    async def wait(self, *, timeout: float | None = None, confirmed: bool = False) -> Record:
        """Wait for its end; see `AgoraClient.wait`."""
        return await self._client.wait(self.id, timeout=timeout, confirmed=confirmed)

    async def result(self, *, timeout: float | None = None) -> Record:
        """Wait for its success; see `AgoraClient.result`."""
        return await self._client.result(self.id, timeout=timeout)

    def events(self, *, follow: bool = False, after: int = 0) -> AsyncIterator[Event]:
        """Its events; see `AgoraClient.events`."""
        return self._client.events(self.id, follow=follow, after=after)

    def logs(
        self, *, follow: bool = False, since: datetime | None = None, tail: int | None = None
    ) -> AsyncIterator[LogChunk]:
        """Its output; see `AgoraClient.logs`."""
        return self._client.logs(self.id, follow=follow, since=since, tail=tail)

    def __repr__(self) -> str:
        return f"<DispatchHandle {self.id} on {self.record.target}>"
