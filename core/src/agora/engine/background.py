"""The background supervisor: one per state directory, ends when nothing is live."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agora.config import Settings

if TYPE_CHECKING:
    from agora.store import Store

#: It stays for so long after the last dispatch has ended, in seconds.
LINGER = 2.0
#: A state directory or database that was removed or replaced is noticed within this time, in seconds.
GONE_EVERY = 2.0
#: A client that waits writes an end down itself; the supervisor comes after, in seconds.
DEFER = 0.3

#: What a caller may have blocked or ignored and the supervisor needs.
_DEFAULTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[bool]:
    """Hold the lock of the one supervisor; false where somebody else holds it."""
    descriptor = os.open(home / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield True
    finally:
        os.close(descriptor)


def running(home: Path) -> bool:
    """Whether a supervisor of this state directory is alive."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(home / "supervisor.lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def start(home: Path, settings: Settings) -> int | None:
    """Start the supervisor of a state directory, unless one is alive.

    Returns:
        the pid of the process started, or null.
    """
    if running(home):
        return None
    # -P: a module of the caller's working directory must not stand in for one of ours or of the library.
    arguments = [sys.executable, "-P", "-m", "agora.engine.background", "--home", str(home.absolute())]
    arguments += ["--lost-after", str(settings.lost_after), "--abandon-after", str(settings.abandon_after)]
    log = str(home / "supervisor.log")
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(
        sys.executable,
        arguments,
        dict(os.environ),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_DEFAULTED,
    )


def main() -> None:
    """Supervise a state directory until nothing is live."""
    import anyio

    from agora.logs import configure_logging

    parser = argparse.ArgumentParser(prog="agora.engine.background")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--lost-after", type=float, required=True)
    parser.add_argument("--abandon-after", type=float, required=True)
    given = parser.parse_args()
    # What the caller had inherited (a CI's pipe, say) must not stay open as long as this process lives.
    os.closerange(3, 1024)
    os.chdir(given.home)
    configure_logging("WARNING")
    # Every target comes from the records. A configuration that is wrong, or not found from here, must not keep
    # what runs from being looked after.
    settings = Settings(lost_after=given.lost_after, abandon_after=given.abandon_after)
    try:
        anyio.run(_serve_while_there, given.home, settings)
    except Exception:
        logger.exception("the background supervisor failed")
        os._exit(1)
    # A provider's thread that waits for a peer which never answers must not keep the process alive.
    os._exit(0)


async def _serve_while_there(home: Path, settings: Settings) -> None:
    """Serve; end where the store goes away, since there is nothing left to keep true, and serve one in its place.

    An open database that was removed goes on working for whoever has it open, and for nobody else.
    """
    import anyio

    from agora.store.home import DATABASE

    async def watch() -> None:
        paths = (anyio.Path(home), anyio.Path(home) / DATABASE)
        here = [await path.stat() for path in paths]
        while True:
            await anyio.sleep(GONE_EVERY)
            try:
                there = [await path.stat() for path in paths]
            except FileNotFoundError:
                logger.error("the store in %s is gone; its supervisor ends", home)
                os._exit(1)
            if not all(map(os.path.samestat, here, there)):
                logger.warning("the store in %s was replaced; its supervisor begins anew", home)
                os.execv(sys.executable, sys.orig_argv)  # noqa: S606

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await _serve(home, settings)
        tasks.cancel_scope.cancel()


async def _anything(store: Store) -> bool:
    """Whether there is something to look after; a record that cannot be read is nothing that anybody could."""
    return bool(await store.read_many(await store.open_versions()))


async def _serve(home: Path, settings: Settings) -> None:
    import anyio

    from agora.engine.engine import Engine
    from agora.store import Store

    while True:
        with _lock(home) as ours:
            if not ours:
                return
            engine = Engine(Store(home), settings)
            await engine.supervise(until_idle=True, defer=DEFER)
            with anyio.move_on_after(LINGER):
                async with engine.store.pulse.listen() as ear:
                    while not await _anything(engine.store):
                        await ear.wait(LINGER)
            # Looked at once more after the lock is free: who saw it held started nobody.
        left = await _anything(engine.store)
        await engine.close()
        if not left:
            return


if __name__ == "__main__":
    main()
