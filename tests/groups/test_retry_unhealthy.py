"""What hung is tried again where that was asked for; what anybody wanted to end never is."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora import AgoraClient, DispatchCancelled, Outcome, State
from agora.client import combinators
from agora.client.combinators import UNHEALTHY
from agora.engine.carry import _POLICIES
from agora.errors import DispatchEnded
from agora.model.cause import Cause, Via
from agora.model.record import Record

from tests.groups.conftest import alive, has, sleeper, spec, until

pytestmark = [pytest.mark.backend("local"), pytest.mark.anyio]
Open = Callable[[], AgoraClient]

#: Hangs when it is run for the first time, and works from the second time on.
FLAKY = """
import pathlib, sys, time
from agora.worker import BlockingWorker
with BlockingWorker() as worker:
    try:
        pathlib.Path(sys.argv[1]).touch(exist_ok=False)
    except FileExistsError:
        sys.exit(0)
    time.sleep(600)
"""


def flaky(path: Path, **fields: Any) -> dict[str, Any]:
    """A member that hangs in its first attempt."""
    return spec([sys.executable, "-c", FLAKY, str(path)], heartbeat_timeout=4, **fields)


async def test_what_hung_is_tried_again_after_its_end_and_the_same_call_gives_the_same_answer(
    client: Open, tmp_path: Path
) -> None:
    async with client() as agora:
        member = flaky(tmp_path / "began")
        record = await agora.retry(member, attempts=3, key="flaky", unhealthy=True)
        assert (record.id, record.state) == ("flaky-1", State.SUCCEEDED)
        first = await agora.get("flaky-0")
        assert first.cause is not None
        assert (first.state, first.cause.policy, first.confirmed) == (State.CANCELLED, "missed_heartbeats", True)
        assert not alive(first)
        assert first.ended_at is not None
        assert record.submitted_at is not None
        assert first.ended_at <= record.submitted_at
        # What was decided stands, whatever the second call says.
        for unhealthy in (True, False):
            again = await agora.retry(member, attempts=3, key="flaky", unhealthy=unhealthy)
            assert again.id == "flaky-1"
        assert len(await agora.list()) == 2


async def test_without_being_asked_for_it_is_not_tried_again_and_attempts_are_bounded(
    client: Open, tmp_path: Path
) -> None:
    async with client() as agora:

        async def unasked() -> None:
            for unhealthy in (False, True):
                with pytest.raises(DispatchCancelled) as raised:
                    await agora.retry(flaky(tmp_path / "began"), attempts=3, key="once", unhealthy=unhealthy)
                assert raised.value.record.id == "once-0", "of one attempt it is decided once"

        async def bounded() -> None:
            silent = spec(sleeper(), silence_timeout=2)
            with pytest.raises(DispatchCancelled) as raised:
                await agora.retry(silent, attempts=2, key="twice", unhealthy=True)
            assert raised.value.record.id == "twice-1"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(unasked)
            tasks.start_soon(bounded)
        records = {record.id: record for record in await agora.list()}
        policies = {id: record.cause.policy for id, record in records.items() if record.cause}
        silent = {"twice-0": "output_silence", "twice-1": "output_silence"}
        assert policies == {"once-0": "missed_heartbeats", **silent}
        assert not any(alive(record) for record in records.values())


@pytest.mark.parametrize("who", ["person", "budget"])
async def test_what_anybody_or_a_budget_ended_is_never_tried_again(client: Open, who: str) -> None:
    async with client() as agora:
        raised: list[DispatchCancelled] = []

        async def retry() -> None:
            member = spec(sleeper(), heartbeat_timeout=60, budget={"tokens": 1})
            with pytest.raises(DispatchCancelled) as error:
                await agora.retry(member, attempts=3, key="step", unhealthy=True)
            raised.append(error.value)

        with anyio.fail_after(90):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(retry)
                await until(lambda: has(agora, 1))
                if who == "person":
                    # Somebody may call it as they like; who asked is what counts.
                    cause = Cause(actor="ann", via=Via.API, policy="missed_heartbeats")
                    await agora.cancel("step-0", cause=cause)
                else:
                    await agora.spend("step-0", tokens=2)
        [error] = raised
        assert error.cause is not None
        assert (error.cause.actor, error.cause.policy) == (
            ("ann", "missed_heartbeats") if who == "person" else ("agora", "budget")
        )
        assert [record.id for record in await agora.list()] == ["step-0"]


@pytest.mark.parametrize("ends_by", [{"silence_timeout": 2}, {"timeout": 1}])
async def test_what_somebody_cancels_while_a_policy_stops_it_is_never_tried_again(
    client: Open, ends_by: dict[str, int]
) -> None:
    deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
    async with client() as agora:
        raised: list[DispatchEnded] = []

        async def retry() -> None:
            with pytest.raises(DispatchEnded) as error:
                await agora.retry(spec(deaf, **ends_by), attempts=3, key="step", unhealthy=True)
            raised.append(error.value)

        async def stopping() -> bool:
            return len(await agora.list(states=[State.STOPPING])) == 1

        with anyio.fail_after(90):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(retry)
                await until(stopping)
                for _ in range(2):
                    answer = await agora.cancel("step-0", reason="leave it")
                    assert answer.outcome is Outcome.ALREADY_STOPPING
        [error] = raised
        assert error.cause is not None
        assert error.cause.via is Via.POLICY  # the first cause stands
        [note] = [note for note in error.record.notes if note.type == "also_cancelled"]
        assert note.data["cause"]["reason"] == "leave it"
        assert [record.id for record in await agora.list()] == ["step-0"]


@pytest.mark.parametrize("policy", [None, "parent_cancelled", *sorted(name for name, _ in _POLICIES.values())])
def test_of_all_policies_only_those_about_signs_of_life_count(policy: str | None) -> None:
    fields: dict[str, Any] = {"id": "d1", "target": "t", "provider": "p", "grace": 2, "timeout": 60}
    cause = Cause(actor="agora", via=Via.POLICY, policy=policy)
    record = Record.model_construct(**fields, state=State.CANCELLED, cause=cause)
    assert combinators._has_failed(record, unhealthy=True) is (policy in UNHEALTHY)
    assert combinators._has_failed(record, unhealthy=False) is False
