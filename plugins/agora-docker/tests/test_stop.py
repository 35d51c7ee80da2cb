"""How a container is stopped, seen through its processes and the engine's events."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora.client import AgoraClient
from agora.errors import Unreachable
from agora.model.cause import Cause, Via
from agora.model.ids import new_dispatch_id
from agora.model.observation import EndedBy, Phase, ReceiptKind
from agora.model.record import Record, State
from agora_docker import looking, stopping
from agora_docker.engine import Engine, NoAnswer
from agora_docker.looking import handle_of
from agora_docker.notes import SentStop
from agora_docker.stopping import NO_TIMER, kills_when_left
from agora_docker.story import KILL, TERM
from agora_docker.testing.proxy import Proxy
from docker_harness import (
    GRACEFUL,
    SLEEP,
    STUBBORN,
    Docker,
    eventually,
    fill_the_ring,
    left_behind,
    listens,
    processes,
    settings,
)

pytestmark = pytest.mark.backend("docker")


def test_one_sigterm_and_its_own_exit_code(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    receipt = docker.stop(handle, 10)
    assert (receipt.kind, receipt.effective_grace) == (ReceiptKind.SIGNALLED, 10)
    seen = docker.end(handle)
    assert (seen.exit_code, seen.forced, seen.evidence, seen.stop_reached) == (9, False, "proven", True)
    assert processes(handle.id) == []
    assert len(docker.story(handle).signals(TERM)) == 1


def test_a_program_without_a_handler_dies_at_once(docker: Docker) -> None:
    handle = docker.asleep()
    begun = time.monotonic()
    docker.stop(handle, 20)
    eventually(lambda: not processes(handle.id))
    assert time.monotonic() - begun < 15
    assert docker.end(handle).exit_code == 143


def test_the_engine_kills_what_ignores_sigterm_and_the_call_is_left(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    begun = time.monotonic()
    assert docker.stop(handle, 8).kind is ReceiptKind.SIGNALLED
    assert time.monotonic() - begun < 7, "the answer does not wait for the end"
    eventually(lambda: not processes(handle.id))
    assert 8 <= time.monotonic() - begun < 8 + 15, "not before its grace is over, and soon after"
    seen = docker.end(handle)
    assert (seen.exit_code, seen.forced, seen.evidence) == (137, True, "proven")
    assert docker.output(handle).count(b"TERM") == 1


def test_the_escalation_survives_the_process_that_asked(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    program = (
        "import os, sys, pathlib\n"
        "from agora.model.cause import Cause, Via\n"
        "from agora.model.observation import Handle\n"
        "from agora.provider import Installation\n"
        "from agora_docker import PROVIDER\n"
        "place = Installation(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "provider = PROVIDER.create('there', PROVIDER.config_model(), place)\n"
        "handle = Handle.model_validate_json(sys.argv[3])\n"
        "print(provider.stop(handle, 6, Cause(actor='tester', via=Via.API)).kind.value, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    arguments = [docker.installation, str(docker.directory), handle.model_dump_json()]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.returncode) == ("signalled\n", -9), done.stderr
    assert processes(handle.id)
    eventually(lambda: not processes(handle.id))
    assert docker.end(handle).forced


def test_twenty_stops_from_two_processes_send_one_sigterm(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    other = docker.another()
    cause_stop = docker.stop
    with ThreadPoolExecutor(20) as threads:
        ours = [threads.submit(cause_stop, handle, 40) for _ in range(10)]
        docker.provider, mine = other, docker.provider
        theirs = [threads.submit(cause_stop, handle, 40) for _ in range(10)]
        kinds = sorted(stop.result().kind for stop in (*ours, *theirs))
    docker.provider = mine
    assert kinds == [ReceiptKind.ALREADY_STOPPING] * 19 + [ReceiptKind.SIGNALLED]
    eventually(lambda: docker.output(handle).count(b"TERM") == 1)
    docker.provider.kill(handle)
    docker.end(handle)
    assert docker.output(handle).count(b"TERM") == 1
    assert len(docker.story(handle).signals(TERM)) == 1


def test_a_longer_second_grace_extends_nothing(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    begun = time.monotonic()
    docker.stop(handle, 2)
    assert docker.stop(handle, 60).effective_grace == 2
    eventually(lambda: not processes(handle.id))
    assert time.monotonic() - begun < 20


def test_an_earlier_deadline_is_a_kill(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    docker.stop(handle, 60)
    assert docker.provider.kill(handle).kind is ReceiptKind.SIGNALLED
    eventually(lambda: not processes(handle.id))
    seen = docker.end(handle)
    assert (seen.exit_code, seen.forced) == (137, True)


def test_a_plain_docker_stop_by_an_operator_honours_the_grace(docker: Docker) -> None:
    handle = docker.started(*STUBBORN, grace=3)
    begun = time.monotonic()
    docker.post(f"/containers/{handle.data['container']}/stop")
    assert 2.5 < time.monotonic() - begun < 9, "neither at once nor after the engine's own 10 s"
    assert docker.look(handle).ended_by is EndedBy.EXTERNAL


def test_a_paused_container_stops(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    docker.post(f"/containers/{handle.data['container']}/pause")
    assert docker.look(handle).phase is Phase.RUNNING
    assert docker.stop(handle, 10).kind is ReceiptKind.SIGNALLED
    assert docker.end(handle).exit_code == 9


def test_a_paused_container_is_killed(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    docker.post(f"/containers/{handle.data['container']}/pause")
    assert docker.provider.kill(handle).kind is ReceiptKind.SIGNALLED
    eventually(lambda: not processes(handle.id))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_container_that_was_only_created_never_starts(docker: Docker, how: str) -> None:
    id = new_dispatch_id()
    handle = handle_of(id, docker.outside.facts().id, left_behind(docker, id))
    assert docker.look(handle).phase is Phase.PENDING
    receipt = docker.stop(handle) if how == "stop" else docker.provider.kill(handle)
    assert receipt.kind is ReceiptKind.ALREADY_EXITED
    assert receipt.observation is not None
    assert receipt.observation.never_started
    assert docker.containers() == []


def test_what_has_ended_is_told_and_not_signalled(docker: Docker) -> None:
    handle = docker.start("sh", "-c", "exit 4")
    docker.end(handle)
    for receipt in (docker.stop(handle), docker.provider.kill(handle)):
        assert receipt.kind is ReceiptKind.ALREADY_EXITED
        assert receipt.observation is not None
        assert (receipt.observation.exit_code, receipt.observation.stop_reached) == (4, False)
    assert docker.story(handle).signals(TERM, KILL) == []


def test_a_stop_after_a_stop_that_was_enough_tells_of_the_end(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    docker.stop(handle, 10)
    docker.end(handle)
    for receipt in (docker.stop(handle, 10), docker.another().stop(handle, 10, Cause(actor="tester", via=Via.API))):
        assert receipt.kind is ReceiptKind.ALREADY_EXITED
        assert receipt.observation is not None
        assert (receipt.observation.exit_code, receipt.observation.stop_reached) == (9, True)


def test_a_container_that_nobody_knows(docker: Docker) -> None:
    handle = handle_of(new_dispatch_id(), docker.outside.facts().id, "0" * 64)
    assert docker.stop(handle).kind is ReceiptKind.NOT_FOUND
    assert docker.provider.kill(handle).kind is ReceiptKind.NOT_FOUND
    assert docker.look(handle).phase is Phase.ABSENT


def test_an_engine_that_does_not_answer_is_no_end(cuttable: Docker, proxy: Proxy) -> None:
    handle = cuttable.started(*STUBBORN)
    proxy.cut()
    for call in (lambda: cuttable.stop(handle), lambda: cuttable.look(handle), cuttable.provider.identity):
        with pytest.raises(Unreachable):
            call()
    assert processes(handle.id)
    proxy.heal()
    assert cuttable.look(handle).phase is Phase.RUNNING
    assert cuttable.stop(handle).kind is ReceiptKind.SIGNALLED


def test_a_handle_of_another_engine_is_unreachable(docker: Docker) -> None:
    handle = docker.asleep()
    elsewhere = handle.model_copy(update={"backend": "ANOTHER:ENGINE"})
    for call in (docker.stop, docker.look, docker.provider.kill, docker.provider.release):
        with pytest.raises(Unreachable, match="ANOTHER:ENGINE"):
            call(elsewhere)
    both = docker.provider.observe([handle, elsewhere.model_copy(update={"id": new_dispatch_id()})])
    assert [(seen.phase, seen.reachable) for seen in both] == [(Phase.RUNNING, True), (Phase.RUNNING, False)]
    assert processes(handle.id)


def test_engines_that_kill_on_a_closed_connection_are_known() -> None:
    bad = ["23.0.0", "23.0.6", "24.0.0", "24.0.2", "24.0.2-1", "23.0.1+azure"]
    good = ["20.10.24+dfsg1", "22.6.0", "23.0.7", "24.0.3", "25.0.0", "28.2.2", "unknown"]
    assert [kills_when_left(version) for version in bad] == [True] * len(bad)
    assert [kills_when_left(version) for version in good] == [False] * len(good)


def test_on_such_an_engine_the_grace_is_left_to_the_supervisor(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "kills_when_left", lambda version: True)
    handle = docker.started(*STUBBORN)
    assert docker.stop(handle, 2).effective_grace == NO_TIMER
    eventually(lambda: docker.output(handle).count(b"TERM") == 1)
    time.sleep(3)  # a grace goes by in which the engine must do nothing
    assert processes(handle.id)
    assert docker.provider.kill(handle).kind is ReceiptKind.SIGNALLED
    eventually(lambda: not processes(handle.id))


def test_a_stop_whose_engine_lost_its_timer_is_sent_again(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_OVERDUE", 0.0)
    handle = docker.started(*STUBBORN)
    # An engine that was restarted knows nothing of a stop: the note alone does.
    with docker.provider._notes.stop(handle.id) as note:
        long_ago = int((docker.outside.facts().earliest() - 60) * 1e9)
        container = str(handle.data["container"])
        note.write(SentStop(container=container, grace=2, at=long_ago, accepted=True))
    assert docker.stop(handle, 2).kind is ReceiptKind.SIGNALLED
    eventually(lambda: not processes(handle.id))


@pytest.mark.serial
def test_an_end_after_a_left_call_proves_nothing_once_the_events_are_forgotten(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may take a stop, end the container and forget the signal before anybody asks for it."""
    handle = docker.started(*GRACEFUL)
    send = Engine.request

    def slow(self: Engine, method: str, path: str, **arguments: Any) -> Any:
        answer = send(self, method, path, **(arguments | ({"seconds": 20} if path.endswith("/stop") else {})))
        if path.endswith("/stop"):
            fill_the_ring(docker)
            raise NoAnswer("it took too long")
        return answer

    monkeypatch.setattr(Engine, "request", slow)
    assert docker.stop(handle).kind is ReceiptKind.SIGNALLED


