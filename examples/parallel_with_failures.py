"""Many at once, some of which fail: results as they come, and a summary that leaves none out.

Usage: python examples/parallel_with_failures.py [TARGET [IMAGE]]
"""

import asyncio
import sys
from typing import Any

from agora import AgoraClient


async def main(**where: Any) -> None:
    """Run five, two of which fail."""
    codes = [0, 1, 0, 2, 0]
    members = [{"command": ["sh", "-c", f"exit {code}"], **where} for code in codes]
    async with AgoraClient() as client:
        handles = [await client.dispatch(**member) for member in members]
        async for record in client.as_completed(handles):
            print("ended:", record.state.value, record.exit_code)
        settled = await client.join_all_settled(handles)
        print("summary:", len(settled.succeeded), "succeeded,", len(settled.failed), "failed")


if __name__ == "__main__":
    asyncio.run(main(**dict(zip(("target", "image"), sys.argv[1:], strict=False))))
