"""What is said of an end, and what is never said."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agora.errors import InvalidRequest, ProviderError
from agora.model.ids import new_dispatch_id
from agora.model.observation import EndedBy, Handle, Phase, ReceiptKind
from agora_docker import body
from agora_docker.config import DockerConfig
from agora_docker.engine import Engine, EngineError
from agora_docker.story import Happened, Stories, Story, removal
from agora_docker.testing import images
from docker_harness import GRACEFUL, SLEEP, STUBBORN, Docker, eventually, fill_the_ring, processes

pytestmark = pytest.mark.backend("docker")
SECOND = 10**9


@pytest.mark.parametrize("code", [0, 1, 42, 137, 143, 255])
def test_an_exit_code_is_the_workloads_own(docker: Docker, code: int) -> None:
    seen = docker.end(docker.start("sh", "-c", f"exit {code}"))
    assert (seen.exit_code, seen.stop_reached, seen.ended_by, seen.forced) == (code, False, None, None)
    assert seen.started_at is not None
    assert seen.ended_at is not None


def test_out_of_memory(docker: Docker) -> None:
    command = ("sh", "-c", "data=0123456789abcdef; while :; do data=$data$data; done")
    seen = docker.end(docker.start(*command, resources={"memory": 16 << 20}), 30)
    assert (seen.oom, seen.exit_code, seen.reason, seen.ended_by) == (True, 137, "oom_killed", None)


def test_a_kill_by_the_system_is_nobodys_stop(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    for pid in processes(handle.id):
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    seen = docker.end(handle)
    assert (seen.exit_code, seen.ended_by, seen.stop_reached) == (137, None, False)


@pytest.mark.parametrize(("command", "code"), [(GRACEFUL, 9), (SLEEP, 143), (STUBBORN, 137)])
def test_docker_stop_by_somebody_else(docker: Docker, command: tuple[str, ...], code: int) -> None:
    handle = docker.asleep() if command is SLEEP else docker.started(*command)
    docker.post(f"/containers/{handle.data['container']}/stop", t=2 if command is STUBBORN else 20)
    seen = docker.look(handle)
    assert (seen.phase, seen.exit_code, seen.ended_by) == (Phase.ENDED, code, EndedBy.EXTERNAL)


def test_docker_stop_by_somebody_else_of_one_that_leaves_with_success(docker: Docker) -> None:
    handle = docker.started("sh", "-c", "trap 'exit 0' TERM; echo READY; while :; do sleep 0.05; done")
    docker.post(f"/containers/{handle.data['container']}/stop", t=20)
    assert docker.look(handle).ended_by is EndedBy.EXTERNAL


def test_docker_rm_by_somebody_else_is_its_seen_exit(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    docker.remove(str(handle.data["container"]))
    assert processes(handle.id) == []
    seen = docker.look(handle)
    assert (seen.phase, seen.exit_code, seen.ended_by) == (Phase.ENDED, 137, EndedBy.EXTERNAL)
    assert docker.stop(handle).kind is ReceiptKind.ALREADY_EXITED


@pytest.mark.parametrize("code", [0, 7])
def test_docker_rm_of_what_has_ended_is_its_own_exit(docker: Docker, code: int) -> None:
    handle = docker.start("sh", "-c", f"exit {code}")
    eventually(lambda: (docker.inspect(handle) or {})["State"]["Status"] == "exited")
    docker.outside.request("DELETE", f"/containers/{handle.data['container']}")
    seen = docker.look(handle)
    assert (seen.phase, seen.exit_code, seen.stop_reached, seen.ended_by) == (Phase.ENDED, code, False, None)


@pytest.mark.serial
def test_docker_rm_that_no_event_tells_of_any_more_is_absent(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    docker.remove(str(handle.data["container"]))
    fill_the_ring(docker)
    assert docker.look(handle).phase is Phase.ABSENT
    assert docker.provider.find(handle.id) is None
    assert docker.stop(handle).kind is ReceiptKind.NOT_FOUND


@pytest.mark.serial
def test_an_end_that_no_event_tells_of_any_more_keeps_its_code(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    docker.post(f"/containers/{handle.data['container']}/stop", t=20)
    fill_the_ring(docker)
    seen = docker.another().observe([handle])[0]
    assert (seen.phase, seen.exit_code, seen.stop_reached, seen.ended_by) == (Phase.ENDED, 9, None, None)


def test_release_removes_ours_and_only_what_has_ended(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    with pytest.raises(ProviderError, match="not ended"):
        docker.provider.release(handle)
    assert processes(handle.id)
    forged = handle.model_copy(update={"id": new_dispatch_id()})
    with pytest.raises(ProviderError, match="not ours"):
        docker.provider.release(forged)
    with pytest.raises(ProviderError, match="not ours"):
        docker.stop(forged)
    assert docker.output(handle) == b"READY\n"
    docker.stop(handle)
    docker.end(handle)
    docker.provider.release(handle)
    docker.provider.release(handle)
    assert docker.containers() == []
    assert list(docker.directory.rglob("*.sent")) == list(docker.directory.rglob("*.stop")) == []


def test_ends_are_looked_at_some_at_a_time_and_one_that_cannot_be_hides_no_other(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives, *over = [docker.start(*command) for command in (SLEEP, ("true",), ("false",), ("true",))]
    for handle in over:
        docker.end(handle)
    broken = str(over[0].data["container"])
    send, busy, most = Engine.request, [0], [0]

    def slow(self: Engine, method: str, path: str, **arguments: Any) -> Any:
        if broken in path:
            raise EngineError(500, "layer does not exist")
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.3)  # as far away as another continent
        busy[0] -= 1
        return send(self, method, path, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "request", slow)
        seen = docker.provider.observe([lives, *over])
    assert [(one.phase, one.reachable, one.exit_code) for one in seen] == [
        (Phase.RUNNING, True, None),
        (Phase.RUNNING, False, None),
        (Phase.ENDED, True, 1),
        (Phase.ENDED, True, 0),
    ]
    assert most[0] > 1


def test_two_installations_do_not_touch_each_other(docker: Docker) -> None:
    other = Docker(docker.directory / "other")
    try:
        id = new_dispatch_id()
        ours, theirs = docker.start(*SLEEP, id=id), other.start(*SLEEP, id=id)
        assert ours.data != theirs.data
        assert [one.handle.data for one in docker.provider.list_owned(docker.installation)] == [ours.data]
        with pytest.raises(ProviderError, match="not ours"):
            docker.stop(theirs)
        with pytest.raises(ProviderError, match="not ours"):
            docker.provider.kill(theirs)
        docker.stop(ours)
        docker.end(ours)
        assert other.look(theirs).phase is Phase.RUNNING
        (orphan,) = docker.provider.list_owned(other.installation)
        assert docker.stop(orphan.handle).kind is ReceiptKind.SIGNALLED, "one that was asked for by name is stopped"
    finally:
        other.clean()


@pytest.mark.parametrize("ahead", [86_400, -86_400])
def test_the_age_of_what_is_ours_is_by_our_clock(docker: Docker, ahead: float) -> None:
    docker.start(*SLEEP)
    engine = docker.provider._engine
    before = docker.provider.list_owned(docker.installation)[0].created_at
    assert abs(before.timestamp() - time.time()) < 60
    known = engine.facts()
    engine._facts = dataclasses.replace(known, least=known.least + ahead, most=known.most + ahead, dated=False)
    (owned,) = docker.provider.list_owned(docker.installation)
    assert (before - owned.created_at).total_seconds() == pytest.approx(ahead), "its clock shows another day"


# --- secrets -----------------------------------------------------------------------------------------------------

SECRET = 'it\'s s3cret\n\twith "quotes" $HOME `x` \\ and an end \n'
SHOW = 'printf %s "$TOKEN"; echo >&2; while :; do sleep 0.05; done'


@pytest.mark.parametrize("options", [{}, {"user": "1000", "read_only": True}], ids=["plain", "user-read-only"])
def test_a_secret_reaches_the_workload_and_shows_nowhere(docker: Docker, options: dict[str, object]) -> None:
    handle = docker.start("sh", "-c", SHOW, secrets={"TOKEN": SECRET}, env={"OPEN": "$x"}, options=options)
    eventually(lambda: docker.output(handle, "stderr"))
    assert docker.output(handle) == SECRET.encode()
    container = str(handle.data["container"])
    shown = json.dumps(docker.inspect(handle)) + docker.outside.request("GET", f"/containers/{container}/top").text
    shown += json.dumps(docker.containers()) + handle.model_dump_json() + docker.look(handle).model_dump_json()
    assert "s3cret" not in shown
    archive = docker.outside.request("GET", f"/containers/{container}/archive", params={"path": body.SECRETS})
    assert b"s3cret" not in archive.content, "the file is empty once the command runs"
    volumes = [mount["Name"] for mount in (docker.inspect(handle) or {})["Mounts"]]
    docker.provider.kill(handle)
    docker.end(handle)
    docker.provider.release(handle)
    for name in volumes:
        assert docker.outside.request("GET", f"/volumes/{name}", accept=(404,)).status_code == 404


def test_a_secret_for_the_images_own_command(docker: Docker) -> None:
    command = 'CMD ["sh", "-c", "printf %s $TOKEN"]'
    image = images.derive(docker.outside, "agora-test/show:1", command)
    handle = docker.start(image=image, secrets={"TOKEN": "abc"})
    docker.end(handle)
    assert docker.output(handle) == b"abc"


def test_a_secret_as_a_file_needs_no_shell(docker: Docker) -> None:
    # /bin/sh of this image is a directory, as good as none.
    image = images.derive(docker.outside, "agora-test/bare:1", 'RUN ["/bin/busybox", "rm", "/bin/sh"]')
    options = {"secrets": "files", "user": "1000"}
    handle = docker.start("/bin/cat", "/run/secrets/TOKEN", image=image, secrets={"TOKEN": SECRET}, options=options)
    assert docker.end(handle).exit_code == 0
    assert docker.output(handle) == SECRET.encode()
    assert "s3cret" not in json.dumps(docker.inspect(handle))
    lost = docker.end(docker.start("/bin/true", image=image, secrets={"TOKEN": SECRET}))
    assert (lost.exit_code, lost.reason) == (127, "program_not_found"), "variables need /bin/sh, and that is said"


def kept(docker: Docker, handle: Handle) -> bytes:
    """Return what lies where secrets do, by the engine's own copy."""
    path = f"/containers/{handle.data['container']}/archive"
    return docker.outside.request("GET", path, params={"path": body.SECRETS}).content


