"""scripts/setup --install-engine: starts an engine in every state that a machine may be in, or says why it cannot."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import backends
import engine
import pytest

#: Stands for dockerd: answers a ping at the socket that it is given, unless it is told to fail.
DOCKERD = """#!{python}
import os, socket, sys
print("begun with", *sys.argv[1:], flush=True)
if "{fails}" and "{fails}" not in sys.argv:
    sys.exit("the reason of the day")
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[2].removeprefix("unix://"))
server.listen()
open("{folder}/pid", "w").write(str(os.getpid()))
while True:
    client, _ = server.accept()
    client.recv(100)
    client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nOK")
    client.close()
"""


class Machine:
    """A machine without an engine: `dockerd` is what a test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log = folder / "log"
        (folder / "docker/containerd").mkdir(parents=True)
        (folder / "bin").mkdir()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/docker.sock")
        monkeypatch.setattr(backends, "SYSTEM_PATH", f"{folder}/bin:{os.environ['PATH']}:/usr/sbin:/sbin")
        monkeypatch.setattr(engine, "LOG", self.log)
        monkeypatch.setattr(engine, "RUN", folder)
        monkeypatch.setattr(engine, "START_SECONDS", 40)
        monkeypatch.setattr(backends, "DOCKER_PROGRAMS", {"dockerd": "docker.io"})
        monkeypatch.setattr(engine, "_has_systemd", lambda: False)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        self.dockerd()

    def dockerd(self, fails: str = "") -> None:
        """Put a dockerd there that fails unless it has one option."""
        path = self.folder / "bin" / "dockerd"
        path.write_text(DOCKERD.format(python=sys.executable, fails=fails, folder=self.folder), encoding="utf-8")
        path.chmod(0o755)

    @property
    def pid(self) -> int:
        """The pid of the engine that was started."""
        return int((self.folder / "pid").read_text())

    def end(self) -> None:
        """End the engine."""
        while engine.started:
            process = engine.started.pop()
            process.kill()
            process.wait(30)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, monkeypatch)
    yield made
    made.end()


def test_it_is_started_once_and_lives_in_a_session_of_its_own(machine: Machine) -> None:
    assert engine.install().startswith("started dockerd")
    assert backends.missing_reason("docker") is None
    assert engine.install() == "an engine is there already"
    assert machine.log.read_text().count("begun with") == 1
    assert os.getsid(machine.pid) == machine.pid
    assert Path(f"/proc/{machine.pid}/cwd").resolve() == Path("/")
    held = {Path(f"/proc/{machine.pid}/fd/{number}").readlink() for number in range(3)}
    assert held == {Path(os.devnull), machine.log}


def test_it_does_without_netfilter_where_there_is_none(machine: Machine) -> None:
    machine.dockerd("--iptables=false")
    engine.install()
    assert machine.log.read_text().count("begun with") == 2


def test_one_that_does_not_start_is_told_with_its_last_words(machine: Machine) -> None:
    machine.dockerd("--never")
    with pytest.raises(engine.EngineMissing, match="the reason of the day") as caught:
        engine.install()
    assert str(machine.log) in str(caught.value)
    assert not (machine.folder / "pid").exists()


@pytest.mark.parametrize("left", ["nobody", "another", "zombie"])
def test_what_a_killed_one_has_left_is_no_hindrance(machine: Machine, left: str) -> None:
    other = subprocess.Popen(["sleep", "60"])
    if left == "zombie":
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    pid = 2**22 + 1 if left == "nobody" else other.pid
    files = [machine.folder / "docker.pid", machine.folder / "docker/containerd/containerd.pid"]
    try:
        for path in files:
            path.write_text(str(pid))
        engine.install()
        assert not any(path.exists() for path in files)
        assert left != "another" or other.poll() is None, "whoever has the pid now is left alone"
    finally:
        other.kill()
        other.wait()


def test_one_that_runs_and_does_not_answer_is_told_and_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine, "START_SECONDS", 0.5)
    mute = tmp_path / "mute" / "dockerd"
    mute.parent.mkdir()
    mute.symlink_to("/bin/sleep")
    process = subprocess.Popen([mute, "60"])
    try:
        (machine.folder / "docker.pid").write_text(str(process.pid))
        give_up = time.monotonic() + 30
        while Path(f"/proc/{process.pid}/comm").read_text() != "dockerd\n":
            assert time.monotonic() < give_up
        with pytest.raises(engine.EngineMissing, match=f"dockerd runs as process {process.pid}"):
            engine.install()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_busybox_that_wants_a_loader_is_none(machine: Machine) -> None:
    busybox = machine.folder / "bin" / "busybox"
    busybox.write_bytes(Path(sys.executable).resolve().read_bytes()[:8192])
    busybox.chmod(0o755)
    assert not backends.found("busybox")


def test_a_machine_with_an_engine_alone_is_told_what_else_the_tests_need(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.install()
    monkeypatch.setattr(backends, "DOCKER_PROGRAMS", {"dockerd": "docker.io", "no-such-program": "nothing"})
    reason = backends.missing_reason("docker")
    assert reason is not None
    assert reason.startswith("no-such-program cannot be found; scripts/setup --install-engine")


def test_only_root_may(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(engine.EngineMissing, match="only root may"):
        engine.install()
    monkeypatch.setattr(backends, "DOCKER_PROGRAMS", {"no-such-program": "nothing"})
    with pytest.raises(engine.EngineMissing, match="missing: no-such-program; as root"):
        engine.install()


def test_apt_that_fails_is_told_with_its_words(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = machine.folder / "bin" / "apt-get"
    apt.write_text("#!/bin/sh\n[ $3 = update ] || { echo 'E: no such package' >&2; exit 100; }\n")
    apt.chmod(0o755)
    monkeypatch.setattr(engine, "POLICY", machine.folder / "policy")
    monkeypatch.setattr(backends, "DOCKER_PROGRAMS", {"no-such-program": "nothing"})
    with pytest.raises(engine.EngineMissing, match="apt-get install failed with code 100: E: no such package"):
        engine.install()
    assert not engine.POLICY.exists()
