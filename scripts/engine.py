"""A Docker Engine for the tests, on a machine that has none: installed with apt-get and started, as root.

What it installs and starts stays. Nothing is done where an engine answers already.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import backends

#: Debian's names of the engine and of what its tests use: images are made of busybox, and pulled from a registry.
PACKAGES = ("docker.io", "busybox-static", "docker-registry", "openssh-server", "openssl", "iproute2")
PROGRAMS = ("dockerd", "busybox", "docker-registry", "sshd", "openssl", "ip")
LOG = Path("/var/log/agora-dockerd.log")
START_SECONDS = 60
#: Tried one after the other: a machine that is a container or a small virtual one often has no netfilter.
OPTIONS: tuple[tuple[str, ...], ...] = ((), ("--iptables=false", "--ip-masq=false"))


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
    if missing := [name for name in PROGRAMS if not _found(name)]:
        _install(missing)
        done.append(f"installed {', '.join(PACKAGES)}")
    if backends.missing_reason("docker") is not None:
        _start()
        done.append(f"started dockerd, which goes on running; its log is {LOG}")
    return "; ".join(done) or "an engine is there already"


def _found(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is not None


def _install(missing: list[str]) -> None:
    if os.geteuid() != 0 or not _found("apt-get"):
        raise EngineMissing(
            f"missing: {', '.join(missing)}; as root on Debian or Ubuntu this installs them, elsewhere install "
            "Docker Engine, busybox (static), a registry, sshd and openssl yourself"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update", "-qq"), ("install", "-qq", "-y", "--no-install-recommends", *PACKAGES)):
        ran = subprocess.run(
            ("apt-get", *words), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if ran.returncode != 0:
            raise EngineMissing(f"apt-get {words[0]} failed with code {ran.returncode}: {ran.stderr.strip()[-800:]}")


def _start() -> None:
    if os.geteuid() != 0:
        raise EngineMissing("no engine answers, and only root may start one: sudo dockerd")
    if Path("/run/systemd/system").is_dir():
        subprocess.run(("systemctl", "start", "docker"), stdin=subprocess.DEVNULL, check=False)
        _wait(None)
    else:
        for options in OPTIONS:
            process = _launch(options)
            _wait(process)
            if process.poll() is None:
                break
    if (reason := backends.missing_reason("docker")) is not None:
        raise EngineMissing(f"dockerd was started and does not answer ({reason}); see {LOG}")


def _launch(options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    words = ("dockerd", "--host", host, *options)
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    with LOG.open("ab") as log:
        return subprocess.Popen(
            words,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes] | None) -> None:
    """Wait until the engine answers, or its process has ended."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and backends.missing_reason("docker") is not None:
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.2)
