"""A control plane in a process of its own: `control_plane.py VERB ID [ARGUMENT...]`."""

import os
import sys
from typing import Any

import anyio
from agora import AgoraClient
from agora.cli import thread_is_stuck


async def main(*words: str) -> None:
    """Do one thing, as a client would."""
    verb, id, *rest = words
    grace = int(os.environ["CRASH_GRACE"])
    async with AgoraClient(supervisor=os.environ.get("CRASH_SUPERVISOR") == "yes", actor="crash") as client:
        match verb:
            case "dispatch":
                await client.dispatch(id=id, command=rest, grace=grace, timeout=600)
            case "run":
                handle = await client.dispatch(id=id, command=rest, grace=grace, timeout=600)
                await handle.wait()
            case "cancel":
                options: dict[str, Any] = {"force": True} if "force" in rest else {}
                await client.cancel(id, reason="crash test", **options)
            case "wait":
                await client.wait(id, timeout=30)
            case "reconcile":
                await client.reconcile()


anyio.run(main, *sys.argv[1:])
if thread_is_stuck():
    os._exit(9)
