"""A Docker Engine for the tests, on a machine that has none: installed with apt-get and started, as root.

What it installs and starts stays. Nothing is done where an engine answers already.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import backends

#: Later releases of Debian have the `docker` command in a package of its own.
CLIENT = "docker-cli"
LOG = Path("/var/log/agora-dockerd.log")
RUN = Path("/var/run")
POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_SECONDS = 600
START_SECONDS = 60
#: Tried one after the other: a machine that is a container or a small virtual one often has no netfilter.
OPTIONS: tuple[tuple[str, ...], ...] = ((), ("--iptables=false", "--ip-masq=false"))


#: Those that were started here and go on: whoever forgets a child that runs is warned of it.
started: list[subprocess.Popen[bytes]] = []


class EngineMissing(Exception):
    """There is no engine and none can be set up; the message says what to do."""


def install() -> str:
    """See to it that an engine answers and that its tests have their tools.

    Returns:
        what was done, in words.
    Raises:
        EngineMissing: not root, no apt-get, or it does not start.
    """
    done = []
    if missing := backends.missing_programs():
        done.append(f"installed {', '.join(_install(missing))}")
    if backends.missing_reason("docker") is not None:
        _start()
        done.append(f"started dockerd, which goes on running; its log is {LOG}")
    return "; ".join(done) or "an engine is there already"


# --- installing ---------------------------------------------------------------------------------------------------


def _install(missing: list[str]) -> list[str]:
    if os.geteuid() != 0 or not backends.found("apt-get"):
        raise EngineMissing(
            f"missing: {', '.join(missing)}; as root on Debian or Ubuntu this installs them, elsewhere install "
            "Docker Engine, busybox (static), a registry, an SSH server, openssl, iproute2 and iptables yourself"
        )
    packages = sorted({backends.DOCKER_PROGRAMS[name] for name in missing})
    with _no_service_starts():
        _apt("update", "-qq")
        _apt("install", "-qq", "-y", "--no-install-recommends", *packages)
        if not backends.found("docker"):
            _apt("install", "-qq", "-y", "--no-install-recommends", CLIENT)
            packages.append(CLIENT)
    if left := backends.missing_programs():
        raise EngineMissing(f"{', '.join(packages)} were installed, and {', '.join(left)} cannot be found")
    return packages


def _apt(*words: str) -> None:
    command = ("apt-get", "-o", "DPkg::Lock::Timeout=120", *words)
    environment = {**os.environ, "PATH": backends.SYSTEM_PATH, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        ran = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineMissing(f"apt-get {words[0]} did not end within {INSTALL_SECONDS} s") from None
    if ran.returncode != 0:
        said = (ran.stderr.strip() or ran.stdout.strip())[-800:]
        raise EngineMissing(f"apt-get {words[0]} failed with code {ran.returncode}: {said}")


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep the packages from starting an SSH server, a registry and a second engine; systemd's machines may."""
    if _has_systemd() or POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


# --- starting -----------------------------------------------------------------------------------------------------


def _start() -> None:
    if os.geteuid() != 0:
        raise EngineMissing(f"{backends.missing_reason('docker')}; only root may start an engine")
    if _has_systemd():
        subprocess.run(("systemctl", "start", "docker"), stdin=subprocess.DEVNULL, timeout=START_SECONDS, check=False)
        _wait(None)
        if (reason := backends.missing_reason("docker")) is not None:
            raise EngineMissing(f"the service docker was started and does not answer ({reason})")
        return
    said = ""
    for options in OPTIONS:
        _forget_the_killed()
        begun = LOG.stat().st_size if LOG.exists() else 0
        process = _launch(options)
        _wait(process)
        if backends.missing_reason("docker") is None:
            started.append(process)
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
        said = LOG.read_bytes()[begun:].decode(errors="replace")
    raise EngineMissing(f"dockerd was started and does not answer; the end of its log, {LOG}:\n{_end(said)}")


def _forget_the_killed() -> None:
    """Remove what an engine that was killed has left: a pid of its own that another process has by now stops a new one.

    Raises:
        EngineMissing: an engine runs that does not answer.
    """
    for path, name in ((RUN / "docker.pid", "dockerd"), (RUN / "docker/containerd/containerd.pid", "containerd")):
        try:
            pid = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            continue
        if _command(pid) != name:
            path.unlink(missing_ok=True)
        elif name == "dockerd":
            _wait(None)
            reason = backends.missing_reason("docker")
            raise EngineMissing(f"dockerd runs as process {pid} and does not answer at the usual place: {reason}")


def _command(pid: str) -> str | None:
    """Return the name of a process, None where there is none or it is dead and nobody has reaped it."""
    try:
        name, _, rest = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8").partition("(")[2].rpartition(") ")
    except (OSError, ValueError):
        return None
    return None if rest.startswith("Z") else name


def _launch(options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGORA_")}
    with LOG.open("ab") as log:
        # It outlives this process: a session of its own, no pipe and no directory of the caller's.
        return subprocess.Popen(
            ("dockerd", "--host", host, *options),
            env={**environment, "PATH": backends.SYSTEM_PATH},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes] | None) -> None:
    """Wait until the engine answers, or its process has ended."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and backends.missing_reason("docker") is not None:
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.2)


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-12:]) or "(empty)"
