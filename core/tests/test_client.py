"""The client: what it stores and tells, how it ends, and that its blocking twin has all of it."""

import asyncio
import inspect
import json
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import agora
import pytest
from agora import (
    AgoraClient,
    AgoraError,
    BlockingClient,
    DispatchCancelled,
    DispatchConflict,
    DispatchFailed,
    DispatchHandle,
    DispatchLost,
    DispatchTimedOut,
    InvalidRequest,
    Outcome,
    State,
    hookimpl,
)
from agora.client import portal
from agora.client.blocking import BlockingHandle
from agora.config import Settings
from agora.errors import ConfigError, DispatchEnded, ProviderError, SubmitRefused, Unreachable, Vetoed
from agora.logs import JsonFormatter
from agora.model.events import Event
from agora.model.observation import Observation, Phase
from agora.model.record import Entry
from agora.state import LostAfter, Noted, Seen
from agora.store import Store, rows

Run = Callable[..., Any]
MakeSettings = Callable[..., Settings]

REASON = "one reason: für alle, 7 times the same"


# --- secrets -------------------------------------------------------------------------------------------------


def test_no_secret_of_a_target_or_a_spec_is_ever_stored_told_or_logged(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("THE_TOKEN", "t0ken-value")
    told: list[str] = []

    class Listener:
        @hookimpl
        def on_event(self, event: Event) -> None:
            told.append(event.model_dump_json())

    async def work() -> None:
        settings = paper_settings(token={"env": "THE_TOKEN"})
        with caplog.at_level(logging.DEBUG):
            async with AgoraClient(home, settings=settings, extensions=[Listener()]) as client:
                handle = await client.dispatch(command=("true",), secrets={"KEY": "s3cret-value"})
                told.append(repr(handle) + repr(handle.record) + repr(client.targets()))
                paper.FAILS["stop"] = ProviderError("the backend is unwell")
                told.append((await handle.cancel()).model_dump_json())
                with pytest.raises(DispatchConflict) as conflict:
                    await client.dispatch(command=("false",), secrets={"KEY": "s3cret-value"}, id=handle.id)
                told.append(str(conflict.value))
                with pytest.raises(InvalidRequest) as invalid:
                    await client.dispatch(command=(), secrets={"KEY": "s3cret-value\0"})
                told.append(str(invalid.value))

    run(work())
    with closing(sqlite3.connect(home / "agora.db")) as connection:
        told += connection.iterdump()
    everything = "\n".join([*told, caplog.text])
    assert "KEY" in everything
    assert "THE_TOKEN" in everything
    assert "s3cret-value" not in everything
    assert "t0ken-value" not in everything
    assert not [path for path in home.rglob("*") if path.is_file() and b"s3cret-value" in path.read_bytes()]


# --- targets -------------------------------------------------------------------------------------------------


def test_a_target_of_the_same_name_that_is_another_backend_is_an_error_while_something_runs_there(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def first() -> None:
        async with AgoraClient(home, settings=paper_settings(backend="paper-1")) as client:
            await client.dispatch(command=("true",), id="d1")

    async def second() -> None:
        async with AgoraClient(home, settings=paper_settings(backend="paper-2")) as client:
            with pytest.raises(ConfigError, match=r"'paper' now means backend paper-2.*run on paper-1.*another name"):
                await client.dispatch(command=("true",), id="d2")
            assert [record.id for record in await client.list()] == ["d1"], "nothing was recorded"
            result = await client.cancel("d1")
            assert (result.outcome, result.delivered) == (Outcome.STOPPING, True), "by the target as it was stored"
            paper.ENDS["d1"] = Observation(phase=Phase.ENDED, exit_code=0)
            await client.wait("d1", timeout=40)
            await client.dispatch(command=("true",), id="d2")

    async def third() -> None:
        async with AgoraClient(home, settings=Settings(supervisor=False)) as client:
            result = await client.cancel("d2")
            assert (result.outcome, result.delivered) == (Outcome.STOPPING, True), "without the target configured"

    run(first())
    run(second())
    run(third())


def test_a_provider_that_is_gone_leaves_a_recorded_request_that_says_why(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def dispatch() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            await client.dispatch(command=("true",), id="d1")

    heard: list[str] = []

    class Audit:
        @hookimpl
        def on_event(self, event: Event) -> None:
            heard.append(event.type.value)

    async def work() -> None:
        async with AgoraClient(home, settings=Settings(supervisor=False), extensions=[Audit()]) as client:
            result = await client.cancel("d1")
            assert (result.outcome, result.delivered) == (Outcome.STOPPING, False)
            assert "dispatch.cancel_requested" in heard
            assert result.error is not None
            assert result.error.type == "target_missing"
            assert "paper_provider" in result.error.message
            assert (await client.get("d1")).state is State.STOPPING
            assert (await client.cancel("nobody")).outcome is Outcome.NOT_FOUND

    run(dispatch())
    sys.modules.pop("paper_provider")
    sys.path.remove(str(Path(paper.__file__).parent))
    run(work())
    sys.modules["paper_provider"] = paper


# --- submits -------------------------------------------------------------------------------------------------


def test_one_id_and_spec_is_one_dispatch_and_another_spec_is_a_conflict(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            handles = await asyncio.gather(*(client.dispatch(command=("true",), id="d1") for _ in range(20)))
            assert {handle.id for handle in handles} == {"d1"}
            assert paper.STARTED == ["d1"]
            with pytest.raises(DispatchConflict):
                await client.dispatch(command=("false",), id="d1")
            await client.cancel("d1")
            paper.ENDS["d1"] = Observation(phase=Phase.ENDED, exit_code=0)
            await client.wait("d1", timeout=40)
            again = await client.dispatch(command=("true",), id="d1")
            assert again.record.state is State.CANCELLED
            assert paper.STARTED == ["d1"], "a cancelled id is never used again"

    run(work())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SubmitRefused("no such image", reason="image_missing"), "image_missing"),
        (Vetoed("not on a Friday"), "vetoed"),
    ],
)
def test_a_definite_refusal_is_a_failed_record_with_the_reason(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, error: Exception, reason: str
) -> None:
    class Veto:
        @hookimpl(wrapper=True)
        def dispatch(self) -> Generator[None, Any, Any]:
            if isinstance(error, Vetoed):
                raise error
            return (yield)

    async def work() -> None:
        paper.FAILS["dispatch"] = error
        async with AgoraClient(home, settings=paper_settings(), extensions=[Veto()]) as client:
            handle = await client.dispatch(command=("true",))
            assert (handle.record.state, handle.record.reason) == (State.FAILED, reason)
            assert handle.record.confirmed is True
            with pytest.raises(DispatchFailed, match=reason):
                await handle.result()

    run(work())
    assert paper.STARTED == []


def test_a_vetoed_stop_is_recorded_undelivered_with_the_reason(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    class Veto:
        @hookimpl(wrapper=True)
        def stop(self) -> Generator[None, Any, Any]:
            raise Vetoed("change freeze")
            yield

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings(), extensions=[Veto()]) as client:
            result = await (await client.dispatch(command=("true",))).cancel()
            assert (result.outcome, result.delivered) == (Outcome.STOPPING, False)
            assert result.error is not None
            assert (result.error.type, result.error.message) == ("vetoed", "change freeze")

    run(work())
    assert paper.STOPPED == []


def test_a_submit_without_an_answer_is_told_and_found_by_its_mark(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, caplog: Any
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            paper.FAILS["dispatch"] = Unreachable("connection reset")
            handle = await client.dispatch(command=("true",), id="d1")
            assert (handle.record.state, handle.record.reachable) == (State.SUBMITTED, False)
            assert "dispatch d1 is not started yet and tried again: connection reset" in caplog.messages
            paper.STARTED.append("d1")
            await client.reconcile()
            record = await handle.get()
            assert (record.state, record.reachable) == (State.RUNNING, True)
            assert paper.STARTED == ["d1"], "never sent a second time"

    run(work())


def test_a_dispatch_of_which_nothing_was_sent_is_cancelled_at_once(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            paper.FAILS["dispatch"] = paper.FAILS["find"] = Unreachable("connection refused", sent=False)
            handle = await client.dispatch(command=("true",), id="d1")
            assert (handle.record.state, handle.record.reachable) == (State.SUBMITTED, False)
            result = await handle.cancel(reason=REASON)
            assert (result.outcome, result.delivered) == (Outcome.CANCELLED, None)
            record = await client.get("d1", refresh=False)
            assert (record.state, record.confirmed, record.reason) == (State.CANCELLED, True, "never_submitted")
            paper.FAILS.clear()
            await client.reconcile()
            assert paper.STARTED == [], "it is never sent any more"

    run(work())


# --- the end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (DispatchCancelled, State.CANCELLED),
        (DispatchFailed, State.FAILED),
        (DispatchTimedOut, State.TIMED_OUT),
        (DispatchLost, State.LOST),
    ],
)
def test_result_raises_with_record_and_cause_and_wait_never_does(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run, kind: type[DispatchEnded], state: State
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings(), actor="ann") as client:
            handle = await client.dispatch(command=("true",), id="d1", timeout=1 if state is State.TIMED_OUT else 600)
            if state is State.LOST:
                await client._opened.store.apply("d1", LostAfter())
            else:
                if state is State.CANCELLED:
                    await handle.cancel(reason=REASON)
                if state is State.TIMED_OUT:
                    await client._opened.store.apply("d1", Noted("waits"))
                    events = client.events("d1", follow=True)
                    async for event in events:
                        if event.type.value == "dispatch.stopping":
                            break
                    await events.aclose()  # type: ignore[attr-defined]
                paper.ENDS["d1"] = Observation(phase=Phase.ENDED, exit_code=3)
            record = await handle.wait(timeout=40)
            assert record.state is state
            with pytest.raises(kind) as raised:
                await handle.result()
            assert raised.value.record == record
            assert raised.value.cause == record.cause
            assert not isinstance(raised.value, asyncio.CancelledError)
            assert "d1" in str(raised.value)
            if state is State.CANCELLED:
                assert record.cause is not None
                assert (record.cause.actor, record.cause.reason) == ("ann", REASON)
                assert REASON in str(raised.value)
            if state is State.TIMED_OUT:
                assert record.cause is not None
                assert record.cause.policy == "timeout"
            assert (record.cause is None) == (state in (State.FAILED, State.LOST))

    run(work())


def test_cancelling_the_waiter_does_not_cancel_the_dispatch(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            handle = await client.dispatch(command=("true",), id="d1")
            for verb in (handle.wait, handle.result):
                waiting = asyncio.create_task(verb())
                with pytest.raises(TimeoutError):
                    await handle.wait(timeout=0.05)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            record = await handle.get()
            assert (record.state, record.cause) == (State.RUNNING, None)
            paper.ENDS["d1"] = Observation(phase=Phase.ENDED, exit_code=0)
            assert (await handle.result(timeout=40)).state is State.SUCCEEDED

    run(work())
    assert paper.STOPPED == []


def test_cancelling_who_dispatches_leaves_a_whole_dispatch(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            paper.SILENT.add("dispatch")
            asking = asyncio.create_task(client.dispatch(command=("true",), id="d1"))
            store = client._opened.store
            async with store.pulse.listen() as ear:
                while not [record for record in await client.list() if record.state is State.SUBMITTED]:
                    await ear.wait(1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            paper.SILENT.clear()
            paper.RELEASE.set()
        async with AgoraClient(home, settings=paper_settings()) as client:
            record = await client.get("d1")
            assert (record.state, record.cause) == (State.RUNNING, None)

    run(work())


def test_a_late_result_is_a_note_and_the_state_stays(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings()) as client:
            handle = await client.dispatch(command=("true",), id="d1")
            await handle.cancel(reason=REASON)
            paper.ENDS["d1"] = Observation(phase=Phase.ENDED, exit_code=143)
            before = await handle.wait(timeout=40)
            await client._opened.store.apply("d1", Seen(Observation(phase=Phase.ENDED, exit_code=0)))
            after = await handle.get()
            assert after.model_copy(update={"notes": ()}) == before.model_copy(update={"notes": ()})
            assert [(note.type, note.data) for note in after.notes] == [
                *[(note.type, note.data) for note in before.notes],
                ("late_result", {"exit_code": 0}),
            ]
            events = [event.type.value async for event in handle.events()]
            assert events.count("dispatch.terminated") == 1

    run(work())


# --- one reason, everywhere ----------------------------------------------------------------------------------


def test_the_same_reason_is_in_store_events_provider_exception_listener_and_command_line(
    paper: Any, paper_settings: MakeSettings, home: Path, run: Run
) -> None:
    audit: list[Event] = []

    class Audit:
        @hookimpl
        def on_event(self, event: Event) -> None:
            audit.append(event)

    async def work() -> DispatchCancelled:
        async with AgoraClient(home, settings=paper_settings(), actor="ann", extensions=[Audit()]) as client:
            handle = await client.dispatch(command=("true",), id="d1")
            result = await handle.cancel(reason=REASON)
            assert result.cause is not None
            assert result.cause.reason == REASON
            paper.ENDS["d1"] = Observation(phase=Phase.ENDED, exit_code=0)
            with pytest.raises(DispatchCancelled) as raised:
                await handle.result(timeout=40)
            return raised.value

    raised = run(work())
    found: dict[str, Any] = {"exception": raised.cause, "record": raised.record.cause, "backend": paper.STOPPED[0][2]}
    store = Store(home)
    found["store"] = run(store.read("d1")).cause
    for event in run(store.events("d1")):
        if event.type.value in ("dispatch.cancel_requested", "dispatch.terminated"):
            found[event.type.value] = event.data["cause"]
    store.close()
    for event in audit:
        if "cause" in event.data:
            found[f"audit of {event.type.value}"] = event.data["cause"]
    for line in ("show --json d1", "events --json d1"):
        done = subprocess.run(
            [sys.executable, "-m", "agora", "--home", str(home), *line.split()], capture_output=True, text=True,
            check=True, timeout=50,
        )  # fmt: skip
        causes = [one for text in done.stdout.splitlines() if (one := cause_in(json.loads(text)))]
        assert causes
        found.update({f"{line} {number}": cause for number, cause in enumerate(causes)})
    plain = {where: one if isinstance(one, dict) else one.model_dump(mode="json") for where, one in found.items()}
    assert len(plain) >= 10
    first = plain["store"]
    assert (first["actor"], first["via"], first["reason"]) == ("ann", "api", REASON)
    assert {where: one for where, one in plain.items() if one != first} == {}


def cause_in(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the cause of a record or of an event in JSON."""
    found: dict[str, Any] | None = value.get("cause") or value.get("data", {}).get("cause")
    return found


# --- shape ---------------------------------------------------------------------------------------------------


def verbs(kind: type) -> dict[str, inspect.Signature]:
    """Return the public methods of a class."""
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("blocking", "original"), [(BlockingClient, AgoraClient), (BlockingHandle, DispatchHandle)])
def test_the_blocking_twin_has_every_verb_with_the_same_parameters(blocking: type, original: type) -> None:
    asynchronous, twin = verbs(original), verbs(blocking)
    assert set(asynchronous) == set(twin)
    for name, signature in asynchronous.items():
        theirs = [(p.name, p.kind, p.default) for p in signature.parameters.values()]
        assert [(p.name, p.kind, p.default) for p in twin[name].parameters.values()] == theirs, name
    if blocking is BlockingClient:
        assert inspect.signature(blocking).parameters.keys() == inspect.signature(original).parameters.keys()


def test_a_handle_has_the_verbs_of_one_dispatch() -> None:
    assert set(verbs(DispatchHandle)) == {"get", "cancel", "wait", "result", "events", "logs", "spend"}
    assert {"dispatch", "cancel", "get", "list", "events", "logs", "wait", "result", "reconcile", "reap"} <= set(
        verbs(AgoraClient)
    )


def test_the_blocking_twin_works(paper: Any, paper_settings: MakeSettings, home: Path) -> None:
    with BlockingClient(home, settings=paper_settings()) as client:
        handle = client.dispatch(command=("true",), id="d1")
        assert handle.get().state is State.RUNNING
        assert handle.cancel(reason=REASON).outcome is Outcome.STOPPING
        paper.ENDS["d1"] = Observation(phase=Phase.ENDED, exit_code=0)
        assert handle.wait(timeout=40).state is State.CANCELLED
        with pytest.raises(DispatchCancelled):
            handle.result()
        assert [event.sequence for event in handle.events()] == list(range(1, 7))
        assert b"".join(chunk.data for chunk in handle.logs()) == b"hello\n"
        assert client.resolve("d") == "d1"


def test_leaving_the_blocking_twin_hangs_no_longer_than_its_bound(
    home: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    released, close = threading.Event(), Store.close

    def hang(store: Store) -> None:
        released.wait(60)
        close(store)

    monkeypatch.setattr(Store, "close", hang)
    monkeypatch.setattr(portal, "CLOSE_SECONDS", 0.5)
    before = set(threading.enumerate())
    try:
        with pytest.raises(AgoraError, match="still being left"), BlockingClient(home) as client:
            assert client.list() == []
    finally:
        released.set()
    eventually(lambda: not set(threading.enumerate()) - before)


def test_states_are_listed_by_their_names_and_ages_are_checked(
    home: Path, store: Store, make_entry: Callable[..., Entry]
) -> None:
    for id, state in (("d1", State.CANCELLED), ("d2", State.LOST), ("d3", State.FAILED)):
        entry = make_entry(id, state=state, confirmed=True)
        store._writer.submit(partial(rows.insert, entry=entry)).result(30)
    with BlockingClient(home) as client:
        assert {record.id for record in client.list(states=["cancelled", State.LOST])} == {"d1", "d2"}
        with pytest.raises(InvalidRequest, match="states: 'killed' is not a valid State; there are: pending, sub"):
            client.list(states=["killed"])
        for alone in ("cancelled", State.CANCELLED):
            with pytest.raises(InvalidRequest, match=r"give a list, like \['cancelled'\]"):
                client.list(states=alone)
        for wrong in (timedelta(days=-5), -5):
            with pytest.raises(InvalidRequest, match="older_than"):
                client.prune(cast("timedelta", wrong))
            with pytest.raises(InvalidRequest, match="older_than"):
                client.list(older_than=cast("timedelta", wrong))
        assert len(client.list()) == 3
        assert client.wait("d1", timeout=0).state is State.CANCELLED, "what is over needs no time"


def test_no_end_of_a_dispatch_is_taken_for_a_cancellation_of_the_event_loop() -> None:
    for kind in (DispatchCancelled, DispatchFailed, DispatchTimedOut, DispatchLost):
        assert not issubclass(kind, asyncio.CancelledError | TimeoutError)
        assert issubclass(kind, Exception)


def test_importing_agora_imports_nothing_heavy_and_every_public_name_is_there() -> None:
    code = (
        "import sys, agora\n"
        "heavy = {'pydantic', 'anyio', 'pluggy', 'sqlite3', 'aiosql', 'rich', 'asyncio', 'importlib.metadata'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from agora import *\n"
        "assert AgoraClient and Spec and hookimpl\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=50)
    assert all(getattr(agora, name) is not None for name in agora.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = agora.nothing


def test_logs_are_json_lines_with_the_dispatch_id() -> None:
    def line(message: str, *arguments: object) -> dict[str, Any]:
        record = logging.LogRecord("agora.x", logging.WARNING, "f", 1, message, arguments, None)
        found: dict[str, Any] = json.loads(JsonFormatter().format(record))
        return found

    assert line("dispatch %s: a step failed", "abc-1")["dispatch"] == "abc-1"
    assert line("dispatch abc-1 is gone")["dispatch"] == "abc-1"
    assert "dispatch" not in line("nothing in particular")
    assert line("größe %d", 3)["message"] == "größe 3"
