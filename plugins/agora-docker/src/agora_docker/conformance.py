"""The target that `agora-conformance run docker` tests: the engine that the `docker` command uses, or a table's.

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

from agora.config import TargetConfig, validate_target
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


class Place:
    """An engine, and the image that everything runs in.

    Parameters:
        config: where the engine is.
        image: any with `/bin/sh`, `od`, `tr` and `setsid`; one is made on the spot by default.
    """

    def __init__(self, config: DockerConfig, image: str | None = None) -> None:
        self._config = config
        self._image = image

    @functools.cached_property
    def url(self) -> str:
        """Where the engine is."""
        return resolve("docker", self._config).url

    @functools.cached_property
    def engine(self) -> Engine:
        """The engine, beside the provider."""
        return Engine(resolve("docker", self._config), 30.0, "agora-docker conformance")

    @functools.cached_property
    def image(self) -> str:
        """The image."""
        return self._image or images.ensure(self.engine)

    def probe_spec(self, script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
        """Run the probe in a container."""
        return {"image": self.image, "command": ["/bin/sh", "-c", script, "probe", *arguments]}

    def variant(self, name: str, *instructions: str) -> ProbeSpec:
        """Run the probe in an image made of this one, with further Dockerfile instructions."""

        def spec(script: str, arguments: Sequence[str]) -> Mapping[str, Any]:
            image = images.derive(self.engine, f"agora-test/{name}:1", *instructions, base=self.image)
            return {**self.probe_spec(script, arguments), "image": image}

        return spec

    def marked(self, installation: str) -> list[dict[str, Any]]:
        """List the containers of an installation."""
        return Looker(self.engine, Stories()).listed(label=[f"{marks.INSTALLATION}={installation}"])

    def backend(self) -> Backend:
        """Ask the engine for its version."""
        return Backend("Docker Engine", self.engine.facts().version)


class Stranger:
    """A container that no provider started.

    Parameters:
        place: where to start it.
    """

    def __init__(self, place: Place) -> None:
        self._engine = place.engine
        body = {"Image": place.image, "Entrypoint": ["sleep", "600"], "HostConfig": {"Init": True}}
        self._id = self._engine.request("POST", "/containers/create", json=body).json()["Id"]
        self._engine.request("POST", f"/containers/{self._id}/start")

    def alive(self) -> bool:
        """Whether it still runs."""
        found = Looker(self._engine, Stories()).inspect(self._id)
        return found is not None and bool(found["State"]["Running"])

    def remove(self) -> None:
        """Remove it."""
        self._engine.request("DELETE", f"/containers/{self._id}", params={"force": "1", "v": "1"}, accept=(404,))


class Hands:
    """What the engine's API allows.

    Parameters:
        place: the engine.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def stranger(self) -> Stranger:
        """Start a container without any mark."""
        return Stranger(self._place)

    def leftovers(self, installation: str) -> Sequence[str]:
        """Name the containers that carry the mark."""
        return [f"container {found['Id'][:12]} ({found['Status']})" for found in self._place.marked(installation)]

    def sweep(self, installation: str) -> None:
        """Remove every container that carries the mark."""
        for found in self._place.marked(installation):
            path = f"/containers/{found['Id']}"
            self._place.engine.request("DELETE", path, params={"force": "1", "v": "1"}, accept=(404, 409), seconds=60)


class Cutter(Hands):
    """A proxy in front of the engine whose connections it cuts.

    Parameters:
        place: the engine.
        proxy: all requests of the suite go through it.
    """

    def __init__(self, place: Place, proxy: Proxy) -> None:
        super().__init__(place)
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


def target() -> ConformanceTarget:
    """Declare the target: the engine that the `docker` command uses."""
    return _declared({"pull": "never" if images.BUSYBOX.exists() else "missing"}, Place(DockerConfig()))


def _configured(table: Mapping[str, Any]) -> ConformanceTarget:
    """Declare the target that a table names.

    Parameters:
        table: the target's table, and in `[conformance]` the `image` to use, best by digest.
    Raises:
        ConfigError: the table is wrong.
    """
    config = dict(table)
    image = config.pop("conformance", {}).get("image")
    where = TargetConfig("docker", "docker", config, "the table of --target-config")
    model = validate_target(where, DockerConfig)
    if not isinstance(model, DockerConfig):
        raise TypeError(f"DockerConfig expected, not {type(model).__name__}")
    return _declared(config, Place(model, image))


def _declared(table: Mapping[str, Any], place: Place) -> ConformanceTarget:
    config = dict(table)
    eyes: Hands = Hands(place)
    with suppress(AgoraError):  # what is wrong with it is told once it is used
        if place.url.startswith(_UNIX):
            proxy = Proxy(place.url.removeprefix(_UNIX))
            atexit.register(proxy.close)
            config = {key: value for key, value in config.items() if key != "context"} | {"host": proxy.url}
            eyes = Eyes(place, proxy) if os.geteuid() == 0 else Cutter(place, proxy)
    return ConformanceTarget(
        provider="docker",
        probe_spec=place.probe_spec,
        config=config,
        overhead=2.0,
        eyes=eyes,
        backend=place.backend,
        never_forgets="the engine removes no container that runs, and with force kills it first",
        variants={
            "entrypoint": place.variant("entrypoint", 'ENTRYPOINT ["/bin/false"]', 'CMD ["wrong"]'),
            "stop_signal": place.variant("stopsignal", "STOPSIGNAL SIGINT"),
        },
        configured=_configured,
    )
