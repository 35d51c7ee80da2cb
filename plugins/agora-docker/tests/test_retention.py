"""Containers that ended long ago go, only ours, and what is known of their end stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agora.errors import DispatchConflict, ProviderError, Unreachable
from agora.model.observation import Handle, Phase, ReceiptKind
from agora_docker.engine import Engine
from agora_docker.notes import Notes
from docker_harness import (
    GRACEFUL,
    SLEEP,
    CommandLine,
    Docker,
    Sink,
    eventually,
    fill_the_ring,
    processes,
    provider,
    watching,
)

pytestmark = pytest.mark.backend("docker")
FAILS = ("sh", "-c", "exit 7")


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[Docker]:
    """A provider that keeps ended containers for one second."""
    made = Docker(tmp_path, retention=1)
    yield made
    made.clean()


def there(docker: Docker, handle: Handle) -> bool:
    """Whether the engine still has a container."""
    return docker.inspect(handle) is not None


def sweep_until(docker: Docker, condition: Callable[[], object]) -> None:
    """Let it remove what is old until something holds."""

    def swept() -> object:
        docker.provider._sweeper.step()
        return condition()

    eventually(swept)


@pytest.mark.serial
def test_a_watch_removes_what_ended_long_ago_and_its_end_stays(brief: Docker) -> None:
    handle = brief.started(*GRACEFUL)
    brief.stop(handle, 20)
    before = brief.end(handle)
    assert (before.exit_code, before.forced) == (9, False)
    with watching(brief.provider, Sink()):
        eventually(lambda: not there(brief, handle))
    fill_the_ring(brief)
    for one in (brief.provider, brief.another()):
        assert one.observe([handle]) == [before]
        found = one.find(handle.id)
        assert found is not None
        assert (found.data, found.backend) == (handle.data, handle.backend)
    receipt = brief.stop(handle)
    assert (receipt.kind, receipt.observation) == (ReceiptKind.ALREADY_EXITED, before)
    with pytest.raises(ProviderError, match="removed with its container"):
        brief.output(handle)


def test_what_was_removed_is_not_started_again(brief: Docker) -> None:
    handle = brief.start(*FAILS)
    sweep_until(brief, lambda: not there(brief, handle))
    assert brief.start(*FAILS, id=handle.id).data == handle.data
    with pytest.raises(DispatchConflict, match="another spec"):
        brief.start("true", id=handle.id)
    assert brief.containers() == []


def test_release_forgets_what_was_removed(brief: Docker) -> None:
    handle = brief.start(*FAILS)
    sweep_until(brief, lambda: not there(brief, handle))
    brief.provider.release(handle)
    assert [path for path in (brief.directory / "docker").rglob("*") if path.is_file()] == []


def test_only_what_is_ours_and_has_ended_goes(brief: Docker, tmp_path: Path) -> None:
    other = Docker(tmp_path / "other")
    elsewhere = provider(tmp_path, brief.installation)  # the same installation's, by another target
    elsewhere._notes = Notes(tmp_path / "docker" / "elsewhere")
    elsewhere._starter._notes = elsewhere._notes
    image = f"agora-test/{brief.installation}"
    copy = None
    try:
        gone, lives = brief.start(*FAILS), brief.start(*SLEEP)
        theirs, another = other.start(*FAILS), elsewhere.dispatch(_id(), brief.spec(*FAILS), lambda: None)
        brief.end(gone)
        brief.post("/commit", container=gone.data["container"], repo=image)
        copy = brief.outside.request("POST", "/containers/create", json={"Image": image}).json()["Id"]
        brief.post(f"/containers/{copy}/start")
        eventually(lambda: other.look(theirs).phase is Phase.ENDED)
        sweep_until(brief, lambda: not there(brief, gone))
        # Everything else is as old by the next list; it is looked at again and stays.
        late = brief.start(*FAILS)
        sweep_until(brief, lambda: not there(brief, late))
        assert processes(lives.id)
        assert all(there(brief, handle) for handle in (lives, theirs, another))
        assert brief.outside.request("GET", f"/containers/{copy}/json").json()["State"]["Status"] == "exited"
    finally:
        if copy is not None:
            brief.remove(copy)
        brief.outside.request("DELETE", f"/images/{image}", params={"force": "1"}, accept=(404, 409))
        elsewhere.close()
        other.clean()


def _id() -> str:
    from agora.model.ids import new_dispatch_id

    return new_dispatch_id()


def test_nothing_goes_before_its_end_is_noted(brief: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = brief.start(*FAILS)
    brief.end(handle)
    tried = []

    def full(self: Notes, id: str, end: object) -> None:
        tried.append(id)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Notes, "keep_end", full)
        sweep_until(brief, lambda: len(tried) > 1)
        assert there(brief, handle)
    sweep_until(brief, lambda: not there(brief, handle))


def test_a_removal_that_is_cut_off_is_done_later(brief: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = brief.start(*FAILS)
    before = brief.end(handle)
    send, tried = Engine.request, []

    def cut(self: Engine, method: str, path: str, **arguments: Any) -> Any:
        if method == "DELETE":
            tried.append(path)
            raise Unreachable("cut")
        return send(self, method, path, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "request", cut)
        sweep_until(brief, lambda: tried)
        assert there(brief, handle)
        assert brief.look(handle) == before
        assert brief.output(handle) == b""
    sweep_until(brief, lambda: not there(brief, handle))
    assert brief.look(handle) == before


def test_never_keeps_everything(docker: Docker) -> None:
    handle = docker.start(*FAILS)
    docker.end(handle)
    with closing(provider(docker.directory, docker.installation, retention="never")) as keeping:
        keeping._sweeper.step()
        assert keeping._sweeper._next_list == 0.0, "nothing is even listed"
    docker.provider._sweeper.step()
    assert there(docker, handle), "a week is the default"


def test_no_exit_code_is_lost_that_nobody_asked_for(docker: Docker, agora: CommandLine) -> None:
    """One that ended with nobody looking is removed while another one is looked after, and its record is right."""
    agora.configure(retention=1)
    unseen = agora.dispatch("--no-supervisor", "--", *FAILS)
    eventually(lambda: [found["State"] for found in docker.containers()] == ["exited"])
    other = agora.dispatch("--", *SLEEP)
    eventually(lambda: len(docker.containers()) == 1)
    eventually(lambda: processes(other))
    record = agora.record(unseen)
    assert (record["state"], record["exit_code"], record["confirmed"]) == ("failed", 7, True)
