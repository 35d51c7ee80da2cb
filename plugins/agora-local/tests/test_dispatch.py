"""What a workload is started with: exactly what was asked for, in the caller's surroundings of that moment."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from agora.errors import ConfigError, DispatchConflict, InvalidRequest, StopRequested, SubmitRefused
from agora.model.capabilities import Support
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase
from agora.model.spec import Resources, Spec
from agora_local import PROVIDER, machine
from agora_local.config import LocalConfig
from local_harness import Local, alive, carrying, eventually, never
from pydantic import ValidationError

HARD = ["$HOME", "${X:-y}", "$(X)", "$$", "%{if}", "{{x}}", "'\"`", "a\nb\tc", "🙂é", "", "-n", "--", "\\", "*", " "]


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_codes(local: Local, code: int) -> None:
    seen, _ = local.run("sh", "-c", f"exit {code}")
    assert (seen.phase, seen.exit_code, seen.signal) == (Phase.ENDED, code, None)
    assert (seen.stop_reached, seen.forced, seen.ended_by) == (False, False, None)
    assert seen.started_at is not None
    assert seen.ended_at is not None
    assert seen.started_at <= seen.ended_at


def test_death_by_a_signal(local: Local) -> None:
    seen, _ = local.run("sh", "-c", "kill -SEGV $$")
    assert (seen.exit_code, seen.signal) == (128 + signal.SIGSEGV, signal.SIGSEGV)


def test_handle_and_first_observation_name_the_workload_itself(local: Local) -> None:
    handle = local.start("sleep", "600")
    pid = handle.data["pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"
    assert handle.first is not None
    assert handle.first.phase is Phase.RUNNING
    assert handle.first.native["pid"] == pid
    assert os.getsid(pid) == pid
    assert carrying(handle.id) == [pid]
    assert local.observe(handle) == handle.first


def test_arguments_and_environment_are_exact(local: Local) -> None:
    program = "import json,os,sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    environment = {f"V{number}": value for number, value in enumerate(HARD)}
    _, output = local.run(sys.executable, "-I", "-c", program, *HARD, env=environment)
    arguments, seen = json.loads(output)
    assert arguments == HARD
    for name, value in environment.items():
        assert seen[name] == value


def test_largest_argument_passes(local: Local) -> None:
    largest = "x" * 131_071
    _, output = local.run("sh", "-c", 'printf %s "$1" | wc -c', "sh", largest)
    assert int(output) == len(largest)


def test_environment_of_the_caller_at_that_moment(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.run("true")  # the fork server has started with the environment of before
    monkeypatch.setenv("SET_LATER", "yes")
    monkeypatch.setenv("OVERRIDDEN", "caller")
    monkeypatch.setitem(os.environb, b"BYTES", b"\xff\xfe")
    monkeypatch.delenv("HOME", raising=False)
    handle = local.start("env", "-0", env={"OVERRIDDEN": "spec"}, secrets={"TOKEN": "s3cret"})
    local.end(handle)
    seen = dict(item.split(b"=", 1) for item in local.output(handle).split(b"\0") if item)
    expected = dict(os.environb) | {
        b"OVERRIDDEN": b"spec",
        b"TOKEN": b"s3cret",
        b"AGORA_DISPATCH_ID": handle.id.encode(),
        b"AGORA_DISPATCH_INSTALLATION": b"test-installation",
    }
    assert seen == expected


def test_marks_win_over_what_the_user_sets(local: Local) -> None:
    handle = local.start("sh", "-c", "echo $AGORA_DISPATCH_ID", env={"AGORA_DISPATCH_ID": "forged"})
    local.end(handle)
    assert local.output(handle) == handle.id.encode() + b"\n"


def test_directory_umask_and_limits_of_the_caller(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.run("true")
    directory = tmp_path / "a directory"
    directory.mkdir()
    monkeypatch.chdir(directory)
    umask = os.umask(0o027)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, limits[1]))
    try:
        _, output = local.run("sh", "-c", "pwd -P; umask; ulimit -n; ulimit -t")
        _, below = local.run("pwd", cwd="..")
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert output.decode().split("\n")[:4] == [str(directory), "0027", "777", "unlimited"]
    assert below.decode().strip() == str(tmp_path)


def test_low_limits_of_the_caller_do_not_hurt_the_shim(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from local_harness import Local
for name in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
    resource.setrlimit(name, (1_000_000, resource.getrlimit(name)[1]))
local = Local(Path(sys.argv[1]), log_cap=10_000_000)
handle = local.start("sh", "-c", "ulimit -f; ulimit -t; head -c 3000000 /dev/zero; exit 3")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert local.end(handle).exit_code == 3
print(len(local.output(handle)))
local.clean()
"""
    done = python(program, str(tmp_path))
    assert int(done.stdout) > 3_000_000, done.stderr


