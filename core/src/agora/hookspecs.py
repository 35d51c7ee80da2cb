"""The hooks of a provider and of an extension, one sentence each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from agora.model.cancel import CancelResult
    from agora.model.cause import Cause
    from agora.model.events import Event
    from agora.model.observation import Handle, LogChunk, Observation, Owned, StopReceipt
    from agora.model.spec import Spec

PROJECT = "agora"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: Raises `StopRequested` once a stop was requested; a provider calls it before each step that makes or starts
#: something, and at least once a second in a pull.
Check = Callable[[], None]


class WatchSink(Protocol):
    """Where a provider's `watch` puts what it hears."""

    def connected(self) -> None:
        """Say that the stream stands; the core then observes every live workload once (list-then-watch)."""

    def push(self, dispatch_id: str, observation: Observation) -> None:
        """Hand over what was heard about one workload; of one that is not live only a second copy is of interest."""

    def stale(self, dispatch_id: str) -> None:
        """Ask the core to observe one workload, where the stream only says that something changed."""

    def handles(self) -> Mapping[str, Handle]:
        """The live workloads of this target by dispatch id, now."""

    @property
    def closed(self) -> bool:
        """Whether the watch must return; look at it at least once a second."""


class ProviderHooks:
    """What a provider implements; all but the first five are optional."""

    @hookspec(firstresult=True)
    def dispatch(self, id: str, spec: Spec, check: Check) -> Handle:  # type: ignore[empty-body]
        """Start the workload, or adopt the one that carries this id and spec; `DispatchConflict` for another spec."""

    @hookspec(firstresult=True)
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:  # type: ignore[empty-body]
        """Send one SIGTERM and arm SIGKILL after `grace` seconds on the backend; answer within 10 s, idempotent."""

    @hookspec(firstresult=True)
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:  # type: ignore[empty-body]
        """Say what the backend knows of each workload now, in the same order."""

    @hookspec(firstresult=True)
    def find(self, id: str) -> Handle | None:
        """Find the workload by the marks of this installation and the dispatch id alone; None proves nothing."""

    @hookspec(firstresult=True)
    def list_owned(self, installation: str) -> Sequence[Owned]:  # type: ignore[empty-body]
        """List every workload that carries the marks of that installation."""

    @hookspec(firstresult=True)
    def identity(self) -> str | None:
        """Prove which backend this target talks to now, in the words of `Handle.backend`."""

    @hookspec(firstresult=True)
    def check(self, spec: Spec) -> object:
        """Refuse with `InvalidRequest` what this target cannot honour, before anything starts; return None."""

    @hookspec(firstresult=True)
    def watch(self, sink: WatchSink) -> object:
        """Push observations of all workloads of the target until the sink is closed or the stream breaks."""

    @hookspec(firstresult=True)
    def logs(  # type: ignore[empty-body]
        self, handle: Handle, follow: bool, since: datetime | None, tail: int | None
    ) -> Iterator[LogChunk]:
        """Yield output, the last `tail` lines where given; with `follow` to the end, an empty chunk every second."""

    @hookspec(firstresult=True)
    def kill(self, handle: Handle) -> StopReceipt:  # type: ignore[empty-body]
        """Kill what is left now, without grace; the end of an earlier deadline or of a force."""

    @hookspec(firstresult=True)
    def release(self, handle: Handle) -> object:
        """Remove what the backend still keeps of an ended workload (record, logs); return None."""

    @hookspec(firstresult=True)
    def remove_secrets(self, id: str) -> object:
        """Remove inline secrets that the backend still holds for an ended dispatch; idempotent; return None."""

    @hookspec(firstresult=True)
    def close(self) -> object:
        """Let go of connections and helpers; running workloads stay; return None."""


class ExtensionHooks:
    """What an extension may implement besides wrapping any provider hook."""

    @hookspec
    def on_event(self, event: Event) -> None:
        """Hear of every lifecycle event after it was committed."""

    @hookspec
    def on_cancel(self, result: CancelResult) -> None:
        """Hear of every answer to a cancel, refusals and unknown ids included."""


REQUIRED_HOOKS = ("dispatch", "stop", "observe", "find", "list_owned")
