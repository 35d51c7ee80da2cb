"""A request reaches all that is below: what is recorded, what is told, and what is refused."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agora.errors import InvalidRequest
from agora.model.cancel import Outcome
from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.observation import Handle, Observation, Phase
from agora.model.record import Entry, Lease, State
from agora.state import CancelAsked, Children, Fact, Noted, Seen, Started, SubmitBegan, WorkerSaid, apply
from agora.state.draft import MAX_NOTES
from agora.store import Store
from agora.testing import FakeClient

Make = Callable[..., Entry]
Run = Callable[..., Any]

CAUSE = Cause(actor="ann", via=Via.API, reason="enough")


def running(id: str) -> tuple[Fact, ...]:
    claim = Lease(owner="p0", until=datetime.now(UTC) + timedelta(seconds=15))
    return SubmitBegan(claim), Started(Handle(id=id, backend="b"), "p0"), Seen(Observation(phase=Phase.RUNNING))


def ended(id: str, code: int = 0) -> tuple[Fact, ...]:
    return *running(id), Seen(Observation(phase=Phase.ENDED, exit_code=code))


def note_of(entry: Entry) -> dict[str, Any]:
    """What the record says of those below."""
    [note] = [note for note in entry.notes if note.type == "children_asked"]
    return note.data


def test_the_record_says_what_became_of_each_below_it(store: Store, make_entry: Make, run: Run) -> None:
    async def scenario() -> None:
        await store.create(make_entry("top"))
        for id, parent in (("good", "top"), ("bad", "top"), ("live", "top"), ("late", "top"), ("torn", "top")):
            await store.create(make_entry(id, parent=parent))
        await store.create(make_entry("under", parent="good"))
        await store.apply("top", *running("top"))
        await store.apply("good", *ended("good"))
        await store.apply("bad", *ended("bad", 3))
        for id in ("live", "late", "torn", "under"):
            await store.apply(id, *running(id))
        await store.apply("late", CancelAsked(CAUSE))
        store._writer.submit(lambda c: c.execute("UPDATE dispatches SET body = '{}' WHERE id = 'torn'")).result(10)

        requested = await store.request("top", CancelAsked(CAUSE))
        assert {one.entry.id: one.answer for one in requested.below} == {
            "live": Outcome.STOPPING, "under": Outcome.STOPPING, "late": Outcome.ALREADY_STOPPING,
            "good": Outcome.ALREADY_SUCCEEDED, "bad": Outcome.ALREADY_FAILED,
        }  # fmt: skip
        [(torn, why)] = requested.damaged
        assert torn == "torn"
        assert "cannot be read" in why
        stored = await store.read("top")
        assert stored == requested.first.entry
        assert (stored.state, requested.first.answer) == (State.STOPPING, Outcome.STOPPING)
        noted = note_of(stored)
        assert noted["outcomes"] == {
            "NOT_RECORDED": 1, "STOPPING": 2, "ALREADY_STOPPING": 1, "ALREADY_SUCCEEDED": 1, "ALREADY_FAILED": 1,
        }  # fmt: skip
        assert (noted["children"]["torn"], noted["more"]) == ("NOT_RECORDED", 0)
        assert (await store.read("good")).state is State.SUCCEEDED
        assert (await store.read("under")).cause == (await store.read("live")).cause
        assert [event.type for event in await store.events("good")][-1] is EventType.TERMINATED

        again = await store.request("top", CancelAsked(CAUSE))
        assert (again.first.answer, again.below) == (Outcome.ALREADY_STOPPING, ())
        assert (await store.read("top")).notes == stored.notes

    run(scenario())


def test_nothing_is_noted_where_nothing_is_below_or_it_had_ended(store: Store, make_entry: Make, run: Run) -> None:
    async def scenario() -> None:
        for id in ("alone", "over"):
            await store.create(make_entry(id))
        await store.apply("alone", *running("alone"))
        await store.create(make_entry("below", parent="over"))
        await store.apply("below", *running("below"))
        await store.apply("over", *ended("over"))
        for id in ("alone", "over"):
            await store.request(id, CancelAsked(CAUSE))
            assert (await store.read(id)).notes == ()
        assert (await store.read("below")).state is State.RUNNING

    run(scenario())


def test_a_parent_of_ten_thousand_keeps_a_small_record(store: Store, make_entry: Make, run: Run) -> None:
    async def scenario() -> None:
        await store.create(make_entry("top"))
        await store.apply("top", *running("top"))
        await store.create(make_entry("model", parent="top"))
        await store.apply("model", *ended("model"))
        await store.create(make_entry("live", parent="top"))
        await store.apply("live", *running("live"))

        def many(connection: sqlite3.Connection) -> None:
            connection.execute(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) "
                "INSERT INTO dispatches (id, state, live, target, requested_at, version, body, parent) "
                "SELECT printf('old-%05d', i), state, live, target, requested_at, version, "
                "json_set(body, '$.id', printf('old-%05d', i)), parent FROM n, dispatches WHERE id = 'model'"
            )

        store._writer.submit(many).result(20)
        requested = await store.request("top", CancelAsked(CAUSE))
        assert [one.entry.id for one in requested.below][:3] == ["live", "old-09999", "old-09998"]
        assert (len(requested.below), requested.more) == (21, 9980)
        noted = note_of(await store.read("top"))
        assert noted["outcomes"] == {"STOPPING": 1, "ALREADY_SUCCEEDED": 10_000}
        assert (len(noted["children"]), noted["more"]) == (50, 9951)

    run(scenario())
    with closing(sqlite3.connect(store.path)) as connection:
        [(size,)] = connection.execute("SELECT length(body) FROM dispatches WHERE id = 'top'").fetchall()
    assert size < 10_000


def test_ids_that_were_used_again_make_no_endless_walk(store: Store, make_entry: Make, run: Run) -> None:
    async def scenario() -> None:
        await store.create(make_entry("first"))
        await store.create(make_entry("second", parent="first"))
        await store.delete("first")
        await store.create(make_entry("first", parent="second"))
        requested = await store.request("first", CancelAsked(CAUSE))
        assert [one.entry.id for one in requested.below] == ["second"]

    run(scenario())


def test_what_a_worker_says_too_late_does_not_displace_what_became_of_those_below(make_entry: Make) -> None:
    entry = make_entry("d1")
    now = datetime.now(UTC)
    for fact in (*ended("d1"), Noted("children_asked", {"more": 0})):
        entry = apply(entry, fact, now).entry
    for number in range(1, 2 * MAX_NOTES):
        entry = apply(entry, WorkerSaid(EventType.PROGRESS, {"n": number}, "w", number), now).entry
    assert [note.type for note in entry.notes] == ["children_asked", *["late_worker_event"] * (MAX_NOTES - 1)]
    assert entry.notes[-1].data["n"] == 2 * MAX_NOTES - 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"children_grace": 0}, "children_grace 0 kills without grace: say so with children_force"),
    ({"children_grace": 1}, "children_grace 1 s is outside"),
    ({"children_grace": True}, "children_grace True is not a whole number"),
    ({"children_grace": 2.5}, "children_grace 2.5 is not a whole number"),
    ({"children_grace": 5, "children_force": True}, "choose one"),
    ({"grace": 1, "children_force": True}, "grace 1 s is outside"),
]


@pytest.mark.parametrize(("asked", "words"), WRONG)
def test_a_malformed_choice_is_refused_before_anything_is_recorded(run: Run, asked: dict[str, Any], words: str) -> None:
    async def scenario() -> None:
        async with FakeClient() as client:
            parent = await client.dispatch(command=["x"])
            child = await client.dispatch(command=["x"], parent=parent.id)
            with pytest.raises(InvalidRequest, match=words):
                await parent.cancel(**asked)
            for handle in (parent, child):
                assert [event.type.value async for event in handle.events()][-1] == "dispatch.started"
                assert (await handle.get()).state is State.RUNNING

    run(scenario())


def test_what_the_backend_of_a_child_cannot_do_is_told_with_that_child(run: Run) -> None:
    async def scenario() -> None:
        async with FakeClient(stubborn=True) as client:
            parent = await client.dispatch(command=["x"], grace=20)
            child = await client.dispatch(command=["x"], grace=30, parent=parent.id)
            first = await parent.cancel(children_grace=4)
            assert [(one.id, one.degraded, one.effective_grace) for one in first.children] == [(child.id, (), 4)]
            later = await parent.cancel(children_grace=2)
            assert [(one.outcome, one.degraded) for one in later.children] == [(Outcome.ALREADY_STOPPING, ("grace",))]
            forced = await parent.cancel(children_force=True)
            assert forced.degraded == ()
            assert forced.effective_grace == 20
            assert [one.degraded for one in forced.children] == [("grace", "force")]
            assert (await child.get()).degraded == ("grace", "force")
            assert (await parent.get()).degraded == ()

    run(scenario())


def test_a_child_that_cannot_be_recorded_is_an_error_of_the_call(run: Run) -> None:
    async def scenario() -> None:
        async with FakeClient() as client:
            parent = await client.dispatch(command=["x"])
            child = await client.dispatch(command=["x"], parent=parent.id)
            store = client._opened.store
            damage = "UPDATE dispatches SET body = '{}' WHERE id = ?"
            store._writer.submit(lambda c: c.execute(damage, (child.id,))).result(10)
            result = await parent.cancel()
            [told] = result.children
            assert (told.id, told.outcome) == (child.id, Outcome.NOT_RECORDED)
            assert told.error is not None
            assert told.error.type == "damaged_record"
            assert (result.outcome, result.exit_code) == (Outcome.STOPPING, 1)
            assert (await parent.wait(timeout=20)).state is State.CANCELLED, "the parent is cancelled all the same"

    run(scenario())


def test_the_choice_for_those_below_replaces_what_they_would_inherit(make_entry: Make) -> None:
    from agora.state import below

    asked = CancelAsked(CAUSE, grace=9, force=True)
    assert (below(asked, "p").force, below(asked, "p").grace, below(asked, "p").most) == (True, None, None)
    gently = below(CancelAsked(CAUSE, force=True, children=Children(grace=5)), "p")
    assert (gently.force, gently.most) == (False, 5)
    hard = below(CancelAsked(CAUSE, soft=60, children=Children(force=True)), "p")
    assert (hard.force, hard.soft) == (True, None)
    for own, grace in ((3, 3), (30, 5)):
        entry = make_entry("d1", grace=own, state=State.RUNNING, handle=Handle(id="d1", backend="b"))
        after = apply(entry, gently, datetime.now(UTC)).entry
        assert after.stop_grace == grace