def test_nothing_but_the_three_standard_files_is_open(local: Local, tmp_path: Path) -> None:
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        _, output = local.run(sys.executable, "-I", "-S", "-c", "import os; print(os.listdir('/proc/self/fd'))")
    finally:
        os.close(leak)
    # The listing itself is the fourth.
    assert output == b"['0', '1', '2', '3']\n"
    _, output = local.run("sh", "-c", "cat; readlink /proc/self/fd/0")
    assert output == b"/dev/null\n"


def test_secrets_are_in_no_file_and_no_command_line(local: Local) -> None:
    handle = local.start("sleep", "600", secrets={"TOKEN": "very-s3cret"})
    assert b"TOKEN=very-s3cret" in Path(f"/proc/{handle.data['pid']}/environ").read_bytes().split(b"\0")
    for path in local.root.rglob("*"):
        assert not path.is_file() or b"very-s3cret" not in path.read_bytes()
    for pid in (handle.data["shim"], handle.data["pid"]):
        assert b"very-s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    shim = handle.data["shim"]
    assert b"very-s3cret" not in Path(f"/proc/{shim}/environ").read_bytes()
    assert not in_memory(shim, b"very-s3cret")


def in_memory(pid: int, needle: bytes) -> bool:
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, rights, *_ = line.split()
            if rights.startswith("rw"):
                begin, end = (int(bound, 16) for bound in bounds.split("-"))
                memory.seek(begin)
                if needle in memory.read(end - begin):
                    return True
    return False


def test_program_is_searched_in_the_path_of_the_workload(local: Local, tmp_path: Path) -> None:
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    assert local.run("only-here", env={"PATH": f"/nowhere:{tmp_path}:/bin"})[1] == b"found\n"


def test_niceness(local: Local) -> None:
    own = os.nice(0)
    assert local.run("nice", options={"nice": 7})[1] == b"%d\n" % min(own + 7, 19)


REFUSED = {
    "program_not_found": {"command": ("no-such-program",)},
    "program_not_found by path": {"command": ("/no/such/program",)},
    "not_executable": {"command": ("/etc/hostname",)},
    "not_executable directory": {"command": ("/etc",)},
    "argument_list_too_long": {"command": ("true", *["x" * 131_000] * 60)},
    "cwd_missing": {"command": ("true",), "cwd": "/no/such/directory"},
    "cwd_missing file": {"command": ("true",), "cwd": "/etc/passwd"},
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.replace(" ", "-"))
def test_what_cannot_start_is_refused_and_leaves_nothing(both: Local, case: str) -> None:
    id = new_dispatch_id()
    with pytest.raises(SubmitRefused) as caught:
        both.provider.dispatch(id, Spec.model_validate(REFUSED[case]), never)
    assert caught.value.reason == case.split()[0]
    assert "\0" not in str(caught.value)
    assert not (both.root / id).exists()
    assert both.live() == []
    assert both.provider.find(id) is None
    eventually(lambda: carrying(id) == [])
    # The id is free again.
    handle = both.start("true", id=id)
    assert both.end(handle).exit_code == 0


