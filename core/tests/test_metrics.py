"""What happened is counted, once, and a counter that fails keeps nothing from happening."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agora import AgoraClient, CancelResult, Event, EventType, Outcome, State, hookimpl
from agora.config import Settings
from agora.metrics import BUCKETS, Metrics
from agora.model.ids import new_dispatch_id
from agora.model.observation import Observation, Phase

Run = Callable[..., Any]


def counts(metrics: Metrics) -> dict[str, float]:
    """The page, read as its format says: a name with its labels, a blank, a number."""
    lines = metrics.text().splitlines()
    assert metrics.text().endswith("\n")
    found = {}
    for line in lines:
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) \w+ .+", line)
            continue
        matched = re.fullmatch(r'(\w+(?:\{\w+="[^"]+"\})?) ([0-9.e+-]+)', line)
        assert matched, line
        found[matched[1]] = float(matched[2])
    return found


def test_the_counts_are_those_of_what_was_done(
    paper: Any, paper_settings: Callable[..., Settings], home: Path, run: Run
) -> None:
    metrics = Metrics()

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings(), extensions=[metrics]) as client:
            assert (await client.cancel(new_dispatch_id())).outcome is Outcome.NOT_FOUND
            assert counts(metrics)['agora_cancel_requests_total{outcome="not_found"}'] == 1
            assert not [name for name in counts(metrics) if name.startswith("agora_dispatch_completed_total")]
            parent = await client.dispatch(command=("true",), id="above")
            await client.dispatch(command=("true",), id="below", parent=parent.id)
            await client.dispatch(command=("true",), id="good")
            await parent.cancel(reason="enough")
            await parent.cancel(reason="enough")
            paper.ENDS["above"] = Observation(phase=Phase.ENDED, exit_code=0, forced=True, evidence="proven")
            for id in ("below", "good"):
                paper.ENDS[id] = Observation(phase=Phase.ENDED, exit_code=0)
            states = [(await client.wait(id, timeout=20)).state for id in ("above", "below", "good")]
            assert states == [State.CANCELLED, State.CANCELLED, State.SUCCEEDED]

    run(work())
    told = counts(metrics)
    assert {name: count for name, count in told.items() if not name.startswith("agora_stop_seconds")} == {
        'agora_dispatch_completed_total{outcome="cancelled"}': 2,
        'agora_dispatch_completed_total{outcome="succeeded"}': 1,
        'agora_cancel_requests_total{outcome="not_found"}': 1,
        'agora_cancel_requests_total{outcome="stopping"}': 2,
        'agora_cancel_requests_total{outcome="already_stopping"}': 1,
        'agora_stops_requested_total{policy="none"}': 1,
        'agora_stops_requested_total{policy="parent_cancelled"}': 1,
        "agora_forced_kills_total": 1,
        "agora_unconfirmed_ends_total": 0,
    }
    assert told["agora_stop_seconds_count"] == 2
    assert told["agora_stop_seconds_sum"] > 0
    within = [told[f'agora_stop_seconds_bucket{{le="{bound:g}"}}'] for bound in BUCKETS]
    assert within == sorted(within)
    assert within[-1] == 2


def test_an_extension_that_fails_to_hear_an_answer_changes_nothing(
    paper: Any, paper_settings: Callable[..., Settings], home: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @hookimpl
        def on_cancel(self, result: CancelResult) -> None:
            raise RuntimeError("cannot count")

        @hookimpl
        def on_event(self, event: Event) -> None:
            raise RuntimeError("cannot count")

    metrics = Metrics()

    async def work() -> None:
        async with AgoraClient(home, settings=paper_settings(), extensions=[Broken(), metrics]) as client:
            handle = await client.dispatch(command=("true",))
            assert (await handle.cancel()).outcome is Outcome.STOPPING
            paper.ENDS[handle.id] = Observation(phase=Phase.ENDED, exit_code=0)
            assert (await handle.wait(timeout=20)).state is State.CANCELLED
            assert EventType.TERMINATED in [event.type async for event in handle.events()]

    run(work())
    assert counts(metrics)['agora_cancel_requests_total{outcome="stopping"}'] == 1
    assert counts(metrics)['agora_dispatch_completed_total{outcome="cancelled"}'] == 1
    assert "failed to hear" in caplog.text
