"""A batch of twenty: five are taken out before it is committed and never start, five are cancelled after it.

Usage: python examples/batch_scheduling.py [TARGET [IMAGE]]
"""

import asyncio
import sys
from typing import Any

from agora import AgoraClient


async def main(**where: Any) -> None:
    """Schedule, take out, commit, cancel, and count what ran."""
    async with AgoraClient() as client:
        batch = client.batch()
        for number in range(20):
            seconds = 600 if 5 <= number < 10 else 0
            batch.add(command=["sh", "-c", f"sleep {seconds}; echo {number}"], grace=2, **where)
        for id in batch.ids[:5]:
            batch.remove(id)
        handles = await batch.commit()
        for handle in handles[:5]:
            await handle.cancel(reason="not this one")
        settled = await client.join_all_settled(handles)
        print("ran:", len(settled.succeeded), "cancelled:", len(settled.cancelled), "never started:", 20 - len(handles))


if __name__ == "__main__":
    asyncio.run(main(**dict(zip(("target", "image"), sys.argv[1:], strict=False))))
