"""Being the first process of a workload that knows nothing of Agora."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from functools import partial

from agora.worker import children, stages, termination
from agora.worker.outbox import Outbox
from agora.worker.secrets import Secrets, clear_environment
from agora.worker.sinks import ways_out
from agora.worker.surroundings import Surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: What a workload exits with that was ended at its deadline, as timeout(1) does.
TIMED_OUT = 124
#: What it exits with where it is told something wrong, as for a wrong command line.
WRONG = 2
#: The dispatch's own deadline is kept by whoever supervises it; this is its backstop (contract 6), in seconds.
BACKSTOP_SECONDS = 60.0
#: How long the last events may take after an end of the command's own, in seconds.
FINISH_SECONDS = 5.0
#: poll(2) counts milliseconds in an int: a longer wait is one of several, in seconds.
_POLL_SECONDS = 3600.0
#: Not passed on: what the kernel sends for faults of this very process, and what is of no use to anybody else.
_OWN = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS,
    signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE, signal.SIGXFSZ,
    signal.SIGPROF, signal.SIGVTALRM, signal.SIGALRM,
}  # fmt: skip
#: Ignored by the interpreter; the command gets them as they were meant.
_RESET = {signal.SIGPIPE, signal.SIGXFSZ}


class Supervisor:
    """Runs one command to its end.

    Parameters:
        command: the argument list.
        grace: seconds between SIGTERM and SIGKILL; by default what the dispatch has.
        timeout: seconds until the command is stopped; by default a minute more than the dispatch has.
    """

    def __init__(self, command: list[str], *, grace: float | None, timeout: float | None) -> None:
        self._command = command
        self._grace = grace
        self._timeout = timeout
        self._pid = 0
        self._status: int | None = None
        self._cause: dict[str, object] | None = None

    def run(self) -> int:
        """Run it.

        Returns:
            the exit code of this program.
        """
        pipe, pipe_write = os.pipe()
        os.set_blocking(pipe_write, False)
        os.set_blocking(pipe, False)
        # Handlers, since the kernel keeps signals without one from the first process of a namespace.
        for number in signal.valid_signals() - _OWN | {signal.SIGCHLD}:
            # What it was started to ignore (nohup(1)) is ignored by the command, too; these two it cannot do without.
            if number in (signal.SIGTERM, signal.SIGCHLD) or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _nothing)
        signal.set_wakeup_fd(pipe_write, warn_on_full_buffer=False)
        # Whoever started it may have left some blocked; the command begins without, too.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        around = Surroundings()
        self._termination = around.termination
        self._budgets = stages.budgets(self._grace or around.grace)
        self._secrets = Secrets(around.secrets)
        try:
            self._outbox = Outbox(around.dispatch_id or "", ways_out(around), {})
        except ValueError as error:
            sys.stderr.write(f"agora-worker: {error}\n")
            self._remove_secrets()
            return WRONG
        if self._timeout is None and around.timeout is not None:
            self._timeout = around.timeout + BACKSTOP_SECONDS
        if signal.SIGTERM in _read(pipe):
            self._cause = {}
            return self._end_cancelled()
        try:
            self._pid = os.posix_spawnp(self._command[0], self._command, os.environ, setsigmask=(), setsigdef=_RESET)
        except OSError as error:
            sys.stderr.write(f"agora-worker: {self._command[0]}: {os.strerror(error.errno or 0)}\n")
            self._remove_secrets()
            return 127 if isinstance(error, FileNotFoundError) else 126
        # The command has them now.
        clear_environment(*around.secrets)
        self._guard(pipe)
        return self._end_cancelled() if self._cause is not None else self._end_finished()

    # --- while it runs ----------------------------------------------------------------------------------------

    def _guard(self, pipe: int) -> None:
        """Pass signals on and wait for children, until the command has ended or its time is over."""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            self._reap()
            if self._status is not None:
                return
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                if self._cause is not None:
                    return  # the stage is over, and the command is not
                self._cause = {"cause": {"actor": "agora-worker", "via": "policy", "policy": "timeout"}}
                children.tell([self._pid], signal.SIGTERM)
                until = time.monotonic() + self._budgets["program"]
                continue
            poll.poll(None if left is None else min(left, _POLL_SECONDS) * 1000 + 1)
            for number in _read(pipe):
                if number == signal.SIGTERM and self._cause is None:
                    self._cause = {}
                    children.tell([self._pid], number)
                    until = time.monotonic() + self._budgets["program"]
                elif number not in (signal.SIGCHLD, signal.SIGTERM):
                    self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        # The terminal has sent it to the command as well.
        if not (number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP) and os.isatty(0)):
            children.tell([self._pid], number)

    def _reap(self) -> None:
        """Wait for every child that has ended, orphans too: to the first process of a namespace they all come."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status = status

    # --- the end ----------------------------------------------------------------------------------------------

    def _end_finished(self) -> int:
        stages.run([lambda: self._outbox.close(FINISH_SECONDS * 0.9)], FINISH_SECONDS, "report")
        self._remove_secrets()
        return self._exit_code()

    def _end_cancelled(self) -> int:
        # Ended by itself before its time was over; how, nobody here can judge.
        clean = self._pid == 0 or self._status is not None
        self._outbox.put("dispatch.cancelled", {"clean": clean, **(self._cause or {})})
        code = TIMED_OUT if self._cause else self._exit_code()
        message = partial(termination.write, self._termination, code, clean)
        report: list[Callable[[], object]] = [lambda: self._outbox.close(self._budgets["report"] * 0.9), message]
        stages.run(report, self._budgets["report"], "report")
        self._remove_secrets()
        if stages.run([self._stop_children], self._budgets["children"], "children") != "done":
            children.kill()
        self._reap()
        return TIMED_OUT if self._cause else self._exit_code()

    def _stop_children(self) -> None:
        children.stop(self._budgets["children"] * 0.9)

    def _remove_secrets(self) -> None:
        stages.run([self._secrets.remove], self._budgets["secrets"], "secrets")

    def _exit_code(self) -> int:
        if self._status is None:
            return 128 + signal.SIGKILL if self._pid else 128 + signal.SIGTERM
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code


def _nothing(number: int, frame: object) -> None:
    """Take a signal; the interpreter has written its number into the pipe."""


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return b""
