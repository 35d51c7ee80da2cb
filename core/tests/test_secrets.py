"""Inline secrets that a backend holds: removed after the end by whoever comes by, and never forgotten."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, State, hookimpl
from agora.config import Settings
from agora.engine.plan import Action, Bounds, next_step
from agora.errors import SubmitRefused, Unreachable
from agora.model.cause import Cause, Via
from agora.model.observation import Observation, Phase
from agora.model.record import Entry, Record
from agora.state import CancelAsked, apply

Run = Callable[..., Any]
MakeSettings = Callable[..., Settings]
MakeEntry = Callable[..., Entry]

EXITED = Observation(phase=Phase.ENDED, exit_code=0)
SECRETS = {"KEY": "s3cret-value"}


def held(home: Path) -> list[str]:
    """Ids of dispatches whose secrets are still to be removed, by the store."""
    with closing(sqlite3.connect(home / "agora.db")) as connection:
        return [id for (id,) in connection.execute("SELECT id FROM dispatches WHERE holds_secrets = 1 ORDER BY id")]


def notes(record: Record) -> list[tuple[str, dict[str, Any]]]:
    """Notes about secrets."""
    return [(note.type, note.data) for note in record.notes if note.type.startswith("secrets")]


async def ended(paper: Any, client: AgoraClient, id: str, **fields: Any) -> None:
    """Dispatch something and see it end."""
    paper.ENDS[id] = EXITED
    await client.dispatch(command=("true",), id=id, **fields)
    assert (await client.wait(id, timeout=30)).state is State.SUCCEEDED


async def until_removed(client: AgoraClient, home: Path) -> None:
    """Supervise as the background supervisor does, until nothing is left to do."""
    await client.supervise(until_idle=True)
    assert held(home) == []


def test_secrets_are_removed_after_the_end_and_only_where_there_were_any(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            await client.dispatch(command=("true",), id="d1", secrets=SECRETS)
            await client.reconcile()
            assert held(home) == ["d1"]
            assert paper.CLEANED == [], "it runs, and needs them"
            paper.ENDS["d1"] = EXITED
            await ended(paper, client, "d2")
            await until_removed(client, home)
            assert paper.CLEANED == ["d1"]
            assert [event.type.value async for event in client.events("d1")][-1] == "dispatch.terminated"
            assert notes(await client.get("d1")) == []

    run(work())


def test_a_backend_that_is_away_is_asked_again_by_whoever_comes_next(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def first() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            paper.FAILS["remove_secrets"] = Unreachable("the backend is away")
            await ended(paper, client, "d1", secrets=SECRETS)
            for _ in range(2):
                await client.reconcile()
            record = await client.get("d1")
            assert notes(record) == [("secrets_not_removed", {"why": "unreachable"})], "told once"
            assert record.state is State.SUCCEEDED
            assert record.id not in [one.id for one in await client.list(live=True)], "it is over all the same"

    async def second() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            assert await client.prune(timedelta(0)) == [], "a record with something left to do stays"
            await until_removed(client, home)
            assert await client.prune(timedelta(0)) == ["d1"]

    run(first())
    assert held(home) == ["d1"]
    assert paper.CLEANED == []
    paper.FAILS.clear()
    run(second())
    assert paper.CLEANED == ["d1"]


def test_another_backend_that_knows_of_none_is_not_taken_for_a_removal(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            paper.FAILS["remove_secrets"] = Unreachable("the backend is away")
            await ended(paper, client, "d1", secrets=SECRETS)
            await client.reconcile()
            paper.FAILS.clear()
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(paper.Paper, "identity", hookimpl(lambda self: "paper-2"))
                async with AgoraClient(home, settings=paper_settings()) as other:
                    await other.reconcile()
            assert (paper.CLEANED, held(home)) == ([], ["d1"])
            await client.reconcile()
            assert (paper.CLEANED, held(home)) == (["d1"], [])

    run(work())


def test_a_submit_that_was_refused_may_have_left_some_and_one_that_was_never_sent_has_not(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, make_entry: MakeEntry
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            paper.FAILS["dispatch"] = SubmitRefused("no such image", reason="image_missing")
            handle = await client.dispatch(command=("true",), id="d1", secrets=SECRETS)
            assert (await handle.wait(timeout=30)).state is State.FAILED
            await until_removed(client, home)
            assert paper.CLEANED == ["d1"]

    run(work())
    pending = make_entry("d2", holds_secrets=True)
    asked = CancelAsked(Cause(actor="ann", via=Via.CLI))
    cancelled = apply(pending, asked, pending.requested_at).entry
    assert (cancelled.state, cancelled.holds_secrets) == (State.CANCELLED, False), "nothing of it left this machine"


@pytest.mark.parametrize("how", ["refused", "listed"])
def test_the_background_supervisor_is_started_for_secrets_alone(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    started: list[Path] = []
    monkeypatch.setattr("agora.client.supervision.start", lambda home, settings: started.append(home))

    async def work() -> None:
        paper.FAILS["remove_secrets"] = Unreachable("the backend is away")
        if how == "refused":
            paper.FAILS["dispatch"] = SubmitRefused("no such image", reason="image_missing")
            async with AgoraClient(home, settings=replace(paper_settings(), supervisor=True)) as client:
                handle = await client.dispatch(command=("true",), id="d1", secrets=SECRETS)
                assert handle.record.state is State.FAILED
        else:
            async with AgoraClient(home, settings=paper_settings()) as client:
                await ended(paper, client, "d1", secrets=SECRETS)
            assert started == []
            async with AgoraClient(home, settings=replace(paper_settings(), supervisor=True)) as client:
                assert [record.id for record in await client.list(refresh=True)] == ["d1"]

    run(work())
    assert started == [home]
    assert held(home) == ["d1"]


@pytest.mark.parametrize(
    ("given_up", "seconds", "action"),
    [
        (False, 0, Action.REMOVE_SECRETS),
        (False, 99, Action.REMOVE_SECRETS),
        (False, 100, Action.LEAVE_SECRETS),
        (True, 199, Action.REMOVE_SECRETS),
        (True, 200, Action.LEAVE_SECRETS),
    ],
)
def test_they_are_tried_for_as_long_as_an_end_without_proof_is_looked_at(
    given_up: bool, seconds: float, action: Action, make_entry: MakeEntry
) -> None:
    now = datetime.now(UTC)
    entry = make_entry(
        "d1", state=State.LOST, confirmed=not given_up, given_up=given_up, ended_at=now, holds_secrets=True
    )
    bounds = Bounds(lost_after=1000, abandon_after=100)
    assert next_step(entry, now + timedelta(seconds=seconds), bounds).action is action
    unproven = entry.model_copy(update={"confirmed": False, "given_up": False})
    assert next_step(unproven, now, bounds).action is not Action.REMOVE_SECRETS, "it may run, or be submitted, still"


def test_a_removal_that_was_tried_for_too_long_is_told_and_left(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        settings = paper_settings()
        async with AgoraClient(home, settings=settings) as client:
            paper.FAILS["remove_secrets"] = Unreachable("the backend is away")
            await ended(paper, client, "d1", secrets=SECRETS)
        async with AgoraClient(home, settings=replace(settings, abandon_after=0.0)) as client:
            await until_removed(client, home)
            assert notes(await client.get("d1"))[-1] == ("secrets_left", {})

    run(work())
    assert paper.CLEANED == []
    with closing(sqlite3.connect(home / "agora.db")) as connection:
        (body,) = connection.execute("SELECT body FROM dispatches").fetchone()
    assert json.loads(body)["state"] == "succeeded"
