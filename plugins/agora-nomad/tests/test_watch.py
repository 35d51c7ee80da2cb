"""One event stream for everything: what it says is pushed, what it does not say is healed, and silence is checked."""

from __future__ import annotations

import pytest
from agora.errors import PermissionDenied, Unreachable
from agora.model.observation import Phase
from agora_nomad import names, watch
from nomad_harness import Hands, Sink, eventually, watching

pytestmark = pytest.mark.backend("nomad")


def test_starts_and_ends_are_pushed_for_all_by_one_stream(hands: Hands) -> None:
    sink = Sink()
    before = len(hands.emulator.faults.requests("stream"))
    with watching(hands, sink):
        eventually(lambda: sink.up)
        handles = [hands.start() for _ in range(3)]
        for handle in handles:
            sink.live[handle.id] = handle
        for handle in handles:
            hands.ready(handle)
        eventually(lambda: {sink.last(handle).phase for handle in handles} == {Phase.RUNNING})
        for handle in handles:
            hands.stop(handle)
        eventually(lambda: {sink.last(handle).phase for handle in handles} == {Phase.ENDED})
        assert {sink.last(handle).exit_code for handle in handles} == {42}
    assert sink.up == 1
    assert sink.error is None
    assert len(hands.emulator.faults.requests("stream")) - before == 1


def test_what_came_before_the_stream_is_told_by_a_list(hands: Hands) -> None:
    running, ended = hands.start(), hands.start("exit 5")
    hands.ready(running)
    hands.end(ended)
    sink = Sink()
    sink.live = {running.id: running, ended.id: ended}
    with watching(hands, sink):
        eventually(lambda: sink.last(ended).exit_code == 5)
        assert sink.last(running).phase is Phase.RUNNING
        assert sink.up == 1


def test_a_stream_that_opens_late_loses_nothing(hands: Hands) -> None:
    """A server sends the head of its answer with the first event or heartbeat, which may be 30 s later."""
    handle = hands.start()
    hands.ready(handle)
    hands.emulator.faults.stall(12.0, operation="stream")
    sink = Sink()
    sink.live[handle.id] = handle
    with watching(hands, sink):
        eventually(lambda: sink.up, 10)
        assert sink.last(handle).phase is Phase.RUNNING
        # It ends before the stream stands; the list that follows tells it.
        hands.stop(handle)
        hands.end(handle)
        eventually(lambda: sink.last(handle).exit_code == 42)
    assert sink.error is None


def test_a_watch_that_waits_for_its_stream_can_be_closed(hands: Hands) -> None:
    hands.emulator.faults.stall(60.0, operation="stream")
    sink = Sink()
    with watching(hands, sink) as thread:
        eventually(lambda: sink.up, 30)
        sink.over.set()
        eventually(lambda: not thread.is_alive(), 20)


def test_a_stream_that_breaks_says_so(hands: Hands) -> None:
    sink = Sink()
    with watching(hands, sink) as thread:
        eventually(lambda: sink.up)
        hands.emulator.faults.cut_streams()
        eventually(lambda: not thread.is_alive())
    assert isinstance(sink.error, Unreachable)


@pytest.mark.parametrize("how", ["fail", "forbid", "cut"])
def test_a_stream_that_is_refused_says_so(hands: Hands, how: str) -> None:
    getattr(hands.emulator.faults, how)(None, operation="stream")
    sink = Sink()
    with watching(hands, sink) as thread:
        eventually(lambda: not thread.is_alive())
    assert sink.error is not None
    assert sink.up == 0


def test_a_silent_stream_is_dead(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENCE", 0.7)
    hands.emulator.faults.silence_streams()
    sink = Sink()
    with watching(hands, sink) as thread:
        eventually(lambda: sink.up)
        eventually(lambda: not thread.is_alive())
    assert isinstance(sink.error, Unreachable)


def test_silence_without_the_right_to_hear_is_noticed(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "CHECK_SECONDS", 0.3)
    sink = Sink()
    with watching(hands, sink) as thread:
        eventually(lambda: sink.up)
        hands.emulator.faults.forbid(None)
        eventually(lambda: not thread.is_alive())
    assert isinstance(sink.error, PermissionDenied)


def test_lost_events_leave_a_word_to_ask_for(hands: Hands) -> None:
    sink = Sink()
    with watching(hands, sink):
        eventually(lambda: sink.up)
        hands.emulator.faults.lose_events(1, topic="Job")
        handle = hands.start("exit 3")
        sink.live[handle.id] = handle
        eventually(lambda: handle.id in sink.asked or sink.last(handle).phase is Phase.ENDED)


def test_a_job_that_waits_is_asked_about(hands: Hands) -> None:
    handle = hands.start(options={"memory_mb": 100_000_000})
    sink = Sink()
    sink.live[handle.id] = handle
    with watching(hands, sink):
        eventually(lambda: sink.last(handle).reason == "unplaceable")
        hands.stop(handle)
        # Its end comes without an allocation, so without a push.
        eventually(lambda: handle.id in sink.asked)
    assert hands.end(handle).never_started


def test_a_record_that_goes_is_asked_about_and_never_pushed(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    sink = Sink()
    sink.live[handle.id] = handle
    hands.emulator.faults.hide(names.job_id(handle.id))
    with watching(hands, sink):
        eventually(lambda: handle.id in sink.asked)
    assert handle.id not in sink.seen


def test_others_are_not_told_of(hands: Hands) -> None:
    mine, theirs = hands.start(), hands.start()
    for handle in (mine, theirs):
        hands.ready(handle)
    sink = Sink()
    sink.live = {mine.id: mine, "another": theirs.model_copy(update={"id": "another", "backend": "elsewhere"})}
    with watching(hands, sink):
        eventually(lambda: mine.id in sink.seen)
        hands.stop(theirs)
        hands.end(theirs)
    assert set(sink.seen) == {mine.id}


@pytest.mark.parametrize("line", [b"{", b'{"Events": [{"Topic": "Job"}]}', b'{"Events": [{"Topic": "Job", "Pay', b"[]"])
def test_a_line_that_is_cut_off_breaks_the_stream(line: bytes) -> None:
    with pytest.raises(Unreachable):
        watch.parse(line)


def test_heartbeats_and_other_topics_are_no_events() -> None:
    assert watch.parse(b"{}") == []
    assert watch.parse(b'{"Index": 5, "Events": [{"Topic": "Node", "Payload": {"Node": {}}}]}') == []
    assert watch.parse(b'{"Index": 5, "Events": [{"Topic": "Job", "Payload": {"Job": {"ID": "a"}}}]}') == [
        ("Job", {"ID": "a"})
    ]
