"""How a dispatch becomes one container, looked at through the engine itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agora.errors import DispatchConflict, StopRequested, SubmitRefused
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase
from agora.model.spec import Spec
from agora_docker import body, image, marks, starting
from agora_docker.config import DockerConfig
from docker_harness import GRACEFUL, SLEEP, STUBBORN, Docker, eventually, left_behind, never, processes

pytestmark = pytest.mark.backend("docker")


def test_the_container_is_what_was_asked_for(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    spec = docker.spec(
        *("sh", "-c", "sleep 300"),
        env={"GREETING": "$HOME ${X:-y} $$"},
        cwd="/tmp",
        grace=17,
        resources={"cpu": 0.5, "memory": 64 << 20},
        options={
            "user": "1000:1000",
            "network": "none",
            "read_only": True,
            "pids_limit": 50,
            "shm_size": 1 << 20,
            "cap_drop": ["ALL"],
            "extra_hosts": {"somewhere": "192.0.2.1"},
            "mounts": [
                {"type": "bind", "source": str(tmp_path / "shared"), "target": "/shared", "read_only": True},
                {"type": "tmpfs", "target": "/scratch", "size": 1 << 20},
            ],
        },
    )
    id = new_dispatch_id()
    handle = docker.provider.dispatch(id, spec, never)
    found = docker.inspect(handle)
    assert found is not None
    config, host = found["Config"], found["HostConfig"]
    assert found["Name"] == f"/{marks.name_of(id, docker.installation)}"
    assert config["Labels"] == {
        "agora.dispatch-id": id,
        "agora.installation": docker.installation,
        "agora.spec-hash": spec.digest(),
    }
    assert (config["Entrypoint"], config["Cmd"] or []) == (["sh", "-c", "sleep 300"], [])
    assert "GREETING=$HOME ${X:-y} $$" in config["Env"]
    assert (config["WorkingDir"], config["User"]) == ("/tmp", "1000:1000")
    assert (config["StopSignal"], config["StopTimeout"], config["Healthcheck"]) == ("SIGTERM", 17, {"Test": ["NONE"]})
    assert (host["Init"], host["AutoRemove"], host["RestartPolicy"]["Name"]) == (True, False, "no")
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 << 20, 50)
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["ShmSize"]) == ("none", True, 1 << 20)
    assert (host["CapDrop"], host["ExtraHosts"]) == (["ALL"], ["somewhere:192.0.2.1"])
    assert {mount["Destination"]: mount["RW"] for mount in found["Mounts"]} == {"/shared": False, "/scratch": True}
    assert handle.backend == docker.outside.facts().id
    assert handle.first is not None
    assert handle.first.phase is Phase.RUNNING


def test_a_gpu_is_asked_for() -> None:
    spec = Spec(command=SLEEP, image="any:1", options={"gpus": -1})
    asked = body.container("an-id", "here", spec, DockerConfig(), "json-file", [])
    assert asked["HostConfig"]["DeviceRequests"] == [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]


def test_output_is_capped_where_the_engine_writes_files(docker: Docker) -> None:
    handle = docker.start(*SLEEP)
    found = docker.inspect(handle)
    assert found is not None
    assert found["HostConfig"]["LogConfig"]["Config"] == {"max-size": "50000000", "max-file": "2"}


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_the_same_dispatch_again_starts_nothing(docker: Docker, ended: bool) -> None:
    id = new_dispatch_id()
    command = ("true",) if ended else SLEEP
    first = docker.start(*command, id=id)
    if ended:
        docker.end(first)
    before = docker.inspect(first)
    again = docker.start(*command, id=id)
    assert again.data == first.data
    assert [found["Id"] for found in docker.containers()] == [first.data["container"]]
    after = docker.inspect(first)
    assert before is not None
    assert after is not None
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"]


def test_twenty_dispatches_of_one_id_at_once_run_it_once(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    mount = {"type": "bind", "source": str(tmp_path / "runs"), "target": "/runs"}
    command = ("sh", "-c", "mktemp /runs/XXXXXX; sleep 300")
    id = new_dispatch_id()
    with ThreadPoolExecutor(20) as threads:
        runs = [threads.submit(docker.start, *command, id=id, options={"mounts": [mount]}) for _ in range(20)]
        handles = {run.result().data["container"] for run in runs}
    assert len(handles) == len(docker.containers()) == 1
    eventually(lambda: list((tmp_path / "runs").iterdir()))
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_another_spec_under_the_same_id_is_a_conflict(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    with pytest.raises(DispatchConflict, match="another spec"):
        docker.start("true", id=handle.id)
    assert docker.look(handle).phase is Phase.RUNNING
    assert docker.output(handle) == b"READY\n"


def test_a_strangers_container_under_our_name_is_a_conflict_and_stays(docker: Docker) -> None:
    id = new_dispatch_id()
    params = {"name": marks.name_of(id, docker.installation)}
    asked = {"Image": docker.image, "Cmd": list(SLEEP)}
    stranger = docker.outside.request("POST", "/containers/create", params=params, json=asked).json()["Id"]
    try:
        with pytest.raises(DispatchConflict, match="not ours"):
            docker.start(*SLEEP, id=id)
        assert docker.provider.find(id) is None
        assert docker.outside.request("GET", f"/containers/{stranger}/json").json()["State"]["Status"] == "created"
    finally:
        docker.remove(stranger)


def test_a_container_that_nobody_started_is_removed_by_find(docker: Docker) -> None:
    id = new_dispatch_id()
    left_behind(docker, id)
    assert docker.provider.find(id) is None
    assert docker.containers() == []


def test_a_container_that_nobody_started_is_replaced_and_never_started(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "_LEFT_BEHIND", 0.3)
    id = new_dispatch_id()
    left = left_behind(docker, id)
    handle = docker.start(*SLEEP, id=id)
    assert handle.data["container"] != left
    assert [found["Id"] for found in docker.containers()] == [handle.data["container"]]


@pytest.mark.parametrize("calls", range(4))
def test_a_stop_before_the_start_leaves_nothing(docker: Docker, calls: int) -> None:
    counted = itertools.count()

    def check() -> None:
        if next(counted) == calls:
            raise StopRequested("enough")

    id = new_dispatch_id()
    try:
        handle = docker.start(*SLEEP, id=id, check=check)
    except StopRequested:
        assert docker.containers() == []
        assert processes(id) == []
    else:
        assert calls == 3, "a dispatch asks before it creates and before it starts"
        assert docker.look(handle).phase is Phase.RUNNING


def test_a_process_that_wakes_up_late_does_not_start_what_was_removed(docker: Docker) -> None:
    """Paused between create and start, it finds its container gone, and a container of the same name running."""
    id = new_dispatch_id()
    other = docker.another()
    calls = itertools.count()

    def check() -> None:
        if next(calls) == 2:
            assert other.find(id) is None
            assert docker.containers() == []
            other.dispatch(id, docker.spec(*SLEEP), never)

    handle = docker.start(*SLEEP, id=id, check=check)
    (found,) = docker.containers()
    assert found["Id"] == handle.data["container"]
    assert len([e for e in docker.story(handle).events if e.action == "start"]) == 1


def _refused(start: Callable[[], object]) -> SubmitRefused:
    with pytest.raises(SubmitRefused) as caught:
        start()
    return caught.value


def test_an_image_that_is_not_there_and_may_not_be_pulled(docker: Docker) -> None:
    error = _refused(lambda: docker.start(*SLEEP, image="nowhere/nothing:1", options={"pull": "never"}))
    assert (error.reason, error.exit_code) == ("image_missing", 125)
    assert "No such image" in str(error)
    assert "the pull policy is never" in str(error)


def test_an_image_that_is_there_for_another_platform_is_pulled_once(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled: list[str | None] = []
    monkeypatch.setattr(image, "pull", lambda engine, name, platform, check, dispatch: pulled.append(platform))
    error = _refused(lambda: docker.start(*SLEEP, options={"platform": "linux/s390x"}))
    assert (error.reason, pulled) == ("image_missing", ["linux/s390x"])
    assert "linux/s390x" in str(error)
    error = _refused(lambda: docker.start(*SLEEP, options={"platform": "linux/s390x", "pull": "never"}))
    assert (error.reason, len(pulled)) == ("image_missing", 1)
    assert docker.containers() == []


def test_a_start_that_the_engine_refuses_leaves_nothing(docker: Docker) -> None:
    error = _refused(lambda: docker.start(*SLEEP, options={"network": "no-such-network"}))
    assert error.reason == "start_failed"
    assert "no-such-network" in str(error)
    assert docker.containers() == []


def test_a_create_that_the_engine_refuses(docker: Docker) -> None:
    mount = {"type": "bind", "source": "/no/such/directory", "target": "/there"}
    error = _refused(lambda: docker.start(*SLEEP, options={"mounts": [mount]}))
    assert error.reason == "create_failed"
    assert "/no/such/directory" in str(error)
    assert docker.containers() == []


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [(("/no/such/program",), 127, "program_not_found"), (("/tmp",), 126, "program_not_executable")],
)
def test_a_program_that_cannot_be_started(docker: Docker, command: tuple[str], code: int, reason: str) -> None:
    seen = docker.end(docker.start(*command))
    assert (seen.exit_code, seen.reason) == (code, reason)
    assert seen.message is not None
    assert command[0] in seen.message


def test_an_environment_that_is_too_long_in_all_is_told(docker: Docker) -> None:
    environment = {f"X{number}": "y" * 100_000 for number in range(30)}
    seen = docker.end(docker.start("true", env=environment))
    assert (seen.exit_code, seen.reason) == (1, "start_failed")
    assert "argument list too long" in (seen.message or "")
    seen = docker.end(docker.start("false", env={f"X{number}": "y" * 100_000 for number in range(11)}))
    assert (seen.exit_code, seen.reason, seen.message) == (1, None, None)


def test_the_image_runs_by_itself_without_a_command(docker: Docker) -> None:
    from agora_docker.testing import images

    own = images.derive(docker.outside, "agora-test/own:1", 'ENTRYPOINT ["/bin/sh", "-c"]', 'CMD ["exit 23"]')
    assert docker.end(docker.start(image=own)).exit_code == 23


def test_an_image_made_of_our_container_is_not_ours(docker: Docker) -> None:
    handle = docker.started(*GRACEFUL)
    docker.post("/commit", container=handle.data["container"], repo=f"agora-test/{handle.id}")
    asked = {"Image": f"agora-test/{handle.id}", "Entrypoint": list(SLEEP)}
    copy = docker.outside.request("POST", "/containers/create", json=asked).json()["Id"]
    try:
        docker.post(f"/containers/{copy}/start")
        assert len(docker.containers()) == 2, "the copy has our labels"
        assert [owned.handle.data for owned in docker.provider.list_owned(docker.installation)] == [handle.data]
        found = docker.provider.find(handle.id)
        assert found is not None
        assert found.data == handle.data
        docker.stop(handle, 20)
        assert docker.end(handle).exit_code == 9
        assert docker.outside.request("GET", f"/containers/{copy}/json").json()["State"]["Running"]
    finally:
        docker.remove(copy)
        docker.outside.request("DELETE", f"/images/agora-test/{handle.id}", params={"force": "1"})


def test_nothing_of_a_dispatch_restarts(docker: Docker) -> None:
    handle = docker.start("sh", "-c", "exit 3")
    seen = docker.end(handle)
    assert (seen.exit_code, seen.ended_by) == (3, None)
    found = docker.inspect(handle)
    assert found is not None
    assert (found["RestartCount"], found["State"]["Status"]) == (0, "exited")


def test_a_container_that_somebody_renamed_is_found_by_its_marks(docker: Docker) -> None:
    handle = docker.started(*STUBBORN)
    docker.post(f"/containers/{handle.data['container']}/rename", name=f"another-{handle.id}")
    for one in (docker.provider, docker.another()):
        found = one.find(handle.id)
        assert found is not None
        assert found.data == handle.data
    assert docker.start(*STUBBORN, id=handle.id).data == handle.data
    with pytest.raises(DispatchConflict, match="another spec"):
        docker.start("true", id=handle.id)
    assert [found["Id"] for found in docker.containers()] == [handle.data["container"]], "it runs once"
    (owned,) = docker.provider.list_owned(docker.installation)
    docker.stop(owned.handle)
    assert docker.end(handle).forced


@pytest.mark.parametrize("id", ["the same", "Odd/../ID"])
def test_a_container_that_somebody_else_gave_our_labels_is_not_ours(docker: Docker, id: str) -> None:
    """As a tool does that duplicates containers."""
    handle = docker.started(*STUBBORN)
    labels = marks.labels(handle.id if id == "the same" else id, docker.installation, "x")
    asked = {"Image": docker.image, "Entrypoint": list(SLEEP), "Labels": labels}
    copy = docker.outside.request("POST", "/containers/create", json=asked).json()["Id"]
    docker.post(f"/containers/{copy}/start")
    docker.post(f"/containers/{handle.data['container']}/rename", name=f"another-{handle.id}")
    for one in (docker.provider, docker.another()):
        found = one.find(handle.id)
        assert found is not None
        assert found.data == handle.data
        assert [owned.handle.data for owned in one.list_owned(docker.installation)] == [handle.data]
    docker.provider.remove_secrets(handle.id)
    docker.provider.kill(handle)
    docker.end(handle)
    assert docker.outside.request("GET", f"/containers/{copy}/json").json()["State"]["Running"]
