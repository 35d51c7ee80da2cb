"""Whose a dispatch is: who may cancel it, and what a client does for the others."""

import json
import sqlite3
from contextlib import aclosing, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora import (
    AgoraClient,
    BlockingClient,
    DispatchConflict,
    DispatchFailed,
    InvalidRequest,
    NoneSucceeded,
    Outcome,
    State,
    hookimpl,
)
from agora.client.asking import owner_of
from agora.errors import ConfigError, Forbidden
from agora.metrics import Metrics
from agora.model.cancel import CancelResult
from agora.model.cause import Via
from agora.model.observation import Phase
from agora.model.record import Entry
from agora.model.spec import Spec
from agora.testing import FakeClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Use what the client runs on."""
    return "asyncio"


class Trail:
    """Keeps the answers."""

    def __init__(self) -> None:
        self.heard: list[CancelResult] = []

    @hookimpl
    def on_cancel(self, result: CancelResult) -> None:
        """Keep one."""
        self.heard.append(result)


def beside(fake: FakeClient, owner: str, *extensions: object) -> AgoraClient:
    """A client of somebody else on the same store and backend."""
    return AgoraClient(fake.home, settings=fake.settings, owner=owner, extensions=extensions)


def row_of(fake: FakeClient, id: str) -> tuple[Any, ...]:
    """What is written of a dispatch, read beside the client."""
    with closing(sqlite3.connect(fake.home / "agora.db")) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM events WHERE dispatch_id = ?", (id,))
        (row,) = connection.execute("SELECT * FROM dispatches WHERE id = ?", (id,))
    return (count, *row)


# --- cancel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [{}, {"soft": 5}, {"force": True}, {"grace": 2}, {"grace": 0, "force": True}])
async def test_what_belongs_to_somebody_else_is_left_as_it_is(asked: dict[str, Any]) -> None:
    trail, metrics = Trail(), Metrics()
    async with FakeClient(owner="ann") as ann, beside(ann, "bob", trail, metrics) as bob:
        handle = await ann.dispatch(command=["never-run"])
        before = row_of(ann, handle.id)
        answer = await bob.cancel(handle.id, reason="in my way", **asked)
        assert answer.outcome is Outcome.FORBIDDEN
        assert (answer.exit_code, answer.state, answer.cause, answer.delivered) == (5, None, None, None)
        assert answer.error is not None
        assert answer.error.message == "it belongs to ann, and this client acts for bob; nothing was changed"
        assert not answer.error.retryable
        assert row_of(ann, handle.id) == before
        assert ann.backend.workloads[handle.id].phase is Phase.RUNNING, "no stop was sent"
        assert [result.outcome for result in trail.heard] == [Outcome.FORBIDDEN]
        assert 'agora_cancel_requests_total{outcome="forbidden"} 1' in metrics.text()
        assert (await ann.finish(handle.id)).state is State.SUCCEEDED
        assert (await bob.cancel(handle.id)).outcome is Outcome.FORBIDDEN, "before it is told how it ended"
        assert (await ann.cancel(handle.id)).outcome is Outcome.ALREADY_SUCCEEDED


async def test_the_form_is_checked_first_and_what_is_not_there_is_not_found() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob:
        handle = await ann.dispatch(command=["never-run"])
        with pytest.raises(InvalidRequest, match="grace 0"):
            await bob.cancel(handle.id, grace=0)
        assert (await bob.cancel("nobody")).outcome is Outcome.NOT_FOUND


async def test_the_operator_cancels_everything_and_an_owner_nothing_of_the_operators() -> None:
    async with FakeClient() as operator, beside(operator, "ann") as ann:
        nobodys, anns = await operator.dispatch(command=["a"]), await ann.dispatch(command=["b"])
        answer = await ann.cancel(nobodys.id)
        assert answer.outcome is Outcome.FORBIDDEN
        assert answer.error is not None
        assert answer.error.message.startswith("it has no owner, and this client acts for ann")
        for handle in (anns, nobodys):
            assert (await operator.cancel(handle.id)).outcome is Outcome.STOPPING
            assert (await operator.wait(handle.id, timeout=30)).state is State.CANCELLED


async def test_whoever_cancels_its_own_parent_takes_along_what_is_below_it() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob:
        parent = await ann.dispatch(command=["a"])
        child = await bob.dispatch(command=["b"], parent=parent.id)
        assert (await ann.cancel(child.id)).outcome is Outcome.FORBIDDEN
        assert (await bob.cancel(parent.id)).outcome is Outcome.FORBIDDEN
        result = await ann.cancel(parent.id)
        assert [(one.id, one.outcome) for one in result.children] == [(child.id, Outcome.STOPPING)]
        record = await bob.wait(child.id, timeout=30)
        assert record.cause is not None
        assert (record.state, record.owner, record.cause.policy) == (State.CANCELLED, "bob", "parent_cancelled")


async def test_a_policy_is_never_forbidden() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob:
        late = await ann.dispatch(command=["a"], timeout=1)
        record = await bob.wait(late.id, timeout=30)  # who waits carries its deadline out
        assert record.cause is not None
        assert (record.state, record.cause.via, record.cause.policy) == (State.TIMED_OUT, Via.POLICY, "timeout")


# --- dispatch --------------------------------------------------------------------------------------------------


async def test_it_is_written_down_told_and_listed() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob, beside(ann, "") as operator:
        first, second = await ann.dispatch(command=["a"]), await bob.dispatch(command=["a"])
        third = await operator.dispatch(command=["a"])
        assert [handle.record.owner for handle in (first, second, third)] == ["ann", "bob", None]
        assert [record.id for record in await operator.list(owner="ann")] == [first.id]
        assert [record.id for record in await ann.list(owner="bob", live=True)] == [second.id]
        assert len(await ann.list()) == 3, "reading is free"
        [requested, *_] = [event async for event in ann.events(second.id)]
        assert requested.data["owner"] == "bob"
        await bob.cancel(second.id)
        await bob.wait(second.id, timeout=30)
        assert await operator.list(owner="bob", live=True) == []
        assert [record.id for record in await operator.list(owner="bob")] == [second.id]
        assert (await operator.get(second.id)).owner == "bob", "for good"


async def test_an_id_is_one_owners() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob, beside(ann, "") as operator:
        await ann.dispatch(command=["a"], id="same")
        assert (await ann.dispatch(command=["a"], id="same")).id == "same"
        with pytest.raises(DispatchConflict, match="exists for ann, not for bob"):
            await bob.dispatch(command=["a"], id="same")
        with pytest.raises(DispatchConflict, match="exists for ann, not without an owner"):
            await operator.dispatch(command=["a"], id="same")
        with pytest.raises(DispatchConflict, match="another spec"):
            await bob.dispatch(command=["b"], id="same")
        await ann.dispatch(command=["a"], id="key-0")
        with pytest.raises(DispatchConflict, match="for ann, not for bob"):
            await bob.retry({"command": ["a"]}, attempts=2, key="key")
        assert len(await ann.list()) == 2
        assert (await ann.get("same")).state is State.RUNNING


def test_the_workload_is_told_and_its_digest_is_not() -> None:
    spec = Spec(command=("true",), env={"A": "1", "AGORA_OWNER": "else"})
    told = spec.for_owner("ann")
    assert told.env == {"A": "1", "AGORA_OWNER": "ann"}
    assert told.digest() == spec.digest() == Spec(command=("true",), env={"A": "1"}).digest()
    assert spec.for_owner(None) is spec


def test_a_record_of_an_older_agora_has_no_owner() -> None:
    old = Entry(
        id="d1", target="t", provider="p", state=State.PENDING, grace=30, timeout=600,
        requested_at=datetime(2031, 1, 1, tzinfo=UTC), installation="i", spec={}, digest="x",
    )  # fmt: skip
    body = old.model_dump_json(exclude_defaults=True)
    assert "owner" not in json.loads(body)
    read = Entry.model_validate_json(body)
    assert read.owner is None
    assert read.forbids(None) is None
    assert read.forbids("ann") is not None


# --- the name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["a b", "-a", "a/b", "a\n", "ä", "x" * 64, ".", " "])
def test_no_plain_name_is_refused_before_anything_starts(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for client in (AgoraClient, BlockingClient, FakeClient):
        with pytest.raises(InvalidRequest, match="owner is no plain name"):
            client(owner=wrong)
    monkeypatch.setenv("AGORA_OWNER", wrong)
    with pytest.raises(ConfigError, match="AGORA_OWNER is no plain name"):
        AgoraClient()


def test_the_argument_goes_before_the_variable_and_an_empty_one_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert owner_of(None) is None
    monkeypatch.setenv("AGORA_OWNER", "ann")
    assert [owner_of(given) for given in (None, "bob", "")] == ["ann", "bob", None]
    monkeypatch.setenv("AGORA_OWNER", "")
    assert owner_of(None) is None
    assert owner_of("x" * 63) == "x" * 63


async def test_a_configuration_that_cannot_be_read_makes_nobody_the_operator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "agora.toml").write_text("this is no TOML")
    async with FakeClient() as operator:
        handle = await operator.dispatch(command=["a"])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("AGORA_OWNER", "ann")
        async with AgoraClient(operator.home, supervisor=False) as broken:
            assert broken.settings.problem
            assert (await broken.cancel(handle.id)).outcome is Outcome.FORBIDDEN
        assert (await operator.get(handle.id)).state is State.RUNNING


# --- groups ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "with_it"),
    [
        ("race", {}),
        ("join_all_with_timeout", {"timeout": 5}),
        ("join_all", {"owned": True}),
        ("join_all_settled", {"owned": True}),
    ],
)
async def test_a_group_that_could_not_cancel_a_member_starts_nothing(verb: str, with_it: dict[str, Any]) -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob:
        foreign = await ann.dispatch(command=["a"])
        before = row_of(ann, foreign.id)
        with anyio.fail_after(30), pytest.raises(Forbidden, match=rf"{foreign.id}.*belongs to ann.*acts for bob"):
            await getattr(bob, verb)([{"command": ["b"]}, foreign], **with_it)
        assert len(await ann.list()) == 1
        assert row_of(ann, foreign.id) == before, "not even a claim on it was written"


async def test_to_iterate_with_owned_is_the_same() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob:
        foreign = await ann.dispatch(command=["a"])
        async with aclosing(bob.as_completed([foreign], owned=True)) as ended:
            with pytest.raises(Forbidden):
                await anext(ended)
        assert (await ann.get(foreign.id)).state is State.RUNNING


async def test_waiting_for_others_is_free_and_leaving_ends_ones_own_alone() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob:
        foreign, failing = await ann.dispatch(command=["a"]), await bob.dispatch(command=["b"])

        await ann.finish(failing.id, exit_code=3)
        with anyio.fail_after(30), pytest.raises(DispatchFailed):
            await bob.join_all([foreign, failing, {"command": ["c"]}], key="mine")
        assert (await bob.wait("mine-2", timeout=30)).state is State.CANCELLED
        assert (await ann.get(foreign.id)).state is State.RUNNING
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ann.finish, foreign.id)
            settled = await bob.join_all_settled([foreign, failing])
        assert [record.id for record in settled.succeeded] == [foreign.id]


async def test_a_run_of_the_same_name_touches_nobody_elses_members() -> None:
    async with FakeClient(owner="ann") as ann, beside(ann, "bob") as bob, ann.run("shared") as anns:
        member = await anns.dispatch("step", command=["a"])
        before = row_of(ann, member.id)
        with suppress(ZeroDivisionError):
            async with bob.run("shared") as bobs:
                with pytest.raises(DispatchConflict, match="for ann, not for bob"):
                    await bobs.dispatch("step", command=["a"])
                mine = await bobs.dispatch("other", command=["b"])
                answers = {one.id: one.outcome for one in await bobs.cancel_all()}
                assert answers == {member.id: Outcome.FORBIDDEN, mine.id: Outcome.STOPPING}
                raise ZeroDivisionError
        assert row_of(ann, member.id) == before, "not even a claim on it was written"
        assert (await ann.finish(member.id)).state is State.SUCCEEDED


async def test_the_operator_races_anybodys() -> None:
    async with FakeClient() as operator, beside(operator, "ann") as ann:
        handles = [await ann.dispatch(command=["a"]) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(operator.finish, handles[0].id)
            raced = await operator.race(handles)
        assert raced.cancelled == (handles[1].id,)
        with pytest.raises(NoneSucceeded):
            await ann.race(handles[1:], owned=True)
