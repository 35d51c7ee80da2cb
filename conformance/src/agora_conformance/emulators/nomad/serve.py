"""An emulated cluster in a process of its own, for the command line."""

from __future__ import annotations

from collections.abc import Callable

from agora_conformance.emulators.hosted import told_to_end
from agora_conformance.emulators.nomad.emulator import NomadEmulator
from agora_conformance.emulators.nomad.timing import Timing


def serve(port: int, missing: tuple[str, ...], scale: float, acl: bool, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; nothing is left running after that.

    Parameters:
        port: to listen on; 0 for any.
        missing: patterns of images that cannot be pulled.
        scale: how slow the cluster is; 0.2 is five times as fast, kill timeouts included.
        acl: requests need a token.
        say: gets a line once it answers, and one with the management token where tokens are needed.
    """
    over = told_to_end()
    with NomadEmulator(timing=Timing().scaled(scale), missing=missing, acl=acl, port=port) as emulator:
        say(f"emulated Nomad cluster at {emulator.url}")
        if acl:
            say(f"management token {emulator.management_token}")
        over.wait()
