"""Another process on a store: opens it, or writes to it, when told so; prints what it found."""

import asyncio
import json
import sys
from pathlib import Path

from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.record import Entry
from agora.state import CancelAsked, WorkerSaid
from agora.store import Store


def wait_for_the_word() -> None:
    """Say that this process is there, and wait until all are."""
    print("ready", flush=True)
    sys.stdin.readline()


def open_it(home: Path) -> object:
    """Open the store and tell its installation."""
    wait_for_the_word()
    store = Store(home)
    store.close()
    return store.installation


async def write_to_it(home: Path, number: int, turns: int, template: Entry) -> object:
    """Write dispatches of its own and events to a shared one; then cancel the shared one."""
    store = Store(home)
    wait_for_the_word()
    for turn in range(turns):
        await store.create(template.model_copy(update={"id": f"own-{number}-{turn}"}))
        await store.apply("shared", WorkerSaid(EventType.PROGRESS, {"by": number, "turn": turn}))
    applied = await store.apply("shared", CancelAsked(Cause(actor=f"p{number}", via=Via.API)), durable=True)
    store.close()
    return [applied.answer.value, applied.entry.cause.actor if applied.entry.cause else None]


def main() -> None:
    """Do what the command line says."""
    what, home, *rest = sys.argv[1:]
    if what == "open":
        found = open_it(Path(home))
    else:
        number, turns, template = rest
        found = asyncio.run(write_to_it(Path(home), int(number), int(turns), Entry.model_validate_json(template)))
    print(json.dumps(found))


main()
