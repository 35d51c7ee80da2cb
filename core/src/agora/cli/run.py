"""`agora run`: dispatch, show the output, wait, and turn signals into cancels."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from agora.cli.base import AgoraCommand, Exit, Session, record_exit_code
from agora.cli.dispatch import send
from agora.cli.output import OutputClosed, end_line, print_json, say, start_words
from agora.cli.spec_flags import spec_fields, spec_options

if TYPE_CHECKING:
    import anyio.abc

    from agora.cli.progress import Progress
    from agora.client import AgoraClient, DispatchHandle
    from agora.model.cancel import CancelResult
    from agora.model.observation import LogChunk
    from agora.model.record import Record

#: How long the output may go on after the end, in seconds: a background child that holds it never delays `run`.
LOG_DRAIN = 3.0
#: How long the progress line stays away after output, in seconds.
QUIET_BEFORE_PROGRESS = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: A closing terminal may send SIGHUP through its shell and through the kernel; within this time they are one.
ONE_HANGUP = 1.0
CANCEL_RETRY = 0.05
#: Who detaches waits so long for each request to be recorded, in seconds.
RECORD_SECONDS = 2.0


@click.command(cls=AgoraCommand, own_error=Exit.UNKNOWN, context_settings={"allow_interspersed_args": False})
@spec_options
@click.option("--detach", is_flag=True, help="Return at once; the same as `agora dispatch`.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but the workload's output and errors.")
@click.pass_obj
def run(
    session: Session, /, target: str | None, dispatch_id: str | None, detach: bool, quiet: bool, **flags: Any
) -> int:
    """Dispatch a workload, show its output and wait for its end.

    The first Ctrl-C, SIGTERM or SIGHUP cancels gracefully, the second forces, the third detaches and leaves the
    cancel to the background supervisor.

    Exits with 0 where it succeeded, 130 cancelled, 124 timed out, 125 lost or an error of Agora's own, else with
    the workload's code, or 128 + its signal, or 125 where that is 0 or unknown.
    """
    fields = spec_fields(flags)
    session.quiet = quiet
    if detach:
        return session.run(lambda client: send(client, session, target, dispatch_id, fields))
    return session.run(lambda client: Foreground(client, session, quiet).run(target, dispatch_id, fields))


class Foreground:
    """One dispatch that this process stands for.

    Parameters:
        client: an entered client.
        session: the global options.
        quiet: say nothing that is no error.
    """

    def __init__(self, client: AgoraClient, session: Session, quiet: bool) -> None:
        from agora.cli.progress import Progress, progress_wanted

        self.client = client
        self.session = session
        self.quiet = quiet
        self.tasks: anyio.abc.TaskGroup
        self.id = ""
        self.known = False
        self.detached = False
        self.asked: list[tuple[str, bool]] = []
        self.progress = Progress() if progress_wanted() and not quiet else None
        self.last_output = 0.0
        self.in_line = False

    async def run(self, target: str | None, dispatch_id: str | None, fields: dict[str, Any]) -> int:
        """Do all of it and return the exit code."""
        import anyio

        from agora.model.ids import new_dispatch_id

        self.id = dispatch_id or new_dispatch_id()
        record: Record | None = None
        try:
            async with anyio.create_task_group() as self.tasks:
                # From here on a signal means a cancel, also while the backend still pulls an image.
                await self.tasks.start(self._take_signals)
                handle = await self.client.dispatch(target=target, id=self.id, **fields)
                self.known = self.session.sent = True
                if not self.quiet and not self.session.json:
                    say(", ".join([f"{self.id} on {handle.record.target}", *start_words(handle.record)]))
                record = await self._follow(handle)
                self.tasks.cancel_scope.cancel()
        finally:
            self._make_room()
            if record is None and (self.known or self.detached):
                say(f"detached from {self.id}; `agora wait {self.id}` waits for its end")
        if record is None:
            return Exit.UNKNOWN
        if self.session.json:
            with suppress(OutputClosed):
                print_json(record)
        # An exit code of the command's own that is passed on says enough; one that the backend made up does not.
        own = record.state.value == "failed" and record.exit_code and record.reason is None
        plain = own or record.state.value == "succeeded"
        if not plain and not self.quiet:
            say(end_line(record))
        return record_exit_code(record)

    async def _follow(self, handle: DispatchHandle) -> Record:
        import anyio

        output_ended = anyio.Event()
        printed = 0

        async def output() -> None:
            try:
                await self._show_output()
            finally:
                output_ended.set()

        async def events() -> None:
            nonlocal printed
            try:
                async for event in self.client.events(self.id, follow=True):
                    print_json(event)
                    printed = event.sequence
            except OutputClosed as closed:
                await self._output_failed(closed)

        self.tasks.start_soon(output)
        if self.progress:
            self.tasks.start_soon(self._show_progress, self.progress)
        async with anyio.create_task_group() as reading:
            if self.session.json:
                reading.start_soon(events)
            record = await self.client.wait(handle.id)
            reading.cancel_scope.cancel()
        if self.session.json:
            with suppress(OutputClosed):
                async for event in self.client.events(self.id, after=printed):
                    print_json(event)
        with anyio.move_on_after(LOG_DRAIN):
            await output_ended.wait()
        return record

    async def _take_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        import anyio

        last_hangup = float("-inf")
        count = 0
        try:
            with anyio.open_signal_receiver(*SIGNALS) as received:
                task_status.started()
                async for number in received:
                    if number == signal.SIGHUP and time.monotonic() - last_hangup < ONE_HANGUP:
                        continue
                    if number == signal.SIGHUP:
                        last_hangup = time.monotonic()
                    count += 1
                    if count >= 3:
                        await self._record_requests()
                        self.detached = True
                        self.tasks.cancel_scope.cancel()
                        return
                    self.asked.append((number.name, count == 2))
                    self.tasks.start_soon(self._cancel, number.name, count == 2)
        finally:
            # A signal that comes while the end is being told must not take the exit code away.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    async def _record_requests(self) -> None:
        """See that what the first two signals asked for is recorded: the third leaves it to the supervisor."""
        import anyio

        from agora.errors import AgoraError

        for reason, force in list(self.asked):
            # Recording is the first thing that a cancel does; what comes after may be left.
            with anyio.move_on_after(RECORD_SECONDS):
                try:
                    await self._ask(reason, force)
                except AgoraError as error:
                    say(f"cannot cancel {self.id}: {error}")

    async def _ask(self, reason: str, force: bool) -> CancelResult:
        """Cancel, also before the record is there."""
        import anyio

        from agora.model.cancel import Outcome

        while True:
            was_known = self.known
            result = await self.client.cancel(self.id, reason=reason, force=force)
            if result.outcome is not Outcome.NOT_FOUND or was_known:
                with suppress(ValueError):
                    self.asked.remove((reason, force))
                return result
            await anyio.sleep(CANCEL_RETRY)

    async def _cancel(self, reason: str, force: bool) -> None:
        from agora.errors import AgoraError

        self._make_room()
        say(f"{reason}: {'forcing the end of' if force else 'cancelling'} {self.id}; "
            f"{'once more to leave it alone' if force else 'again to force'}")  # fmt: skip
        try:
            result = await self._ask(reason, force)
        except AgoraError as error:
            say(f"cannot cancel {self.id}: {error}")
            return
        self._make_room()
        if force and "force" in result.degraded:
            say("this backend cannot force; still waiting for its grace to pass")
        elif result.delivered is False:
            why = f": {result.error.message}" if result.error else ""
            say(f"the cancel is recorded and not delivered yet{why}; it will be tried again")

    async def _show_output(self) -> None:
        import anyio

        from agora.errors import AgoraError

        try:
            async for chunk in self.client.logs(self.id, follow=True):
                if chunk.data or chunk.dropped:
                    self._make_room_for(chunk)
                    # In a thread: a reader that does not read must not keep signals waiting.
                    await anyio.to_thread.run_sync(self._write, chunk, abandon_on_cancel=True)
        except AgoraError as error:
            self._make_room()
            say(f"no more output to show: {error}")
        except OSError as error:
            await self._output_failed(OutputClosed(error))

    async def _output_failed(self, closed: OutputClosed) -> None:
        self._make_room()
        if closed.is_pipe:
            # As in a pipeline of the shell: who writes to nobody is told to stop.
            await self._cancel("SIGPIPE", False)
        else:
            say(f"{closed}; still waiting for the end of {self.id}")

    def _stream(self, chunk: LogChunk) -> TextIO:
        return sys.stderr if chunk.stream == "stderr" or self.session.json else sys.stdout

    def _make_room_for(self, chunk: LogChunk) -> None:
        if self.progress and self._stream(chunk).isatty():
            self.progress.hide()
            self.last_output = time.monotonic()
            self.in_line = not chunk.data.endswith(b"\n")

    def _write(self, chunk: LogChunk) -> None:
        if chunk.dropped:
            say(f"{chunk.dropped} bytes of output were dropped here")
        stream = self._stream(chunk)
        with suppress(OSError) if stream is sys.stderr else nullcontext():
            stream.buffer.write(chunk.data)
            stream.flush()

    async def _show_progress(self, progress: Progress) -> None:
        import anyio

        while True:
            if not self.in_line and time.monotonic() - self.last_output > QUIET_BEFORE_PROGRESS:
                progress.show([await self.client.get(self.id, refresh=False)])
            await anyio.sleep(QUIET_BEFORE_PROGRESS)

    def _make_room(self) -> None:
        if self.progress:
            self.progress.hide()
