"""How those below a cancelled dispatch are stopped, on processes that hear SIGTERM and go on."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, Outcome, State
from agora.client import DispatchHandle

from tests.groups.conftest import alive, until

pytestmark = [pytest.mark.backend("local"), pytest.mark.anyio]
Open = Callable[[], AgoraClient]

#: A machine that is busy with everything else may kill so much later, in seconds.
SLACK = 8.0
STUBBORN = """
import pathlib, signal, sys, time
told = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: told.write_text("heard"))
told.with_suffix(".ready").touch()
while True:
    time.sleep(0.05)
"""


class Family:
    """Dispatches that note a SIGTERM in a file and go on."""

    def __init__(self, agora: AgoraClient, folder: Path) -> None:
        self.agora = agora
        self.folder = folder

    async def stubborn(self, name: str, grace: int, parent: DispatchHandle | None = None) -> DispatchHandle:
        """Start one, and wait until it is deaf to SIGTERM."""
        command = [sys.executable, "-I", "-S", "-c", STUBBORN, str(self.folder / name)]
        handle = await self.agora.dispatch(command=command, grace=grace, parent=parent.id if parent else "")

        async def ready() -> bool:
            return (self.folder / f"{name}.ready").exists()

        await until(ready)
        return handle

    def heard(self, name: str) -> bool:
        """Whether one has heard a SIGTERM."""
        return (self.folder / name).exists()

    async def hears(self, name: str) -> None:
        """Wait until one has."""

        async def yes() -> bool:
            return self.heard(name)

        await until(yes)

    async def dead(self, handle: DispatchHandle) -> float:
        """Wait until the process is gone; return for how long that took, in seconds."""
        begun = time.monotonic()

        async def gone() -> bool:
            return not alive(handle.record)

        await until(gone)
        return time.monotonic() - begun

    async def killed(self, *handles: DispatchHandle) -> None:
        """End what is left."""
        for handle in handles:
            await handle.cancel(force=True)
            assert (await handle.wait(confirmed=True, timeout=30)).confirmed is True


def agora_says(*args: str) -> Any:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "agora", *args], capture_output=True, text=True, timeout=50, check=True
    )
    return json.loads(done.stdout) if "--json" in args else done.stdout


async def test_those_below_get_the_grace_that_is_given_for_them_and_the_parent_keeps_its_own(
    client: Open, tmp_path: Path
) -> None:
    async with client() as agora:
        family = Family(agora, tmp_path)
        parent = await family.stubborn("parent", 40)
        child = await family.stubborn("child", 40, parent)
        short = await family.stubborn("short", 2, child)
        result = await parent.cancel(children_grace=3, reason="enough")
        assert (result.outcome, result.effective_grace) == (Outcome.STOPPING, 40)
        assert {one.id: one.effective_grace for one in result.children} == {child.id: 3, short.id: 2}
        took = await family.dead(child)
        assert took < 3 + SLACK
        assert alive(parent.record), "it has a grace of its own"
        for name in ("parent", "child", "short"):
            await family.hears(name)
        ended = await child.wait(confirmed=True, timeout=30)
        assert ended.ended_at is not None
        assert ended.stopping_at is not None
        assert (ended.state, ended.forced) == (State.CANCELLED, True)
        assert (ended.ended_at - ended.stopping_at).total_seconds() > 2.5, "it had its grace"
        await short.wait(confirmed=True, timeout=30)
        await family.killed(parent)


async def test_those_below_are_killed_without_having_heard_of_it(client: Open, tmp_path: Path) -> None:
    async with client() as agora:
        family = Family(agora, tmp_path)
        parent = await family.stubborn("parent", 40)
        child = await family.stubborn("child", 40, parent)
        result = agora_says("cancel", "--json", "--children-force", parent.id)
        assert [(one["id"], one["outcome"], one["degraded"]) for one in result["children"]] == [
            (child.id, "STOPPING", [])
        ]
        assert await family.dead(child) < SLACK
        assert not family.heard("child"), "no handler ran"
        await family.hears("parent")
        assert alive(parent.record)
        await family.killed(parent)


async def test_a_grace_for_the_parent_is_for_the_parent_and_a_later_word_hastens_those_below(
    client: Open, tmp_path: Path
) -> None:
    async with client() as agora:
        family = Family(agora, tmp_path)
        parent = await family.stubborn("parent", 50)
        child = await family.stubborn("child", 40, parent)
        result = await parent.cancel(grace=30)
        assert (result.effective_grace, [one.effective_grace for one in result.children]) == (30, [40])
        again = await parent.cancel()
        assert (again.outcome, again.children) == (Outcome.ALREADY_STOPPING, ())
        assert alive(child.record)
        hastened = await parent.cancel(children_grace=2)
        assert (hastened.outcome, hastened.effective_grace) == (Outcome.ALREADY_STOPPING, 30)
        [told] = hastened.children
        assert (told.id, told.outcome, told.degraded) == (child.id, Outcome.ALREADY_STOPPING, ())
        assert await family.dead(child) < 2 + SLACK
        assert alive(parent.record)
        await family.killed(parent)


async def test_a_force_for_the_parent_is_for_all_below_it_also_when_it_comes_later(
    client: Open, tmp_path: Path
) -> None:
    async with client() as agora:
        family = Family(agora, tmp_path)
        parent = await family.stubborn("parent", 40)
        child = await family.stubborn("child", 40, parent)
        await parent.cancel()
        assert [one.outcome for one in (await parent.cancel(force=True)).children] == [Outcome.ALREADY_STOPPING]
        assert await family.dead(child) < SLACK
        assert await family.dead(parent) < SLACK


async def test_what_became_of_each_is_on_the_record_of_the_parent(client: Open) -> None:
    async with client() as agora:
        parent = await agora.dispatch(command=["sleep", "600"], grace=2)
        child = await agora.dispatch(command=["sleep", "600"], grace=2, parent=parent.id)
        middle = await agora.dispatch(command=["true"], parent=parent.id)
        await middle.wait(timeout=20)
        result = agora_says("cancel", "--json", parent.id, "--reason", "enough")
        assert {one["id"]: (one["outcome"], one["state"]) for one in result["children"]} == {
            child.id: ("STOPPING", "stopping"), middle.id: ("ALREADY_SUCCEEDED", "succeeded"),
        }  # fmt: skip
        assert result["more_children"] == 0
        for handle in (parent, child):
            assert (await handle.wait(confirmed=True, timeout=30)).state is State.CANCELLED
    [note] = [note for note in agora_says("show", "--json", parent.id)["notes"] if note["type"] == "children_asked"]
    assert note["data"] == {
        "outcomes": {"STOPPING": 1, "ALREADY_SUCCEEDED": 1},
        "children": {child.id: "STOPPING", middle.id: "ALREADY_SUCCEEDED"},
        "more": 0,
    }
    shown = agora_says("show", parent.id)
    assert "asked to stop with it: 1 STOPPING, 1 ALREADY_SUCCEEDED" in shown
    assert f"{middle.id} ALREADY_SUCCEEDED" in shown
