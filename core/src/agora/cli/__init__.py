"""The `agora` command: click commands and rendering; everything it does goes through the client."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import NoReturn

#: How long worker threads may take to notice that the work is over before the process leaves without them.
THREAD_PATIENCE = 0.2


def main() -> NoReturn:
    """Run the command line in `sys.argv` and leave the process with its exit code."""
    # A stream that was closed for us (`>&-`) is None here.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        from agora.cli.app import invoke

        code = flush_stdout(invoke(sys.argv[1:]))
    except KeyboardInterrupt:  # while it was still importing, or on its way out
        code = 130
    if thread_is_stuck():
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def flush_stdout(code: int) -> int:
    """Write out what is buffered; return `code`, or 141 (128 + SIGPIPE) where nobody reads stdout any more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more on its way out and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        if not code:
            sys.stderr.write(f"agora: cannot write to stdout: {error.strerror}\n")
        return code or 1
    return code


def thread_is_stuck() -> bool:
    """Whether a thread hangs, in a call to a backend that never answers, and would keep the process alive."""
    until = time.monotonic() + THREAD_PATIENCE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                return True
    return False