@pytest.mark.parametrize("secrets", ["files", "environment"])
def test_files_of_secrets_are_empty_after_the_end_while_the_container_stays(docker: Docker, secrets: str) -> None:
    read = {"files": "cat /run/secrets/TOKEN", "environment": 'printf %s "$TOKEN" | tee /run/secrets/copy'}[secrets]
    handle = docker.start("sh", "-c", read, secrets={"TOKEN": SECRET}, options={"secrets": secrets})
    docker.end(handle)
    assert b"s3cret" in kept(docker, handle)
    (mount,) = (docker.inspect(handle) or {})["Mounts"]
    for _ in range(2):
        docker.provider.remove_secrets(handle.id)
        assert b"s3cret" not in kept(docker, handle)
    left = [path.read_bytes() for path in Path(mount["Source"]).iterdir()]
    assert left == [b""] * len(left) != [], "on the disk of the engine"
    assert docker.output(handle).count(b"s3cret") == 1, "nothing else was touched"
    docker.provider.remove_secrets(docker.start("true").id)
    docker.remove(str(handle.data["container"]))
    docker.provider.remove_secrets(handle.id)


def test_a_volume_of_secrets_does_not_outlive_a_container_that_somebody_removed(docker: Docker, tmp_path: Path) -> None:
    handle = docker.start(*SLEEP, secrets={"TOKEN": SECRET}, options={"secrets": "files"})
    (mount,) = (docker.inspect(handle) or {})["Mounts"]
    path = f"/containers/{handle.data['container']}"
    docker.outside.request("DELETE", path, params={"force": "1"})  # without its volumes, as docker rm -f does
    assert b"s3cret" in (Path(mount["Source"]) / "TOKEN").read_bytes()
    other = Docker(tmp_path / "other")
    other.provider.remove_secrets(handle.id)
    other.clean()
    assert Path(mount["Source"]).exists(), "another installation's"
    docker.provider.remove_secrets(handle.id)
    assert not Path(mount["Source"]).exists()


