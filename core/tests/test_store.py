"""The store: many processes at once, durability, disks that are full, closed or broken, looking things up."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agora.errors import AmbiguousId, DispatchConflict, DispatchNotFound, StoreError, StoreTooNew
from agora.model.cause import Cause, Via
from agora.model.events import EventType
from agora.model.observation import Handle, Observation, Phase
from agora.model.record import Entry, Lease, State
from agora.state import (
    AttemptAnswered,
    AttemptBegan,
    CancelAsked,
    Fact,
    LostAfter,
    Noted,
    Seen,
    Started,
    SubmitBegan,
    WorkerSaid,
)
from agora.store import Filter, Store, rows, schema
from agora.store.schema import migrations

Make = Callable[..., Entry]
Run = Callable[..., Any]

CAUSE = Cause(actor="ann", via=Via.CLI, reason="enough")
PEER = Path(__file__).parent / "support" / "store_peer.py"
PATIENCE = 50
PROCESSES = 6
EACH = 15


def lease() -> Lease:
    return Lease(owner="p0", until=datetime.now(UTC) + timedelta(seconds=15))


def started(id: str) -> tuple[Fact, ...]:
    return SubmitBegan(lease()), Started(Handle(id=id, backend="b"), "p0"), Seen(Observation(phase=Phase.RUNNING))


def ended(id: str, code: int = 0) -> tuple[Fact, ...]:
    return *started(id), Seen(Observation(phase=Phase.ENDED, exit_code=code))


# --- many processes ------------------------------------------------------------------------------------------


def in_processes(*commands: tuple[str, ...]) -> list[Any]:
    """Let processes do something with a store, all at once; return what each had to say."""
    peers = [
        subprocess.Popen(
            [sys.executable, str(PEER), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    found = []
    try:
        for peer in peers:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "ready\n"
        for peer in peers:
            assert peer.stdin is not None
            peer.stdin.write("go\n")
            peer.stdin.flush()
        for peer in peers:
            out, _ = peer.communicate(timeout=PATIENCE)
            assert peer.returncode == 0
            found.append(json.loads(out))
    finally:
        for peer in peers:
            peer.kill()
            peer.communicate()
    return found


def test_processes_that_open_a_new_store_at_once_agree_on_one(home: Path) -> None:
    found = in_processes(*[("open", str(home))] * PROCESSES)
    assert len(set(found)) == 1
    assert (home / "installation").read_text().strip() == found[0]
    with closing(sqlite3.connect(home / "agora.db")) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [
            (number,) for number, _ in migrations()
        ]


def test_processes_that_write_at_once_lose_nothing_and_only_one_cancel_counts(
    home: Path, store: Store, make_entry: Make, run: Run
) -> None:
    async def prepare() -> None:
        await store.create(make_entry("shared"))
        await store.apply("shared", *started("shared"))

    run(prepare())
    template = make_entry("own").model_dump_json()
    found = in_processes(*(("write", str(home), str(number), str(EACH), template) for number in range(PROCESSES)))

    async def read() -> tuple[Entry, list[Any], list[Entry]]:
        return await store.read("shared"), await store.events("shared"), await store.listed(Filter())

    entry, events, everything = run(read())
    assert len(everything) == PROCESSES * EACH + 1
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    said = [(event.data["by"], event.data["turn"]) for event in events if event.type is EventType.PROGRESS]
    assert sorted(said) == [(number, turn) for number in range(PROCESSES) for turn in range(EACH)]
    for number in range(PROCESSES):
        assert [turn for by, turn in said if by == number] == list(range(EACH)), "order within one writer"
    outcomes = [outcome for outcome, _ in found]
    assert sorted(outcomes) == ["ALREADY_STOPPING"] * (PROCESSES - 1) + ["STOPPING"]
    assert {actor for _, actor in found} == {entry.cause.actor if entry.cause else None}
    assert [event.type for event in events].count(EventType.CANCEL_REQUESTED) == 1


def test_a_conditional_update_never_writes_over_another_ones(store: Store, make_entry: Make, run: Run) -> None:
    async def work() -> None:
        await store.create(make_entry("d1"))
        for number in range(100):
            await asyncio.gather(*(store.apply("d1", Noted("n", {"turn": number, "by": by})) for by in range(4)))
        assert (await store.read("d1")).version == 400

    run(work())


# --- migrations ----------------------------------------------------------------------------------------------


def test_a_store_of_a_newer_version_is_left_alone_and_said_so(home: Path) -> None:
    Store(home).close()
    with closing(sqlite3.connect(home / "agora.db")) as connection, connection:
        connection.execute("INSERT INTO schema_version (version) VALUES (9999)")
    before = (home / "agora.db").read_bytes()
    with pytest.raises(StoreTooNew, match=r"version 9999.*upgrade agora-dispatch"):
        Store(home)
    assert (home / "agora.db").read_bytes() == before


def test_a_store_of_an_older_version_is_read_on(
    home: Path, make_entry: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    before_owners = [step for step in migrations() if step[0] < 5]
    with closing(sqlite3.connect(home / "agora.db")) as connection, monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: before_owners)
        schema.migrate(connection)
        body = make_entry("old", state=State.RUNNING).model_dump_json(exclude_defaults=True)
        connection.execute(
            "INSERT INTO dispatches (id, state, live, target, requested_at, version, body)"
            " VALUES ('old', 'running', 1, 'paper', 0, 0, ?)",
            (body,),
        )
        connection.commit()

    async def work(store: Store) -> None:
        assert (await store.read("old")).owner is None
        await store.create(make_entry("new", owner="ann"))
        assert [entry.id for entry in await store.listed(Filter())] == ["new", "old"]
        assert [entry.id for entry in await store.listed(Filter(owner="ann"))] == ["new"]
        assert (await store.apply("old", Noted("seen", {}))).entry.notes[0].type == "seen"

    store = Store(home)
    try:
        run(work(store))
    finally:
        store.close()


def test_the_installation_id_survives_a_wiped_database(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Store(home)
    first.close()
    for path in home.glob("agora.db*"):
        path.unlink()
    second = Store(home)
    second.close()
    assert second.installation == first.installation
    monkeypatch.setenv("AGORA_INSTALLATION", "another-one")
    third = Store(home)
    third.close()
    assert third.installation == "another-one"
    monkeypatch.setenv("AGORA_INSTALLATION", "No Such Thing")
    with pytest.raises(StoreError, match="AGORA_INSTALLATION"):
        Store(home)


# --- durability ----------------------------------------------------------------------------------------------


def traced(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, list[str]]:
    """Open a store that tells every statement of its writer."""
    statements: list[str] = []
    connect = Store._connect

    def tell(self: Store) -> sqlite3.Connection:
        connection = connect(self)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(Store, "_connect", tell)
    return Store(home), statements


def commits(statements: list[str]) -> list[tuple[str, list[str]]]:
    """Return, for each transaction, the mode it was committed with and the types of the events in it."""
    found, mode, events = [], "", list[str]()
    for statement in statements:
        words = statement.strip()
        if words.startswith("PRAGMA synchronous ="):
            mode = words.rpartition(" ")[2]
        elif words.startswith("BEGIN"):
            events = []
        elif words.startswith("INSERT INTO events"):
            events += [kind.value for kind in EventType if f"'{kind.value}'" in words]
        elif words.startswith("COMMIT"):
            found.append((mode, events))
    return found


def test_what_is_durable_is_committed_with_synchronous_full(
    home: Path, make_entry: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, statements = traced(home, monkeypatch)

    async def work() -> None:
        await store.create(make_entry("d1"))
        await store.apply("d1", *started("d1"))
        await store.apply("d1", CancelAsked(CAUSE), durable=True)
        await store.apply("d1", Noted("x"))

    run(work())
    store.close()
    assert commits(statements)[1:] == [
        ("FULL", ["dispatch.requested"]),
        ("NORMAL", ["dispatch.submitted", "dispatch.started"]),
        ("FULL", ["dispatch.cancel_requested"]),
        ("NORMAL", []),
    ]
    with closing(sqlite3.connect(home / "agora.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_who_asks_a_closed_store_is_told_and_does_not_wait(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path / "closed")

    async def work() -> None:
        store.close()
        async with asyncio.timeout(20):
            for asked in (store.read("d1"), store.apply("d1", Noted("late"))):
                with pytest.raises(StoreError, match="closed"):
                    await asked

    run(work())


# --- cancelled in the middle ---------------------------------------------------------------------------------


def test_a_task_cancelled_in_the_middle_of_a_write_leaves_the_store_usable(
    store: Store, make_entry: Make, run: Run
) -> None:
    async def work() -> None:
        await store.create(make_entry("d1"))
        inside, go_on = threading.Event(), threading.Event()

        def slow(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE dispatches SET name = 'changed' WHERE id = 'd1'")
            inside.set()
            assert go_on.wait(10)

        under_way = asyncio.create_task(store._write(slow, durable=True))
        assert await asyncio.to_thread(inside.wait, 10)
        queued = asyncio.create_task(store.apply("d1", Noted("never")))
        after = asyncio.create_task(store.apply("d1", Noted("kept")))
        await asyncio.sleep(0)
        under_way.cancel()
        queued.cancel()
        for task in (under_way, queued):
            with pytest.raises(asyncio.CancelledError):
                await task
        go_on.set()
        await after
        entry = await store.read("d1")
        assert [note.type for note in entry.notes] == ["kept"], "what was cancelled before it began is not done"
        applied = await store.apply("d1", CancelAsked(CAUSE), durable=True)
        assert applied.entry.state is State.CANCELLED

    run(work())


def test_a_hundred_writers_cancelled_at_random_leave_whole_transactions(
    store: Store, make_entry: Make, run: Run
) -> None:
    async def work() -> None:
        await store.create(make_entry("d1"))
        await store.apply("d1", *started("d1"))
        tasks = [asyncio.create_task(store.apply("d1", WorkerSaid(EventType.PROGRESS))) for _ in range(300)]
        for turn, task in enumerate(tasks):
            if turn % 3 == 0:
                task.cancel()
            if turn % 20 == 0:
                await store.read("d1")
        done = await asyncio.gather(*tasks, return_exceptions=True)
        succeeded = sum(not isinstance(one, BaseException) for one in done)
        events, entry = await store.events("d1"), await store.read("d1")
        assert entry.sequence == len(events)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert len(events) - 3 >= succeeded >= 200, "who got an answer has it stored"

    run(work())


# --- disks ---------------------------------------------------------------------------------------------------


def fill(directory: Path) -> None:
    """Take every byte that is left."""
    with (directory / "filler").open("wb", buffering=0) as filler:
        for size in (1 << 20, 4096, 512, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                continue


def test_on_a_full_disk_a_cancel_and_an_end_are_still_recorded(small_disk: Path, make_entry: Make, run: Run) -> None:
    store = Store(small_disk / "home")

    async def work() -> None:
        for number in range(8):
            await store.create(make_entry(f"d{number}"))
            await store.apply(f"d{number}", *started(f"d{number}"))
        fill(small_disk)
        for number in range(8):
            asked = await store.apply(f"d{number}", CancelAsked(CAUSE), durable=True)
            assert asked.entry.state is State.STOPPING
            over = await store.apply(
                f"d{number}", Seen(Observation(phase=Phase.ENDED, exit_code=0)), durable=True
            )  # fmt: skip
            assert over.entry.state is State.SUCCEEDED

    run(work())
    store.close()
    assert not (small_disk / "home" / "reserve").exists(), "the reserve was needed"


def test_a_process_that_comes_to_a_full_disk_can_still_cancel(small_disk: Path, make_entry: Make, run: Run) -> None:
    home = small_disk / "home"

    async def before() -> None:
        store = Store(home)
        await store.create(make_entry("d1"))
        await store.apply("d1", *started("d1"))
        store.close()

    run(before())
    fill(small_disk)

    async def after() -> None:
        store = Store(home)
        applied = await store.apply("d1", CancelAsked(CAUSE), durable=True)
        assert applied.entry.state is State.STOPPING
        store.close()

    run(after())
    again = Store(home)
    again.close()


def test_a_disk_that_is_full_for_good_is_a_clear_error_and_loses_nothing(
    small_disk: Path, make_entry: Make, run: Run
) -> None:
    store = Store(small_disk / "home")

    async def work() -> None:
        await store.create(make_entry("d1"))
        fill(small_disk)
        (small_disk / "home" / "reserve").unlink()
        fill(small_disk)

        async def write_on_and_on() -> None:
            for number in range(2000):
                await store.apply("d1", Noted("n", {"number": number, "text": "y" * 3000}), durable=True)

        with pytest.raises(StoreError, match=r"agora\.db cannot be used.*full"):
            await write_on_and_on()
        entry = await store.read("d1")
        (small_disk / "filler").unlink()
        applied = await store.apply("d1", CancelAsked(CAUSE), durable=True)
        assert applied.entry.state is State.CANCELLED
        assert applied.entry.version == entry.version + 1

    run(work())
    store.close()


def test_the_space_for_requests_is_set_aside_again_once_there_is_room(small_disk: Path) -> None:
    home = small_disk / "home"
    Store(home).close()
    (home / "reserve").unlink()
    Store(home).close()
    assert (home / "reserve").stat().st_blocks * 512 >= 4 * 1024 * 1024


def test_a_state_directory_on_a_read_only_disk_is_a_clear_error(
    small_disk: Path, remount: Callable[[str], None], make_entry: Make, run: Run
) -> None:
    home = small_disk / "home"
    Store(home).close()
    remount("ro")
    with pytest.raises(StoreError, match=str(home)):
        Store(home)
    with pytest.raises(StoreError, match=r"cannot be made.*AGORA_HOME"):
        Store(small_disk / "another")


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty page"])
def test_a_corrupted_database_is_a_clear_error(home: Path, damage: str, make_entry: Make, run: Run) -> None:
    store = Store(home)
    run(store.create(make_entry("d1")))
    store.close()
    path = home / "agora.db"
    whole = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"this is no database at all" * 400)
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))

    async def use() -> None:
        store = Store(home)
        try:
            await store.read("d1")
            await store.create(make_entry("d2"))
        finally:
            store.close()

    with pytest.raises(StoreError, match=rf"{path} cannot be used"):
        run(use())


def test_a_file_in_place_of_the_state_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="AGORA_HOME"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="AGORA_HOME"):
        Store(tmp_path / "file" / "below")


def test_the_state_directory_is_the_owners_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        Store(home).close()
    finally:
        os.umask(before)
    assert home.stat().st_mode & 0o077 == 0


# --- identity and looking up ---------------------------------------------------------------------------------


def test_an_id_taken_by_another_spec_or_target_is_a_conflict(store: Store, make_entry: Make, run: Run) -> None:
    async def work() -> None:
        _, events, new = await store.create(make_entry("d1", run="r", name="n"))
        assert new
        assert [event.type for event in events] == [EventType.REQUESTED]
        same, events, new = await store.create(make_entry("d1", run="r", name="n"))
        assert (same.id, events, new) == ("d1", (), False)
        with pytest.raises(DispatchConflict, match="another spec or target"):
            await store.create(make_entry("d1", digest="other"))
        with pytest.raises(DispatchConflict, match="another spec or target"):
            await store.create(make_entry("d1", target="other"))
        with pytest.raises(DispatchConflict, match="run 'r' already has a dispatch named 'n': d1"):
            await store.create(make_entry("d2", run="r", name="n"))
        await store.create(make_entry("d3", run="other", name="n"))

    run(work())


def test_one_impossible_fact_does_not_spoil_the_others_of_its_batch(store: Store, make_entry: Make, run: Run) -> None:
    async def work() -> None:
        await store.create(make_entry("d1"))
        writes = [store.apply("d1" if turn % 2 else "nobody", Noted("n", {"turn": turn})) for turn in range(40)]
        done = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(one, DispatchNotFound) for one in done[::2])
        assert len((await store.read("d1")).notes) == 20

    run(work())


def test_prefixes_and_suffixes_name_a_dispatch(store: Store, make_entry: Make, run: Run) -> None:
    async def work() -> None:
        with pytest.raises(DispatchNotFound):
            await store.resolve("")
        await store.create(make_entry("abc-1x"))
        with pytest.raises(DispatchNotFound):
            await store.resolve("")
        await store.create(make_entry("abd-2x"))
        await store.create(make_entry("abc"))
        assert await store.resolve("abc-1x") == "abc-1x"
        assert await store.resolve("abc") == "abc", "a whole id comes before a prefix"
        assert await store.resolve("abd") == "abd-2x"
        assert await store.resolve("1x") == "abc-1x"
        for text in ("ab", "x", "a"):
            with pytest.raises(AmbiguousId, match="more than one"):
                await store.resolve(text)
        for text in ("bc-", "%", "_bc", "ab%", "nobody"):
            with pytest.raises(DispatchNotFound, match="agora ps --all"):
                await store.resolve(text)

    run(work())


def test_lists_are_filtered_by_everything_that_is_given_and_come_newest_first(
    store: Store, make_entry: Make, run: Run
) -> None:
    begin = datetime(2031, 1, 1, tzinfo=UTC)

    async def ids(**wanted: Any) -> list[str]:
        return [entry.id for entry in await store.listed(Filter(**wanted))]

    async def work() -> None:
        for number in range(6):
            await store.create(
                make_entry(
                    f"d{number}", run="even" if number % 2 == 0 else "odd", name=f"n{number}",
                    target="left" if number < 3 else "right", requested_at=begin + timedelta(hours=number),
                    labels={"team": "a" if number < 4 else "b", "size": str(number % 2)},
                )
            )  # fmt: skip
        await store.apply("d0", *ended("d0"))
        await store.apply("d1", *ended("d1", 3))
        await store.apply("d2", *started("d2"), CancelAsked(CAUSE))
        await store.apply("d3", *started("d3"), LostAfter())
        assert await ids() == ["d5", "d4", "d3", "d2", "d1", "d0"]
        assert await ids(live=True) == ["d5", "d4", "d3", "d2"], "lost without proof is still looked after"
        assert await ids(live=False) == ["d1", "d0"]
        assert await ids(states=[State.SUCCEEDED, State.FAILED]) == ["d1", "d0"]
        assert await ids(states=[]) == []
        assert await ids(run="even") == ["d4", "d2", "d0"]
        assert await ids(run="even", name="n2") == ["d2"]
        assert await ids(target="left") == ["d2", "d1", "d0"]
        assert await ids(labels={"team": "a"}) == ["d3", "d2", "d1", "d0"]
        assert await ids(labels={"team": "a", "size": "1"}) == ["d3", "d1"]
        assert await ids(labels={"team": "a", "size": "1"}, most=1) == ["d3"]
        assert await ids(labels={"team": "x"}) == []
        assert await ids(before=begin + timedelta(hours=2)) == ["d1", "d0"]
        assert await ids(most=2) == ["d5", "d4"]
        assert await ids(live=True, run="odd", most=1) == ["d5"]

    run(work())


FILTERS: list[dict[str, Any]] = [
    {}, {"states": [State.RUNNING, State.STOPPING]}, {"states": []}, {"run": "even"}, {"run": "odd", "name": "n3"},
    {"target": "left"}, {"owner": "ann"}, {"labels": {"team": "a"}}, {"labels": {"team": "a", "size": "1"}},
    {"before": datetime(2031, 1, 1, 3, tzinfo=UTC)},
]  # fmt: skip


@pytest.mark.parametrize("wanted", FILTERS)
def test_what_is_live_is_listed_as_the_rest_is_filtered(
    store: Store, make_entry: Make, run: Run, wanted: dict[str, Any]
) -> None:
    async def work() -> None:
        for number in range(8):
            await store.create(
                make_entry(
                    f"d{number}", run="even" if number % 2 == 0 else "odd", name=f"n{number}",
                    target="left" if number < 4 else "right", owner=(None, "ann", "bob")[number % 3],
                    requested_at=datetime(2031, 1, 1, number, tzinfo=UTC),
                    labels={"team": "a" if number < 5 else "b", "size": str(number % 2)},
                )
            )  # fmt: skip
            await store.apply(f"d{number}", *(ended if number in (1, 4) else started)(f"d{number}"))
        everything = [entry.id for entry in await store.listed(Filter(**wanted)) if entry.live]
        assert [entry.id for entry in await store.listed(Filter(live=True, **wanted))] == everything
        assert [entry.id for entry in await store.listed(Filter(live=True, most=1, **wanted))] == everything[:1]

    run(work())


def test_what_is_live_is_found_by_its_index_however_long_the_past_is(store: Store) -> None:
    query = rows.queries().list_live.sql
    blank = dict.fromkeys(("states", "run", "name", "target", "owner", "before", "label", "content"))
    with closing(sqlite3.connect(store.path)) as connection:
        plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", {**blank, "most": 9})]
    assert "SCAN dispatches USING INDEX dispatches_live" in plan


def test_only_what_ended_and_is_not_looked_after_any_more_is_old_and_can_be_deleted(
    store: Store, make_entry: Make, run: Run
) -> None:
    async def work() -> None:
        for id in ("done", "lost", "live"):
            await store.create(make_entry(id, labels={"a": "b"}))
        await store.apply("done", *ended("done"))
        await store.apply("lost", *started("lost"), LostAfter())
        late = datetime.now(UTC) + timedelta(hours=1)
        assert [entry.id for entry in await store.ended_before(late)] == ["done"]
        assert await store.ended_before(datetime.now(UTC) - timedelta(hours=1)) == []
        await store.delete("done")
        with pytest.raises(DispatchNotFound):
            await store.read("done")
        assert await store.events("done") == []
        assert [entry.id for entry in await store.listed(Filter(labels={"a": "b"}))] == ["live", "lost"]

    run(work())


def test_who_listens_hears_of_this_and_of_other_connections(
    home: Path, store: Store, make_entry: Make, run: Run
) -> None:
    other = Store(home)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with store.pulse.listen() as ear:
            for writer in (store, other):
                # One change may be heard twice: when it is committed, and when its committer comes to say so.
                async with asyncio.timeout(20):
                    while await ear.wait(0.05):
                        pass
                waiting = asyncio.create_task(ear.wait(25))
                await writer.create(make_entry(f"d{id(writer)}"[:20]))
                written = loop.time()
                assert await waiting
                assert loop.time() - written < 5, "before its patience is over"

    run(work())
    other.close()


def test_an_answer_after_a_claim_is_in_the_row_that_the_next_process_reads(
    home: Path, store: Store, make_entry: Make, run: Run
) -> None:
    async def work() -> None:
        await store.create(make_entry("d1"))
        await store.apply("d1", *started("d1"), CancelAsked(CAUSE))
        claim = await store.apply("d1", AttemptBegan("stop", lease()), durable=True)
        other = Store(home)
        assert (await other.apply("d1", AttemptBegan("stop", lease()))).answer is None
        await store.apply("d1", AttemptAnswered(claim.answer, sent=False), durable=True)
        assert (await other.apply("d1", AttemptBegan("stop", lease()))).answer == 2
        other.close()

    run(work())


def test_a_damaged_record_is_named_and_hides_no_other(
    store: Store, make_entry: Make, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        for id in ("d1", "d2"):
            await store.create(make_entry(id))
        store._writer.submit(lambda c: c.execute("UPDATE dispatches SET body = '{}' WHERE id = 'd1'")).result(10)
        assert [entry.id for entry in await store.listed(Filter())] == ["d2"]
        assert [entry.id for entry in await store.read_many(["d1", "d2"])] == ["d2"]
        with pytest.raises(StoreError, match="the record of dispatch d1 cannot be read"):
            await store.read("d1")

    run(work())
    assert "dispatch d1 cannot be read" in caplog.text


def test_a_request_claims_the_stop_of_what_has_nothing_below_it(store: Store, make_entry: Make, run: Run) -> None:
    async def scenario() -> None:
        await store.create(make_entry("alone"))
        await store.create(make_entry("above"))
        for id in ("alone", "above"):
            await store.apply(id, *started(id))
        await store.create(make_entry("below", parent="above"))
        await store.apply("below", *started("below"))
        claim = lease()
        for id in ("alone", "above"):
            await store.request(id, CancelAsked(CAUSE, claim=claim))
        attempts = {id: (await store.read(id)).attempt for id in ("alone", "above", "below")}
        assert attempts["alone"] is not None
        assert attempts["alone"].lease == claim
        assert (attempts["above"], attempts["below"]) == (None, None), "what is below is sent its stop first"
        assert (await store.read("below")).state is State.STOPPING

    run(scenario())
