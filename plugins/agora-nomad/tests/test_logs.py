"""Output of both streams, to the last line, and no longer than the task."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from agora.errors import ProviderError, Unreachable
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from agora_nomad import names
from nomad_harness import Hands, eventually

pytestmark = pytest.mark.backend("nomad")


@pytest.fixture(autouse=True)
def _soon_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last line that comes late comes so soon here."""
    monkeypatch.setattr("agora_nomad.logs._LATE_SECONDS", 0.6)


def test_a_follower_hears_both_streams_to_the_last_line(hands: Hands) -> None:
    script = "for i in 1 2 3 4 5 6; do echo out $i; echo err $i >&2; sleep 0.3; done; printf 'no newline'"
    handle = hands.start(script)
    chunks = list(hands.provider.logs(handle, follow=True, since=None, tail=None))
    for kind, prefix, last in (("stdout", "out", "no newline"), ("stderr", "err", "")):
        heard = b"".join(chunk.data for chunk in chunks if chunk.stream == kind).decode()
        assert heard == "".join(f"{prefix} {number}\n" for number in range(1, 7)) + last
    assert any(not chunk.data for chunk in chunks), "a follower is told that there is nothing"


def test_a_follower_waits_for_the_start_and_ends_with_the_task(hands: Hands) -> None:
    handle = hands.start("sleep 1; echo late")
    began = time.monotonic()
    assert hands.output(handle, follow=True) == b"late\n"
    assert time.monotonic() - began < 25
    assert hands.output(handle, follow=True) == b"late\n"


def test_a_follower_of_what_never_starts_ends(hands: Hands) -> None:
    handle = hands.start(command=("/no/such/program",))
    hands.end(handle)
    assert hands.output(handle, follow=True) == b""
    assert hands.output(handle) == b""


def test_the_last_line_of_a_container_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agora_nomad.logs._LATE_SECONDS", 4)
    with NomadEmulator(timing=Timing(docker_log=0.3)) as emulator:
        hands = Hands(emulator, tmp_path, driver="docker")
        handle = hands.start("echo first; sleep 0.5; echo last")
        assert hands.output(handle, follow=True) == b"first\nlast\n"
        hands.provider.close()


def test_the_last_lines(hands: Hands) -> None:
    handle = hands.start("for i in 1 2 3 4 5; do echo $i; done; echo wrong >&2")
    hands.end(handle)
    assert hands.output(handle, tail=2, stream="stdout") == b"4\n5\n"
    assert hands.output(handle, tail=2, stream="stderr") == b"wrong\n"
    assert hands.output(handle, tail=0) == b""
    assert hands.output(handle, tail=2, follow=True, stream="stdout") == b"4\n5\n"


def test_a_connection_that_breaks_loses_and_repeats_nothing(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agora_nomad.logs._LATE_SECONDS", 3)
    handle = hands.start("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done")
    heard = b""
    for number, chunk in enumerate(hands.provider.logs(handle, follow=True, since=None, tail=None)):
        heard += chunk.data
        if number % 2 and b"8" not in heard:  # the very last look, at an end that is known, has one try
            hands.emulator.faults.cut(1, operation="logs")
    assert heard == b"".join(b"%d\n" % number for number in range(1, 9))


def test_a_client_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with NomadEmulator(timing=Timing(heartbeat=0.6)) as emulator:
        hands = Hands(emulator, tmp_path)
        go = tmp_path / "go"
        handle = hands.start(f"echo ready; until [ -e {go} ]; do sleep 0.05; done; echo last")
        hands.ready(handle)
        follower = hands.provider.logs(handle, follow=True, since=None, tail=None)
        heard = next(follower).data
        emulator.node_away()
        go.touch()
        for chunk in follower:
            heard += chunk.data
            if not hands.processes(handle) and not hands.observe(handle).reachable:
                emulator.node_back()
        assert heard == b"ready\nlast\n"
        hands.provider.close()


def test_last_lines_that_cannot_be_had_are_no_end_of_the_output(hands: Hands) -> None:
    handle = hands.start("echo ready; sleep 0.5; echo last")
    hands.end(handle)
    hands.emulator.faults.fail(None, operation="logs", code=404, text="No path to node")
    with pytest.raises(Unreachable, match="No path to node"):
        hands.output(handle, follow=True)


def test_output_that_is_kept_no_longer_is_no_empty_output(hands: Hands) -> None:
    handle = hands.start("echo ready; exit 0")
    hands.end(handle)
    allocation = hands.allocation(handle)
    hands.emulator.faults.fail(None, operation="logs", code=404, text=f'Unknown allocation "{allocation}"')
    with pytest.raises(ProviderError, match="no longer"):
        hands.output(handle)


def test_a_log_that_is_not_there_yet_is_empty(hands: Hands) -> None:
    handle = hands.start("sleep 60")
    hands.running(handle)
    text = 'log entry for task "main" and log type "stdout" not found'
    hands.emulator.faults.fail(None, operation="logs", code=404, text=text)
    assert hands.output(handle) == b""


def test_no_allocation_no_output(hands: Hands) -> None:
    handle = hands.start(options={"memory_mb": 100_000_000})
    eventually(lambda: hands.observe(handle).reason == "unplaceable")
    assert hands.output(handle) == b""
    assert hands.job(handle)["ID"] == names.job_id(handle.id)  # type: ignore[index]
