"""The worker of a program without an event loop."""

from __future__ import annotations

import os

from agora.worker.base import EXIT_CODE, BaseWorker, Cancelled
from agora.worker.interrupt import raise_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any, Self


class BlockingWorker(BaseWorker):
    """The inside of a workload, as a `with` block in the main thread.

    SIGTERM raises `Cancelled` where the program is. Once the block is left, the stages run and the program exits with
    143. A SIGTERM that comes when the block is through changes nothing.

    Parameters:
        interrupt: raise `Cancelled`; otherwise the program looks at `cancelled`, or calls `check` or `wait`.
        settings: as for every worker: `grace`, `budgets`, `progress_every`, `heartbeat_every`.
    """

    def __init__(self, *, interrupt: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self._raises = interrupt

    def check(self) -> None:
        """Raise `Cancelled` if SIGTERM came."""
        if self.cancelled:
            raise Cancelled

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for SIGTERM.

        Parameters:
            seconds: how long at most.
        Returns:
            whether it came.
        """
        return self._told.wait(seconds)

    def __enter__(self) -> Self:
        self._begin()
        try:
            self._inside = True
            self.check()
        except Cancelled:
            self._inside = False
            self._leave(None)  # it came before the program had begun
            raise SystemExit(EXIT_CODE) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        if os.getpid() != self._pid:
            return  # a fork lets go of nothing: all that is its parent's
        if self._claim("finished"):
            try:
                self._finish(error)
            finally:
                self.forget()
            return
        cancelled = error is None or isinstance(error, Cancelled)
        self._leave(None if cancelled else error)
        if cancelled:
            raise SystemExit(EXIT_CODE) from None

    def _leave(self, error: BaseException | None) -> None:
        self._leave_with(error)
        self._over.wait(sum(self._budgets.values()))
        self._leave_cancelled()

    def _interrupt(self, frame: FrameType | None) -> None:
        # Entering __exit__ looks at signals before its first line: what is raised there would be nobody's.
        leaving = frame is not None and frame.f_code is BlockingWorker.__exit__.__code__
        if self._raises and self._inside and not leaving:
            raise_in(frame, Cancelled(), lambda: self._inside)
