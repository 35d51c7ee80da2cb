"""Live progress on a terminal; Rich is imported here and only once something is drawn."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from agora.cli.output import COLOURS, cause_words, printable, seconds_since, span, state_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agora.model.record import Record

#: More lines than this would scroll a small terminal.
MOST_LINES = 15


def progress_wanted() -> bool:
    """Whether stderr is a terminal, so that drawing makes sense."""
    return sys.stderr.isatty()


def progress_words(record: Record) -> str:
    """Return how a dispatch stands now, with the time left of its grace or until its deadline."""
    words = f"{record.id}  {state_words(record)}"
    if record.state.value == "stopping":
        if record.cause is not None:
            words += f"  by {cause_words(record.cause)}"
        if record.stopping_at is not None and record.delivered is not False:
            grace = record.grace if record.effective_grace is None else record.effective_grace
            left = grace - seconds_since(record.stopping_at)
            words += f"  {span(left)} of {span(grace)} grace left" if left > 0 else "  grace is over"
    elif not record.state.terminal:
        words += f"  {span(seconds_since(record.requested_at))}"
        if record.deadline is not None:
            words += f", deadline in {span(record.deadline.timestamp() - time.time())}"
    return printable(words)


class Progress:
    """A few transient lines at the end of stderr, which give way to any other output."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live: Live | None = None

    def show(self, records: Sequence[Record]) -> None:
        """Draw one line a dispatch in place of what was drawn before."""
        from rich.live import Live
        from rich.text import Text

        text = Text(no_wrap=True, overflow="ellipsis")
        for index, record in enumerate(records[:MOST_LINES]):
            text.append(("\n" if index else "") + progress_words(record), COLOURS.get(record.state.value, ""))
        if len(records) > MOST_LINES:
            text.append(f"\n… and {len(records) - MOST_LINES} more")
        if self._live is None:
            self._live = Live(
                text, console=self._console, transient=True, auto_refresh=False,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start(refresh=True)
        else:
            self._live.update(text, refresh=True)

    def hide(self) -> None:
        """Take the lines away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
