"""A slow workload is cancelled, and its replacement starts only when the slow one is proven to be dead.

Usage: python examples/cancel_and_replace.py [TARGET [IMAGE]]
"""

import asyncio
import sys
from typing import Any

from agora import AgoraClient


async def main(**where: Any) -> None:
    """Replace what takes too long."""
    async with AgoraClient() as client:
        slow = await client.dispatch(command=["sleep", "600"], grace=2, **where)
        try:
            await slow.result(timeout=1)
        except TimeoutError:
            await slow.cancel(reason="too slow: replaced")
        stopped = await slow.wait(confirmed=True)
        print("slow:", stopped.state.value, "confirmed" if stopped.confirmed else "unconfirmed")

        fast = await client.dispatch(command=["sh", "-c", "echo the quick way"], **where)
        print("replacement:", (await fast.result()).state.value)


if __name__ == "__main__":
    asyncio.run(main(**dict(zip(("target", "image"), sys.argv[1:], strict=False))))
