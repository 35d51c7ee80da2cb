"""Speaking to a running shim through its control socket."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from agora.errors import Unreachable

from agora_local.claims import opened
from agora_local.journal import LIVE

#: Seconds until a shim that does not answer counts as unreachable; a healthy one takes about a millisecond.
ANSWER_TIMEOUT = 2.5
_FULL_PAUSE = 0.02


class NobodyListens(Exception):
    """No shim has the socket open."""


def ask(state_dir: Path, id: str, words: bytes) -> list[bytes]:
    """Send one request to the shim of a dispatch and return the words of its answer.

    Raises:
        NobodyListens: there is no shim at the socket, or it ended without an answer.
        Unreachable: the shim does not answer; it may be stopped.
    """
    give_up = time.monotonic() + ANSWER_TIMEOUT
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(ANSWER_TIMEOUT)
        _connect(connection, state_dir, id, give_up)
        try:
            connection.send(words)
        except TimeoutError:
            raise Unreachable(f"the shim of {id} takes no request", sent=False) from None
        except OSError:
            raise NobodyListens from None
        try:
            connection.settimeout(max(give_up - time.monotonic(), 0.01))
            answer = connection.recv(64)
        except TimeoutError:
            raise Unreachable(f"the shim of {id} did not answer within {ANSWER_TIMEOUT:g} s") from None
        except OSError:
            raise NobodyListens from None
    if not answer:
        raise NobodyListens
    return answer.split()


def _connect(connection: socket.socket, state_dir: Path, id: str, give_up: float) -> None:
    while True:
        try:
            # A socket's address holds 107 bytes (unix(7)); this way the length of the directory's path is no matter.
            with opened(state_dir / LIVE) as live:
                connection.connect(f"/proc/self/fd/{live}/{id}")
        except BlockingIOError:  # as many wait already as the kernel keeps
            if time.monotonic() > give_up:
                raise Unreachable(f"the shim of {id} takes no connection", sent=False) from None
            time.sleep(_FULL_PAUSE)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NobodyListens from None
        else:
            return
