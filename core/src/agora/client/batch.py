"""A batch: scheduled one by one, sent together; what is taken out before never starts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import anyio

from agora.client.asking import Wanted, spec_of, start_of
from agora.errors import InvalidRequest
from agora.model.ids import check_dispatch_id, new_dispatch_id

if TYPE_CHECKING:
    from agora.client.handle import DispatchHandle
    from agora.model.spec import Spec


class Batch:
    """Dispatches that are only planned; nothing of them is recorded or sent before `commit`.

    Parameters:
        dispatch: starts one of them.
        key: names the batch: ids are made of it, so that the same batch made again after a crash starts nothing twice.
    """

    def __init__(self, dispatch: Callable[..., Awaitable[DispatchHandle]], key: str | None = None) -> None:
        self._dispatch = dispatch
        self._key = key
        self._count = 0
        self._planned: dict[str, Wanted] = {}
        self._sent = False

    @property
    def ids(self) -> list[str]:
        """Ids of what is planned, in order."""
        return list(self._planned)

    def add(
        self, spec: Spec | None = None, *, target: str | None = None, parent: str | None = None,
        start_at: datetime | None = None, delay: float | None = None, **fields: Any,
    ) -> str:  # fmt: skip
        """Plan a dispatch.

        Parameters:
            spec, target, parent, start_at, delay, fields: as `AgoraClient.dispatch` takes them; a delay counts from
                the commit.
        Returns:
            the id that it will have.
        Raises:
            InvalidRequest: malformed, or the batch was committed.
        """
        self._open()
        id = new_dispatch_id() if self._key is None else check_dispatch_id(f"{self._key}-{self._count}")
        start_of(start_at, delay)
        self._planned[id] = Wanted(id, spec_of(spec, fields), target, parent, start_at, delay)
        self._count += 1
        return id

    def remove(self, id: str) -> None:
        """Take a planned dispatch out: it never starts.

        Raises:
            InvalidRequest: it is not planned, or the batch was committed: cancel it then.
        """
        self._open()
        if self._planned.pop(id, None) is None:
            raise InvalidRequest(f"{id} is not in this batch")

    async def commit(self) -> list[DispatchHandle]:
        """Send what is planned.

        Returns:
            handles, in the order of `ids`.
        Raises:
            ExceptionGroup: of what `AgoraClient.dispatch` raises, where some could not be sent; the others are.
        """
        self._open()
        self._sent = True
        handles: dict[str, DispatchHandle] = {}

        async def send(one: Wanted) -> None:
            id = str(one.id)
            try:
                handles[id] = await self._dispatch(
                    one.spec, target=one.target, id=id, parent=one.parent, start_at=one.start_at, delay=one.delay
                )
            except Exception as error:  # noqa: BLE001 - raised below, with those of the others
                failures.append(error)

        failures: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            for one in self._planned.values():
                tasks.start_soon(send, one)
        if failures:
            raise ExceptionGroup("some of the batch could not be dispatched", failures)
        return [handles[id] for id in self._planned]

    def _open(self) -> None:
        if self._sent:
            raise InvalidRequest("the batch was committed: cancel its dispatches instead")
