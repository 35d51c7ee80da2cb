"""Where the engine is: a configured host, a context, or what the `docker` command would use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agora.errors import ConfigError
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.context import ContextAPI
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from agora_docker.config import DockerConfig


@dataclass(frozen=True)
class Endpoint:
    """An address, and what proves who is there.

    Parameters:
        url: the address as a client takes it.
        source: where it was said, for messages.
        tls: certificates, where there are any.
    """

    url: str
    source: str
    tls: TLSConfig | None = None


def resolve(target_name: str, config: DockerConfig) -> Endpoint:
    """Find the engine of a target.

    Raises:
        ConfigError: no such context, certificates that cannot be read, or DOCKER_HOST makes no sense.
    """
    try:
        if config.host is not None:
            return Endpoint(config.host, f"targets.{target_name}.host", _tls(config))
        if config.context is not None:
            return _context(config.context, f"targets.{target_name}.context")
        return _surroundings()
    except (DockerException, OSError) as error:
        raise ConfigError(f"target {target_name!r}: {error}") from error


def _tls(config: DockerConfig) -> TLSConfig | None:
    certificate = (_path(config.tls_cert), _path(config.tls_key)) if config.tls_cert and config.tls_key else None
    if config.tls_ca is None and certificate is None:
        return None
    ca = _path(config.tls_ca) if config.tls_ca else None
    return TLSConfig(client_cert=certificate, ca_cert=ca, verify=True)


def _path(path: Path) -> str:
    return str(path.expanduser())


def _context(name: str, source: str) -> Endpoint:
    if ContextAPI.get_context(name) is None:
        raise DockerException(f"there is no context {name!r} beside the docker command's config.json")
    return _endpoint(ContextAPI.kwargs_from_context(name), source)


def _surroundings() -> Endpoint:
    found = kwargs_from_env()
    if "base_url" in found:
        return _endpoint(found, "DOCKER_HOST")
    chosen = os.environ.get("DOCKER_CONTEXT")
    if chosen:
        return _context(chosen, "DOCKER_CONTEXT")
    return _endpoint(ContextAPI.kwargs_from_context(), "the current context of docker")


def _endpoint(found: Mapping[str, Any], source: str) -> Endpoint:
    url: str = found.get("base_url") or DEFAULT_UNIX_SOCKET.replace("http+unix:", "unix:")
    return Endpoint(url, source, found.get("tls"))