def test_script_without_interpreter_is_refused(local: Local, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo never\n")
    script.chmod(0o755)
    with pytest.raises(SubmitRefused, match="#! line") as caught:
        local.start(str(script))
    assert caught.value.reason == "not_executable"


def test_caller_whose_directory_is_gone(local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert local.run("true")[0].exit_code == 0


@pytest.mark.parametrize("path", ["file", "readonly"])
def test_state_directory_that_cannot_be_made(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    state = tmp_path / "file" / "state" if path == "file" else Path("/proc/nowhere/state")
    (tmp_path / "machine-id").write_text("a-machine\n")
    monkeypatch.setattr(machine, "MACHINE_ID_FILES", (tmp_path / "machine-id",))
    local = Local(tmp_path, state_dir=state)
    with pytest.raises(SubmitRefused, match=str(state)):
        local.start("true")
    monkeypatch.setattr(machine, "MACHINE_ID_FILES", (tmp_path / "missing",))
    with pytest.raises(ConfigError, match=f"no id can be kept in {state}"):
        Local(tmp_path, state_dir=state)


def test_stop_before_the_start_removes_everything(local: Local) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StopRequested

    id = new_dispatch_id()
    with pytest.raises(StopRequested):
        local.provider.dispatch(id, Spec(command=("sleep", "600")), check)
    assert not (local.root / id).exists()
    assert carrying(id) == []


def test_check_names_what_is_missing(local: Local) -> None:
    with pytest.raises(InvalidRequest, match="command"):
        local.provider.check(Spec(image="debian"))
    local.provider.check(Spec(command=("true",)))
    assert {"image", "resources.cpu", "resources.memory"} == set(PROVIDER.limits.refused_fields)
    assert Resources().cpu is None


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_refused_by_name(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "agora_local.provider", None)  # it could not even be loaded there
    with pytest.raises(ConfigError, match=rf"targets\.here: .*Linux 5\.3.*{platform}"):
        Local(tmp_path)


def test_old_kernels_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    with pytest.raises(ConfigError, match=r"pidfd_open: Function not implemented"):
        Local(tmp_path)


def test_every_capability_is_declared() -> None:
    declared = PROVIDER.capabilities
    for name in type(declared).model_fields:
        claim = getattr(declared, name)
        assert claim.support is not Support.UNDECLARED, name
        assert claim.support is Support.FULL or claim.detail, name


def test_dispatching_process_may_be_killed(local: Local, tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from local_harness import Local
script = "trap 'exit 4' TERM; echo READY; while :; do sleep 0.1 & wait $!; done"
handle = Local(Path(sys.argv[1])).start("sh", "-c", script, id="of-a-dead-one")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(program, str(tmp_path)).returncode == -signal.SIGKILL
    handle = local.provider.find("of-a-dead-one")
    assert handle is not None
    local.ready(handle)
    assert alive(handle.data["pid"])
    local.stop(handle)
    assert local.end(handle).exit_code == 4


def test_fork_server_ends_with_its_client(local: Local) -> None:
    handle = local.start("sleep", "600")
    server = local.provider._launcher._pid
    eventually(lambda: len(children_of(server)) > 1)
    standbys = [pid for pid in children_of(server) if pid != handle.data["shim"]]
    local.provider.close()
    assert not alive(server)
    eventually(lambda: not any(alive(pid) for pid in standbys))
    assert local.observe(handle).phase is Phase.RUNNING
    assert local.observe(handle).reachable


def test_providers_of_one_process_share_a_fork_server_until_the_last_of_them_is_closed(
    local: Local, tmp_path: Path
) -> None:
    other = Local(tmp_path / "other", installation="another-installation")
    try:
        local.run("true")
        server = local.provider._launcher._pid
        handle = other.start("sleep", "600")
        assert children_of(server)
        assert other.provider._launcher._pid == server
        local.provider.close()
        assert alive(server)
        assert other.run("sh", "-c", "exit 3")[0].exit_code == 3
        assert other.provider._launcher._pid == server
        other.provider.close()
        assert not alive(server)
        assert other.observe(handle).phase is Phase.RUNNING
    finally:
        other.clean()


def test_a_provider_that_is_forgotten_keeps_no_fork_server(local: Local, tmp_path: Path) -> None:
    Local(tmp_path / "other").run("true")
    server = local.provider._launcher._pid
    assert alive(server)
    gc.collect()
    local.provider.close()
    assert not alive(server)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("victim", ["server", "standbys"])
def test_fork_server_is_started_again(local: Local, victim: str) -> None:
    local.run("true")
    server = local.provider._launcher._pid
    for pid in [server] if victim == "server" else children_of(server):
        os.kill(pid, signal.SIGKILL)
    assert local.run("sh", "-c", "exit 3")[0].exit_code == 3


def test_fork_of_the_client_gets_a_fork_server_of_its_own(local: Local) -> None:
    local.run("true")
    server = local.provider._launcher._pid
    program_id = new_dispatch_id()
    pid = os.fork()
    if pid == 0:
        try:
            local.start("sleep", "600", id=program_id)
            os._exit(0 if local.provider._launcher._pid != server else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(carrying(program_id)) == 1
    assert local.run("true")[0].exit_code == 0
    assert local.provider._launcher._pid == server


def test_many_threads_dispatch_at_once(local: Local) -> None:
    handles = []
    threads = [
        threading.Thread(target=lambda code=code: handles.append((code, local.start("sh", "-c", f"exit {code}"))))
        for code in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 40
    for code, handle in handles:
        assert local.end(handle).exit_code == code


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that uses the harness, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_conflict_is_not_touched(local: Local) -> None:
    handle = local.start("sleep", "600", id="taken")
    with pytest.raises(DispatchConflict, match="another spec"):
        local.start("sleep", "601", id="taken")
    assert alive(handle.data["pid"])
    assert local.observe(handle).phase is Phase.RUNNING


def test_a_fork_server_that_was_stopped_keeps_nobody_waiting(local: Local) -> None:
    handle = local.start("sleep", "600")
    server = local.provider._launcher._pid
    os.kill(server, signal.SIGSTOP)
    began = time.monotonic()
    local.provider.close()
    assert time.monotonic() - began < 10
    assert not alive(server)
    assert local.observe(handle).phase is Phase.RUNNING
    assert local.observe(handle).reachable


def test_a_state_directory_that_depends_on_the_working_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="must be an absolute path"):
        LocalConfig(state_dir=Path("state"))
    assert LocalConfig(state_dir=tmp_path).state_dir == tmp_path
