"""The blocking twin of a run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

from agora.client.handle import DispatchHandle
from agora.client.run import How, Run
from agora.model.cancel import CancelResult
from agora.model.record import Record
from agora.model.run import RunOutcome
from agora.model.spec import Spec

if TYPE_CHECKING:
    from agora.client.blocking import BlockingHandle

T = TypeVar("T")


class Call(Protocol):
    """Runs a coroutine on the client's event loop."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what it returns."""


class BlockingRun:
    """One run, blocking; a context manager, see `Run`.

    Parameters:
        run: the scope.
        call: runs a coroutine of it.
        hold: makes a blocking handle.
    """

    def __init__(self, run: Run, call: Call, hold: Callable[[DispatchHandle], BlockingHandle]) -> None:
        self._run = run
        self._call = call
        self._hold = hold

    @property
    def name(self) -> str:
        """The run's name."""
        return self._run.name

    @property
    def outcome(self) -> RunOutcome | None:
        """How it was left; null while it is open."""
        return self._run.outcome

    def __enter__(self) -> BlockingRun:
        self._call(self._run.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call(partial(self._run.__aexit__, kind, error, traceback))

    def dispatch(
        self,
        name: str,
        spec: Spec | None = None,
        *,
        target: str | None = None,
        parent: str | None = None,
        start_at: datetime | None = None,
        delay: float | None = None,
        **fields: Any,
    ) -> BlockingHandle:
        """Start a member, or adopt the one that has this name."""
        fields |= {"target": target, "parent": parent, "start_at": start_at, "delay": delay}
        return self._hold(self._call(partial(self._run.dispatch, name, spec, **fields)))

    def wait(self, name: str, *, timeout: float | None = None, confirmed: bool = False) -> Record:
        """Wait for a member's end."""
        return self._call(partial(self._run.wait, name, timeout=timeout, confirmed=confirmed))

    def result(self, name: str, *, timeout: float | None = None) -> Record:
        """Wait for a member's success."""
        return self._call(partial(self._run.result, name, timeout=timeout))

    def cancel(self, name: str, **how: Unpack[How]) -> CancelResult:
        """Cancel one member."""
        return self._call(partial(self._run.cancel, name, **how))

    def cancel_all(self, **how: Unpack[How]) -> list[CancelResult]:
        """Cancel everything live of this run."""
        return self._call(partial(self._run.cancel_all, **how))
