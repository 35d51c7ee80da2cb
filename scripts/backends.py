"""Which backends the tests can reach, and which of them must be there.

A backend is known by its package, plugins/agora-NAME. AGORA_TEST_REQUIRE lists, with commas, the ones that
must be tested: a listed one that is missing fails, another one that is missing counts as not tested.
"""

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
#: What the tests of Docker use, and Debian's name of its package: images are made of a static busybox and pulled from
#: a registry.
DOCKER_PROGRAMS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "busybox": "busybox-static",
    "docker-registry": "docker-registry",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "openssl": "openssl",
    "ip": "iproute2",
    "iptables": "iptables",
}


def _local() -> str | None:
    if not hasattr(os, "pidfd_open"):
        return "this system has no pidfd (Linux 5.3 or later)"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    return None


def _docker() -> str | None:
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return f"DOCKER_HOST is {host}; the tests need an engine on this machine, behind a socket"
    engine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with engine:
        engine.settimeout(5)
        try:
            engine.connect(host.removeprefix("unix://"))
            engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            answer = engine.recv(64)
        except OSError as error:
            return f"{host}: {error.strerror or error}; scripts/setup --install-engine sets one up on Debian"
    if b" 200 " not in answer:
        return f"{host} answers {answer[:40]!r}"
    if os.geteuid() != 0:
        return "the tests look at the containers' processes from outside, which needs root"
    if missing := missing_programs():
        return f"{', '.join(missing)} cannot be found; scripts/setup --install-engine installs them on Debian"
    return None


def found(program: str) -> bool:
    """Whether a program is there, on the PATH or where root has its own."""
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        return False
    # The images hold nothing beside busybox, so one that wants a loader is none.
    return program != "busybox" or b"/ld-" not in Path(path).read_bytes()[:4096]


def missing_programs() -> list[str]:
    """Return the programs that the tests of Docker use and that are not there."""
    return [program for program in DOCKER_PROGRAMS if not found(program)]


def _emulated() -> str | None:
    if not sys.platform.startswith("linux"):
        return "the emulated clusters run on Linux alone"
    if importlib.util.find_spec("aiohttp") is None:
        return "aiohttp is not installed; scripts/setup installs it"
    return None


#: For each backend: says why it cannot be used here, None where it can. A probe ends within 10 s.
PROBES: dict[str, Callable[[], str | None]] = {
    "docker": _docker,
    "fargate": _emulated,
    "k8s": _emulated,
    "local": _local,
    "nomad": _emulated,
}


def known() -> list[str]:
    """Return the names of the backends that have a provider package in this repository."""
    return sorted(path.parent.name.removeprefix("agora-") for path in ROOT.glob("plugins/agora-*/pyproject.toml"))


def required() -> list[str]:
    """Return the names that AGORA_TEST_REQUIRE lists."""
    names = os.environ.get("AGORA_TEST_REQUIRE", "").split(",")
    return sorted({name.strip() for name in names if name.strip()})


def missing_reason(name: str) -> str | None:
    """Return why the backend `name` cannot be tested here, None where it can."""
    if name not in known():
        return f"there is no plugins/agora-{name}"
    if name not in PROBES:
        return "scripts/backends.py has no probe for it"
    return PROBES[name]()
