"""A client in a process of its own: says ready, waits for the word, does one thing, prints what came of it as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import anyio
from agora import AgoraClient


async def main(*words: str) -> None:
    """Do what the command line says."""
    verb, home, id, script = words
    async with AgoraClient(Path(home), supervisor=False, actor=f"peer {sys.argv[-1]}") as client:
        await client.list()  # everything that is imported late is imported
        print("ready", flush=True)
        sys.stdin.readline()
        found: Any
        if verb == "cancel":
            result = await client.cancel(id, reason="enough")
            found = {
                "outcome": result.outcome.value,
                "actor": result.cause.actor if result.cause else None,
                "delivered": result.delivered,
            }
        elif verb == "dispatch":
            handles: list[str] = []

            async def dispatch() -> None:
                handle = await client.dispatch(id=id, command=("sh", "-c", script), grace=5)
                handles.append(handle.record.state.value)

            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(dispatch)
            found = handles
        else:
            found = [record.state.value for _ in range(20) for record in await client.list(refresh=True)]
        print(json.dumps(found))


anyio.run(main, *sys.argv[1:5])
