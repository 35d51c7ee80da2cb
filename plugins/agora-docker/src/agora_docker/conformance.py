"""The target that `agora-conformance run docker` tests: the engine that the `docker` command uses.

As root on the engine's own machine the suite sees the containers' processes through /proc; elsewhere it does without.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agora.errors import AgoraError
from agora_conformance.target import Backend, ConformanceTarget, ProbeSpec

from agora_docker import marks
from agora_docker.config import DockerConfig
from agora_docker.endpoint import resolve
from agora_docker.engine import Engine
from agora_docker.looking import Looker
from agora_docker.story import Stories
from agora_docker.testing import images
from agora_docker.testing.proxy import Proxy

_UNIX = "unix://"


@functools.cache
def _engine() -> Engine:
    return Engine(resolve("docker", DockerConfig()), 30.0, "agora-docker conformance")


@functools.cache
def _image() -> str:
    return images.ensure(_engine())


def probe_spec(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run the probe in a container."""
    return {"image": _image(), "command": ["/bin/sh", "-c", script, "probe", *arguments]}


def _variant(name: str, *instructions: str) -> ProbeSpec:
    def spec(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
        image = images.derive(_engine(), f"agora-test/{name}:1", *instructions)
        return {**probe_spec(script, arguments), "image": image}

    return spec


class Stranger:
    """A container that no provider started."""

    def __init__(self) -> None:
        body = {"Image": _image(), "Cmd": ["sleep", "600"], "HostConfig": {"Init": True}}
        self._id = _engine().request("POST", "/containers/create", json=body).json()["Id"]
        _engine().request("POST", f"/containers/{self._id}/start")

    def alive(self) -> bool:
        """Whether it still runs."""
        found = Looker(_engine(), Stories()).inspect(self._id)
        return found is not None and bool(found["State"]["Running"])

    def remove(self) -> None:
        """Remove it."""
        _engine().request("DELETE", f"/containers/{self._id}", params={"force": "1", "v": "1"}, accept=(404,))


class Hands:
    """What the engine's API allows."""

    def stranger(self) -> Stranger:
        """Start a container without any mark."""
        return Stranger()

    def leftovers(self, installation: str) -> Sequence[str]:
        """Name the containers that carry the mark."""
        return [f"container {found['Id'][:12]} ({found['Status']})" for found in _marked(installation)]

    def sweep(self, installation: str) -> None:
        """Remove every container that carries the mark."""
        for found in _marked(installation):
            path = f"/containers/{found['Id']}"
            _engine().request("DELETE", path, params={"force": "1", "v": "1"}, accept=(404, 409), seconds=60)


def _marked(installation: str) -> list[dict[str, Any]]:
    return Looker(_engine(), Stories()).listed(label=[f"{marks.INSTALLATION}={installation}"])


class Cutter(Hands):
    """A proxy in front of the engine whose connections it cuts.

    Parameters:
        proxy: all requests of the suite go through it.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Cut off the engine for one installation."""
        self._proxy.cut(installation)

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Let it through again."""
        self._proxy.heal(installation)


class Eyes(Cutter):
    """What /proc of the engine's machine shows."""

    def processes(self, installation: str, dispatch_id: str | None) -> Sequence[int]:
        """Find live processes by the marks in their environment, which every process of a container has."""
        wanted = [f"\0AGORA_DISPATCH_INSTALLATION={installation}\0".encode()]
        if dispatch_id is not None:
            wanted.append(f"\0AGORA_DISPATCH_ID={dispatch_id}\0".encode())
        return [pid for pid, words in _environments() if all(mark in words for mark in wanted)]


def _environments() -> Iterator[tuple[int, bytes]]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are all that is needed
        if name.isdecimal():
            with suppress(OSError):
                yield int(name), b"\0" + Path(f"/proc/{name}/environ").read_bytes()


def _backend() -> Backend:
    return Backend("Docker Engine", _engine().facts().version)


def target() -> ConformanceTarget:
    """Declare the target."""
    config: dict[str, Any] = {"pull": "never" if Path("/bin/busybox").exists() else "missing"}
    eyes: Hands = Hands()
    with suppress(AgoraError):
        url = resolve("docker", DockerConfig()).url
        if url.startswith(_UNIX):
            proxy = Proxy(url.removeprefix(_UNIX))
            atexit.register(proxy.close)
            config["host"] = proxy.url
            eyes = Eyes(proxy) if os.geteuid() == 0 else Cutter(proxy)
    return ConformanceTarget(
        provider="docker",
        probe_spec=probe_spec,
        config=config,
        overhead=2.0,
        eyes=eyes,
        backend=_backend,
        never_forgets="the engine removes no container that runs, and with force kills it first",
        variants={
            "entrypoint": _variant("entrypoint", 'ENTRYPOINT ["/bin/false"]', 'CMD ["wrong"]'),
            "stop_signal": _variant("stopsignal", "STOPSIGNAL SIGINT"),
        },
    )