def test_a_stop_that_cannot_be_noted_is_sent_all_the_same(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = docker.started(*GRACEFUL)
    open_file = os.open

    def full(path: Any, flags: int, *mode: int) -> int:
        if str(path).endswith(".stop"):
            raise OSError(28, "No space left on device")
        return open_file(path, flags, *mode)

    monkeypatch.setattr(os, "open", full)
    assert docker.stop(handle, 10).kind is ReceiptKind.SIGNALLED
    assert docker.end(handle).exit_code == 9


def test_the_notes_are_private(docker: Docker) -> None:
    docker.stop(docker.start(*SLEEP))
    notes = list(docker.directory.rglob("*.stop"))
    assert notes
    assert all(path.stat().st_mode & 0o077 == 0 for path in notes)


def test_an_end_that_came_while_the_stop_was_answered_is_told_with_the_answer(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_LEAVE", 20.0)  # a busy engine may take longer than a quarter of a second
    handle = docker.asleep()
    receipt = docker.stop(handle, 20)
    assert receipt.kind is ReceiptKind.SIGNALLED
    seen = docker.end(handle)
    assert receipt.observation is not None
    assert seen.ended_at is not None
    assert receipt.observation.ended_at is not None
    # The engine tells of an end a moment after it.
    assert timedelta(0) <= receipt.observation.ended_at - seen.ended_at < timedelta(seconds=5)
    assert receipt.observation.model_copy(update={"ended_at": seen.ended_at}) == seen

    async def scenario() -> Record:
        async with AgoraClient(tmp_path / "home", settings=settings(docker), supervisor=False) as client:
            docker.installation = (tmp_path / "home" / "installation").read_text().strip()
            dispatched = await client.dispatch(docker.spec(*SLEEP, grace=20))
            await anyio.to_thread.run_sync(eventually, lambda: listens(dispatched.id))
            assert (await client.cancel(dispatched.id)).delivered
            return await client.get(dispatched.id, refresh=False)  # nobody has looked since

    record = anyio.run(scenario)
    assert (record.state, record.exit_code, record.confirmed) == (State.CANCELLED, 143, True)


@pytest.mark.parametrize(("command", "leave"), [(GRACEFUL, 20.0), (STUBBORN, 2.0)])
def test_a_stop_hears_what_it_causes_and_asks_for_nothing_of_it(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], leave: float
) -> None:
    monkeypatch.setattr(stopping, "_LEAVE", leave)
    monkeypatch.setattr(looking, "_LATE", 20.0)
    handle = docker.started(*command)
    requests: list[str] = []
    send = Engine.request

    def counted(self: Engine, method: str, path: str, **arguments: Any) -> Any:
        what = path.rpartition("/")[2]
        if what != "logs":  # what it had said before
            requests.append(what)
        return send(self, method, path, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "request", counted)
        receipt = docker.stop(handle, 20)
    assert (receipt.kind, requests) == (ReceiptKind.SIGNALLED, ["stop"])
    assert (receipt.observation is None) == (command is STUBBORN)
    assert [event.signal for event in docker.story(handle).events if event.action == "kill"] == [15]


def test_an_end_that_was_heard_is_not_waited_for_again(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine tells of an end some time before it answers the stop."""
    handle = docker.started(*GRACEFUL)
    answered = threading.Event()
    send = Engine.request

    def slow(self: Engine, method: str, path: str, **arguments: Any) -> Any:
        answer = send(self, method, path, **arguments)
        assert not path.endswith("/stop") or answered.wait(60)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(stopping, "_LEAVE", 20.0)
        patch.setattr(Engine, "request", slow)
        receipt = docker.stop(handle, 20)
        assert not processes(handle.id)
    answered.set()
    assert receipt.observation is not None
    assert (receipt.observation.phase, receipt.observation.exit_code) == (Phase.ENDED, 9)
    assert (receipt.observation.forced, receipt.observation.evidence) == (False, "proven")


def test_a_stop_that_nobody_can_listen_to_is_sent_and_proven_all_the_same(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_LEAVE", 20.0)
    handle = docker.asleep()

    @contextlib.contextmanager
    def deaf(self: Engine, *_: Any, **__: Any) -> Iterator[None]:
        raise Unreachable("no more connections")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "stream", deaf)
        receipt = docker.stop(handle, 20)
    assert receipt.observation is not None
    assert (receipt.observation.forced, receipt.observation.evidence) == (False, "proven")


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_the_clock_of_the_engine_is_set_meanwhile(docker: Docker, seconds: float) -> None:
    handle = docker.started(*STUBBORN)
    engine = docker.provider._engine
    before = engine.facts()
    # What was known of its clock is wrong from now on, as after the sleep of its machine.
    engine._facts = dataclasses.replace(before, least=before.least + seconds, most=before.most + seconds)
    assert docker.stop(handle, 2).kind is ReceiptKind.SIGNALLED
    assert docker.end(handle).evidence == "proven"
    assert len(docker.story(handle).signals(TERM)) == 1
    assert abs(engine.facts().most - before.most) < 60
