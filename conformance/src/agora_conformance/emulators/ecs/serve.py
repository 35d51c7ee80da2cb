"""An emulated account in a process of its own, for the command line."""

from __future__ import annotations

from collections.abc import Callable

from agora_conformance.emulators.ecs.clock import Timing
from agora_conformance.emulators.ecs.emulator import EcsEmulator
from agora_conformance.emulators.hosted import told_to_end


def serve(port: int, missing: tuple[str, ...], scale: float, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; nothing is left running after that.

    Parameters:
        port: to listen on; 0 for any.
        missing: patterns of images that cannot be pulled.
        scale: how slow it is; 0.2 is five times as fast, stop timeouts included.
        say: gets a line once it answers, and one for each variable that points a client at it.
    """
    over = told_to_end()
    with EcsEmulator(timing=Timing().scaled(scale), missing=missing, port=port) as emulator:
        say(f"emulated ECS, CloudWatch Logs, Secrets Manager and SQS at {emulator.url}")
        for name, value in emulator.environment().items():
            say(f"export {name}={value}")
        over.wait()
