"""One member of a join is cancelled: a plain join fails at once and clearly, a settled one tells of each.

Usage: python examples/join_with_cancelled.py [TARGET [IMAGE]]
"""

import asyncio
import sys
from typing import Any

from agora import AgoraClient, DispatchCancelled


async def main(**where: Any) -> None:
    """Join twice."""
    async with AgoraClient() as client:
        good = await client.dispatch(command=["sh", "-c", "sleep 1; echo done"], **where)
        unwanted = await client.dispatch(command=["sleep", "600"], grace=2, **where)
        await unwanted.cancel(reason="not needed any more")
        try:
            await client.join_all([good, unwanted])
        except DispatchCancelled as error:
            print("join_all:", "the unwanted one" if error.record.id == unwanted.id else "?", error.cause.reason)
        settled = await client.join_all_settled([good, unwanted])
        print("settled:", len(settled.succeeded), "succeeded,", len(settled.cancelled), "cancelled")


if __name__ == "__main__":
    asyncio.run(main(**dict(zip(("target", "image"), sys.argv[1:], strict=False))))
