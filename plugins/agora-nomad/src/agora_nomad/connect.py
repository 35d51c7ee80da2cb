"""How to reach a cluster: python-nomad on a session of our own, with everything verified."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agora.errors import ConfigError

from agora_nomad.config import NomadConfig

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

DEFAULT_ADDRESS = "http://127.0.0.1:4646"
#: As many connections as calls at the same time, the watch, and logs. An agent takes 100 of one address
#: (`http_max_conns_per_client`).
_CONNECTIONS = 32
_YES = frozenset({"1", "t", "true", "yes", "on"})


@dataclass(frozen=True)
class Settings:
    """Where the cluster is and how it is spoken to, from the configuration and the environment.

    Parameters:
        address: URL of an agent.
        namespace, region: where jobs are; no region is the agent's own.
        token_file: where the token is read; else `token`.
        verify: what the agent's certificate must lead to: `True` for the system's authorities, a path, or `False`.
        certificate: our own certificate and its key.
        server_name: the name that the agent's certificate must have, where it is not that of the address.
        source: what the address and the token came from, for messages.
    """

    address: str
    namespace: str
    region: str | None
    token_file: Path | None
    token: str | None
    verify: bool | str
    certificate: tuple[str, str] | None
    server_name: str | None
    source: str


@dataclass(frozen=True)
class Connection:
    """A way to a cluster.

    Parameters:
        client: the `Nomad` of python-nomad; only its `request` methods are used.
        keys: its way to the server's public keys, which are outside `/v1`.
        settings: what it was made from.
    """

    client: Any
    keys: Any
    settings: Settings

    def close(self) -> None:
        """Close idle connections."""
        self.client.session.close()


def read_settings(target: str, config: NomadConfig, environment: Mapping[str, str]) -> Settings:
    """Read configuration and environment; the configuration goes first.

    Raises:
        ConfigError: an address, a file or a pair of them cannot be used.
    """
    here = f"target {target!r} (nomad)"
    address = (config.address or environment.get("NOMAD_ADDR") or DEFAULT_ADDRESS).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ConfigError(f"{here}: the address must be http://HOST:PORT or https://HOST:PORT")
    namespace = config.namespace or environment.get("NOMAD_NAMESPACE") or "default"
    if "*" in namespace:
        raise ConfigError(f"{here}: a target is one namespace, not {namespace!r}")
    files = {
        "ca_cert": config.ca_cert or _path(environment, "NOMAD_CACERT"),
        "ca_path": config.ca_path or _path(environment, "NOMAD_CAPATH"),
        "client_cert": config.client_cert or _path(environment, "NOMAD_CLIENT_CERT"),
        "client_key": config.client_key or _path(environment, "NOMAD_CLIENT_KEY"),
        "token_file": config.token_file,
    }
    for name, path in files.items():
        if path is not None and not path.exists():
            raise ConfigError(f"{here}: {name} {path} does not exist")
    if (files["client_cert"] is None) != (files["client_key"] is None):
        raise ConfigError(f"{here}: client_cert and client_key belong together")
    skip = config.tls_skip_verify or environment.get("NOMAD_SKIP_VERIFY", "").lower() in _YES
    if skip:
        logger.warning("%s: certificates are not verified", here)
    token = None if config.token_file else environment.get("NOMAD_TOKEN") or None
    credentials = f"token of {config.token_file}" if config.token_file else "NOMAD_TOKEN" if token else "no token"
    return Settings(
        address=address,
        namespace=namespace,
        region=config.region or environment.get("NOMAD_REGION") or None,
        token_file=files["token_file"],
        token=token,
        verify=False if skip else str(files["ca_cert"] or files["ca_path"] or "") or True,
        certificate=_pair(files["client_cert"], files["client_key"]),
        server_name=config.tls_server_name or environment.get("NOMAD_TLS_SERVER_NAME") or None,
        source=f"{address}, {credentials}",
    )


def connect(target: str, config: NomadConfig) -> Connection:
    """Make a client; nothing is sent.

    Raises:
        ConfigError: the settings cannot be used.
    """
    import nomad  # type: ignore[import-untyped]
    from nomad.api.base import Requester  # type: ignore[import-untyped]

    settings = read_settings(target, config, os.environ)
    session = _session(settings)
    shared = {
        "address": settings.address,
        "namespace": settings.namespace,
        "region": settings.region,
        # Off in python-nomad unless it is said.
        "verify": settings.verify,
        "cert": settings.certificate or (),
        "session": session,
    }

    class Keys(Requester):  # type: ignore[misc]
        ENDPOINT = "jwks.json"

    return Connection(nomad.Nomad(**shared), Keys(version=".well-known", **shared), settings)


def _session(settings: Settings) -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            if settings.server_name:
                kwargs |= {"server_hostname": settings.server_name, "assert_hostname": settings.server_name}
            super().init_poolmanager(*args, **kwargs)

    session = requests.Session()
    # python-nomad lets PUT and DELETE follow redirects, and the token would go along to wherever they lead.
    session.max_redirects = 0
    session.headers["User-Agent"] = "agora-nomad"
    # With an `auth` of our own, requests takes none from ~/.netrc.
    session.auth = _Token(settings)
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(pool_connections=4, pool_maxsize=_CONNECTIONS, max_retries=0))
    return session


class _Token:
    """Puts the token on every request; a file is read again when it changes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: tuple[int, str] | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("X-Nomad-Token", None)
        if token := self._token():
            request.headers["X-Nomad-Token"] = token
        return request

    def _token(self) -> str | None:
        path = self._settings.token_file
        if path is None:
            return self._settings.token
        try:
            changed = path.stat().st_mtime_ns
            if self._read is None or self._read[0] != changed:
                self._read = (changed, path.read_text(encoding="utf-8").strip())
        except OSError as error:
            raise ConfigError(f"the token of {path} cannot be read: {error.strerror}") from error
        return self._read[1]


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


def _pair(certificate: Path | None, key: Path | None) -> tuple[str, str] | None:
    return None if certificate is None or key is None else (str(certificate), str(key))
