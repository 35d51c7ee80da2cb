"""The same dispatch cancelled again and again: one request, one cause, one SIGTERM, and an answer each time.

Usage: python examples/cancel_idempotency.py [TARGET [IMAGE]]
"""

import asyncio
import sys
from typing import Any

from agora import AgoraClient, EventType


async def main(**where: Any) -> None:
    """Cancel twenty times at once, then once more after the end."""
    async with AgoraClient() as client:
        handle = await client.dispatch(command=["sleep", "600"], grace=2, **where)
        answers = await asyncio.gather(*(handle.cancel(reason=f"asked by {number}") for number in range(20)))
        print("requests that counted:", sum(answer.outcome.value == "STOPPING" for answer in answers))
        record = await handle.wait(confirmed=True)
        print("once more:", (await handle.cancel(reason="to be sure")).outcome.value)
        types = [event.type async for event in handle.events()]
        print("recorded requests:", types.count(EventType.CANCEL_REQUESTED))
        print("ends:", types.count(EventType.TERMINATED))
        print("state:", record.state.value)


if __name__ == "__main__":
    asyncio.run(main(**dict(zip(("target", "image"), sys.argv[1:], strict=False))))
