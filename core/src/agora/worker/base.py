"""What the async and the blocking worker share: the handler, the terminal claim, the stages of the end."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from functools import partial

from agora.worker import children, forks, inbox, stages, termination
from agora.worker.inbox import Inbox
from agora.worker.outbox import Outbox
from agora.worker.secrets import Secrets
from agora.worker.sinks import ways_out
from agora.worker.spending import Spending
from agora.worker.surroundings import Surroundings
from agora.worker.telling import Telling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

    from agora.worker.channels import Channel

#: What a cancelled program exits with: 128 + SIGTERM, as a shell would say it. Nothing is concluded from it.
EXIT_CODE = 143
#: Progress and heartbeats are told no more often than so, in seconds.
PROGRESS_SECONDS, HEARTBEAT_SECONDS = 1.0, 10.0
#: How long the end of a program that was not cancelled may take to get its last events out and to let go, in seconds.
FINISH_SECONDS = 5.0
#: The main thread is told of SIGTERM again where it has not seen it after so long, then twice as long, in seconds.
NUDGE_SECONDS = 0.02
#: How long the end of the thread that waits for SIGTERM is waited for, where somebody had it blocked, in seconds.
GUARD_SECONDS = 1.0


class Cancelled(BaseException):
    """SIGTERM came; raised where the program is, so that `finally` and `with` clean up. Not an `Exception`: a program
    that goes on after any error does not go on after this one."""


class WorkerError(RuntimeError):
    """The worker is used as it cannot be."""


class BaseWorker(Telling, ABC):
    """The inside of a workload; see `Worker` and `BlockingWorker`.

    Parameters:
        grace: seconds between SIGTERM and SIGKILL; by default what the dispatch has, else 30.
        budgets: seconds of the stages by name, where `budgets(grace)` is not wanted.
        progress_every: seconds between two events of progress, at least.
        heartbeat_every: seconds between two heartbeats, at least; by default 10, and never more than a third of the
            `heartbeat_timeout` of the dispatch.
    Raises:
        ValueError: there is no such stage, or a grace or a budget is no number of seconds above 0.
    """

    def __init__(
        self,
        *,
        grace: float | None = None,
        budgets: Mapping[str, float] | None = None,
        progress_every: float = PROGRESS_SECONDS,
        heartbeat_every: float | None = None,
    ) -> None:
        self._grace = grace
        self._chosen = dict(budgets or {})
        if unknown := self._chosen.keys() - {stage.name for stage in stages.STAGES}:
            raise ValueError(f"no such stage: {sorted(unknown)}")
        if wrong := [value for value in (grace, *self._chosen.values()) if not _is_time(value)]:
            raise ValueError(f"no number of seconds above 0: {wrong}")
        self._progress_every = progress_every
        self._heartbeat_every = heartbeat_every
        self._end: dict[str, str] = {}
        self._code = EXIT_CODE
        self._pid = 0
        self._previous: Any = None
        self._guarding: threading.Thread | None = None
        self._inside = False
        self._heard = False
        self._callbacks: list[Callable[[], object]] = []
        self._ask_callbacks: list[Callable[[], object]] = []
        self._wanted = False
        self._releases: list[Callable[[], object]] = []
        self._workspace: str | None = None
        self._told = threading.Event()
        self._left = threading.Event()
        self._over = threading.Event()
        self.outcomes: dict[str, str] = {}

    # --- what the program uses --------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether SIGTERM came before the program was through."""
        return self._end.get("as") == "cancelled"

    @property
    def asked(self) -> bool:
        """Whether somebody asked it to end by itself, with what it is at done; SIGTERM comes some time later."""
        return self._wanted

    def on_ask(self, callback: Callable[[], object]) -> None:
        """Have something called when it is asked to end by itself, in a thread of its own.

        Parameters:
            callback: what to call; nothing waits for it.
        """
        self._ask_callbacks.append(callback)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have something called when SIGTERM comes, in a thread of its own, all of them at once.

        Parameters:
            callback: what to call; it shares the time of the stage `program`.
        """
        self._callbacks.append(callback)

    @property
    def secrets(self) -> Secrets:
        """The inline secrets of the dispatch; they are removed at the end."""
        return self._secrets

    @property
    def workspace(self) -> str:
        """A directory for this run alone, made at the first look; it is removed with all that is in it at the end.

        Raises:
            WorkerError: there is none yet, and the worker is not entered by this process, which would leave it behind.
        """
        if self._workspace is None and self._pid != os.getpid():
            raise WorkerError("the workspace is made in the block of the worker, by the process that has entered it")
        if self._workspace is None:
            import tempfile

            self._workspace = tempfile.mkdtemp(prefix="agora-workspace-")
        return self._workspace

    def use(self, channel: Channel) -> None:
        """Have a channel released at the end, whatever the end is.

        Parameters:
            channel: what has subscriptions.
        """
        self._releases.append(channel.release)

    # --- begin and finish -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take over SIGTERM, first of all, then look around."""
        if self._pid:
            raise WorkerError("a worker is entered once; make another one")
        if threading.current_thread() is not threading.main_thread():
            raise WorkerError("a worker is entered in the main thread: Python lets no other handle signals")
        if forks.ENTERED:
            raise WorkerError("another worker is entered already, and one alone can tell the end")
        self._pid = os.getpid()
        self._main = threading.get_ident()
        self._pipe, self._pipe_write = os.pipe()
        os.set_blocking(self._pipe_write, False)
        self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        # Whoever started it may have left it blocked.
        self._blocked = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        # Written to by the interpreter's own handler, so it is heard of even while the main thread is in C code.
        found = signal.set_wakeup_fd(self._pipe_write, warn_on_full_buffer=False)
        if found != -1:
            signal.set_wakeup_fd(found)
        forks.ENTERED.append(self)
        try:
            self._look_around()
            guard = threading.Thread(target=self._guard, name="agora-worker", daemon=True)
            guard.start()
            self._guarding = guard
        except BaseException:
            self.forget()
            os.close(self._pipe)  # there is no guard to do it
            raise

    def _look_around(self) -> None:
        """Learn who it is, how long its grace is and where its events go."""
        around = Surroundings()
        self._grace = self._grace or around.grace
        self._budgets = {**stages.budgets(self._grace), **self._chosen}
        self._inbox = Inbox(around.inbox)
        self._termination = around.termination
        self._secrets = Secrets(around.secrets)
        heartbeats = self._heartbeat_every
        if heartbeats is None:
            heartbeats = min(HEARTBEAT_SECONDS, (around.heartbeat or float("inf")) / 3)
        every = {"dispatch.progress": self._progress_every, "dispatch.heartbeat": heartbeats}
        self._spending = Spending(around.budget)
        carries = {"dispatch.progress": self._spending.told}
        self._outbox = Outbox(around.dispatch_id or "", ways_out(around), every, carries)

    def _claim(self, end: str) -> bool:
        """Claim the end; one call of all is true, since setting a default is one step for the interpreter."""
        return self._end.setdefault("as", end) is end

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._heard:
            return
        self._heard = True
        self._claim("cancelled")
        os.write(self._pipe_write, bytes([signal.SIGTERM]))
        if self.cancelled:
            self._interrupt(frame)

    @abstractmethod
    def _interrupt(self, frame: FrameType | None) -> None:
        """Make the program see it; in the main thread, inside of the handler."""

    def _guard(self) -> None:
        """Wait for SIGTERM, then end the program, stage by stage; in a thread of its own."""
        while (heard := self._listen()) and signal.SIGTERM not in heard:
            pass
        if heard:
            self._claim("cancelled")
        if not self.cancelled:
            # The handler writes until SIGTERM is given back.
            while os.read(self._pipe, 64):
                pass
            os.close(self._pipe)
            stages.take_no_more_signals()
            return
        self._told.set()
        self._shorten()
        self._stage("program", [*map(self._hooked, self._callbacks), self._await_leaving])
        clean = self.outcomes["program"] == "done"
        self._outbox.put("dispatch.cancelled", {"clean": clean, "grace": self._grace})
        message = partial(termination.write, self._termination, self._code, clean)
        self._stage("report", [lambda: self._outbox.close(self._budgets["report"] * 0.9), message])
        self._stage("channels", [*map(self._hooked, self._releases)])
        self._stage("secrets", [self._secrets.remove])
        self._stage("children", [lambda: children.stop(self._budgets["children"] * 0.9)])
        if self.outcomes["children"] != "done":
            children.kill()
        self._stage("workspace", [self._remove_workspace])
        self._over.set()
        # Not in a thread: from Python 3.12 on an interpreter that is ending starts none.
        time.sleep(self._budgets["exit"])
        flush = threading.Thread(target=_flush, daemon=True)
        try:
            flush.start()
            flush.join(0.1)
        except RuntimeError:
            pass  # it is ending, and hangs later than where it writes out what is left
        os._exit(self._code)

    def _await_leaving(self) -> None:
        until = time.monotonic() + self._budgets["program"]
        pause = NUDGE_SECONDS
        while not self._left.wait(max(min(pause, until - time.monotonic()), 0)):
            if time.monotonic() >= until:
                raise TimeoutError
            if not self._heard:
                # One that came as the main thread was about to wait, or to another thread, has ended no wait of it.
                signal.pthread_kill(self._main, signal.SIGTERM)
            pause = min(2 * pause, 1.0)

    def _listen(self) -> bytes:
        """Wait for signals, and meanwhile for somebody who asks it to end."""
        while not self._wanted and self._inbox.path is not None:
            if select.select([self._pipe], [], [], inbox.EVERY)[0]:
                break
            if self._inbox.seconds("ask") is not None:
                self._wanted = True
                for callback in self._ask_callbacks:
                    stages.Run(self._hooked(callback), "ask")
        return os.read(self._pipe, 64)

    def _shorten(self) -> None:
        """Let the stages shrink with a grace that is shorter than the one of the spec."""
        grace = self._inbox.seconds("grace")
        if grace is not None and self._grace is not None and grace < self._grace:
            self._grace = grace
            self._budgets = {**stages.budgets(grace), **self._chosen}

    def _stage(self, name: str, works: list[Callable[[], object]]) -> None:
        self.outcomes[name] = stages.run(works, self._budgets[name], name)

    def _hooked(self, hook: Callable[[], object]) -> Callable[[], object]:
        """Return a call of the program's own, as a thread can make it."""
        return hook

    def _finish(self, error: BaseException | None) -> None:
        """Let go of everything after an end of the program's own.

        Parameters:
            error: with which the block was left.
        """
        if self._wanted:
            clean = error is None or (isinstance(error, SystemExit) and not error.code)
            self._outbox.put("dispatch.cancelled", {"clean": clean, "asked": True})
        works: list[Callable[[], object]] = [*map(self._hooked, self._releases)]
        works += [lambda: self._outbox.close(FINISH_SECONDS * 0.9), self._secrets.remove, self._remove_workspace]
        self.outcomes["finish"] = stages.run(works, FINISH_SECONDS, "finish")

    def _remove_workspace(self) -> None:
        if self._workspace is not None:
            import shutil

            shutil.rmtree(self._workspace)

    def _leave_with(self, error: BaseException | None) -> None:
        """Let the stages go on: the block is left.

        Parameters:
            error: with which; one of the program's own decides what it exits with, and null where it was cancelled.
        """
        if isinstance(error, SystemExit):
            code = 0 if error.code is None else error.code
            self._code = code & 0xFF if isinstance(code, int) else 1
        elif error is not None:
            self._code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        self._left.set()

    def _leave_cancelled(self) -> None:
        """Ignore SIGTERM for good: the end of the interpreter would give it back its default."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def forget(self) -> None:
        """Give SIGTERM back to whom it belonged."""
        if self in forks.ENTERED:
            forks.ENTERED.remove(self)
        previous = self._previous if self._previous is not None else signal.SIG_DFL
        if self._blocked:
            # To the end of the guard, which would take what nobody here is to hear, and die of it with all.
            self._heard = True
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            self._dismiss_guard()
            if self._guarding is not None and os.getpid() == self._pid:
                self._guarding.join(GUARD_SECONDS)
            signal.signal(signal.SIGTERM, previous)
        else:
            signal.signal(signal.SIGTERM, previous)
            self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        found = signal.set_wakeup_fd(-1)
        if found not in (self._pipe_write, -1):
            signal.set_wakeup_fd(found)
        # It reads the end of the pipe and ends.
        os.close(self._pipe_write)

    def forget_in_fork(self) -> None:
        """Be no worker in a fork."""
        self.forget()
        os.close(self._pipe)  # a fork has no guard
        self._outbox.forget()


def _is_time(seconds: float | None) -> bool:
    return seconds is None or 0 < seconds < float("inf")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
