"""Several ways to one result: the first success wins, the others are cancelled and proven dead.

Usage: python examples/racing_with_cancel.py [TARGET [IMAGE]]
"""

import asyncio
import sys
from typing import Any

from agora import AgoraClient


async def main(**where: Any) -> None:
    """Ask three mirrors of different speed; keep the fastest."""
    speeds = {"near": 0.3, "far": 30, "farther": 60}
    mirrors = [
        {"command": ["sh", "-c", f"sleep {seconds}; echo fetched from {name}"], "labels": {"mirror": name}, "grace": 2}
        for name, seconds in speeds.items()
    ]
    async with AgoraClient() as client:
        raced = await client.race([{**mirror, **where} for mirror in mirrors])
        print("winner:", raced.winner.labels["mirror"])
        for loser in raced.losers:
            print(
                "loser:", loser.labels["mirror"], loser.state.value, "confirmed" if loser.confirmed else "unconfirmed"
            )


if __name__ == "__main__":
    asyncio.run(main(**dict(zip(("target", "image"), sys.argv[1:], strict=False))))