def test_what_a_workload_put_beside_its_secrets_fills_no_memory(docker: Docker) -> None:
    size = 200_000_000
    command = f"head -c {size} /dev/zero > /run/secrets/big; ln -s /etc/passwd /run/secrets/link"
    handle = docker.start("sh", "-c", command, secrets={"TOKEN": SECRET}, options={"secrets": "files"})
    docker.end(handle)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    docker.provider.remove_secrets(handle.id)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024 < size / 2
    (mount,) = (docker.inspect(handle) or {})["Mounts"]
    assert {path.name: path.lstat().st_size for path in Path(mount["Source"]).iterdir() if not path.is_symlink()} == {
        "TOKEN": 0,
        "big": 0,
    }


def test_another_installation_leaves_secrets_alone(docker: Docker, tmp_path: Path) -> None:
    handle = docker.start("true", secrets={"TOKEN": SECRET}, options={"secrets": "files"})
    docker.end(handle)
    other = Docker(tmp_path / "other")
    other.provider.remove_secrets(handle.id)
    other.clean()
    assert b"s3cret" in kept(docker, handle)


# --- refusals before anything starts -----------------------------------------------------------------------------


def _mount(target: str) -> dict[str, str]:
    return {"type": "bind", "source": "/srv", "target": target}


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("fields", "config", "words"),
    [
        ({"image": None}, {}, "image"),
        ({"image": ""}, {}, "image"),
        ({"image": "busybox:1"}, {"require_digest": True}, "pinned"),
        ({"image": f"busybox@{DIGEST}x"}, {"require_digest": True}, "pinned"),
        ({"image": f"busybox@{DIGEST}\n"}, {"require_digest": True}, "pinned"),
        ({"cwd": "relative"}, {}, "absolute"),
        ({"resources": {"memory": 1000}}, {}, "6 MiB"),
        ({"secrets": {"A": "x"}, "options": {"mounts": [_mount("/run/secrets")]}}, {}, "where the secrets"),
        ({"secrets": {"A": "x"}, "options": {"mounts": [_mount("/run//x/../secrets/b/")]}}, {}, "where the secrets"),
        ({"secrets": {"A.B": "x"}}, {}, "A.B"),
        ({"secrets": {"A": "x"}, "env": {"odd-name": "y"}}, {}, "odd-name"),
        ({"secrets": {"../x": "x"}, "options": {"secrets": "files"}}, {}, "no name of a file"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    docker: Docker, fields: dict[str, object], config: dict[str, bool], words: str
) -> None:
    spec = docker.spec(*SLEEP, **fields)
    with pytest.raises(InvalidRequest, match=words):
        body.check(spec, DockerConfig.model_validate(config))
    body.check(docker.spec(*SLEEP, image=f"busybox@{DIGEST}"), DockerConfig(require_digest=True))


# --- what events prove -------------------------------------------------------------------------------------------

START, DIE = Happened(1 * SECOND, "start"), Happened(9 * SECOND, "die", exit_code=137)


def _kill(seconds: float, signal: int) -> Happened:
    return Happened(int(seconds * SECOND), "kill", signal)


def test_what_is_not_in_the_events_is_not_known() -> None:
    assert Story([DIE]).stop_reached is None
    assert Story([START, DIE]).stop_reached is False
    assert Story([START, _kill(5, 15), DIE]).stop_reached is True
    assert Story([START, DIE, _kill(9.5, 15)]).stop_reached is False, "a signal after the end did not reach it"
    assert Story([START, _kill(2, 1), DIE]).stop_reached is False, "SIGHUP is no stop"


def test_a_removal_that_nothing_explains_is_no_success() -> None:
    done = Happened(9 * SECOND, "die", exit_code=0)
    destroyed = Happened(10 * SECOND, "destroy")
    assert removal(Story([done, destroyed]), done) is EndedBy.EXTERNAL, "its start is forgotten, and more"
    assert removal(Story([START, done, destroyed]), done) is None
    assert removal(Story([START, _kill(9, 9), done, destroyed]), done) is EndedBy.EXTERNAL


def test_a_code_of_137_alone_proves_no_force() -> None:
    assert Story([START, DIE]).forced(137) == (None, None)
    assert Story([START, _kill(5, 15), DIE]).forced(137) == (False, "proven")
    assert Story([START, _kill(5, 15), _kill(8, 9), DIE]).forced(137) == (True, "proven")
    assert Story([START, _kill(5, 15), _kill(8, 9), DIE]).forced(7) == (False, "proven")


def test_a_signal_long_before_the_end_did_not_cause_it() -> None:
    died = Happened(500 * SECOND, "die", exit_code=0)
    assert Story([START, _kill(2, 15), died]).ended_by(0, 30) is None
    assert Story([START, _kill(495, 15), died]).ended_by(0, 30) is EndedBy.EXTERNAL
    assert Story([START, _kill(2, 15), died, Happened(501 * SECOND, "stop")]).ended_by(0, 30) is EndedBy.EXTERNAL


def test_stories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agora_docker.story._KEPT", 3)
    stories = Stories()
    for number in range(10):
        stories.add(str(number), START)
    assert [bool(stories.of(str(number)).events) for number in range(10)] == [False] * 7 + [True] * 3
