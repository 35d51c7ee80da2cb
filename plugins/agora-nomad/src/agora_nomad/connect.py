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
_FILES = ("ca_cert", "ca_path", "client_cert", "client_key")
#: Where the keys of a target's table stand that it does not say itself.
_VARIABLES = {
    "address": "NOMAD_ADDR",
    "namespace": "NOMAD_NAMESPACE",
    "region": "NOMAD_REGION",
    "ca_cert": "NOMAD_CACERT",
    "ca_path": "NOMAD_CAPATH",
    "client_cert": "NOMAD_CLIENT_CERT",
    "client_key": "NOMAD_CLIENT_KEY",
    "tls_server_name": "NOMAD_TLS_SERVER_NAME",
    "tls_skip_verify": "NOMAD_SKIP_VERIFY",
}
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
        session: what requests go through.
        settings: what it was made from.
        kind: the `Requester` of python-nomad, imported by whoever makes the connection: threads that import parts of a
            package at the same time see half of it.
    """

    session: requests.Session
    settings: Settings
    kind: Any

    def requester(self, endpoint: str, version: str = "v1") -> Any:
        """Return what sends requests to an endpoint.

        Parameters:
            endpoint: the first part of its path, `job` for example.
            version: what the path begins with.
        """
        # One of python-nomad's `Nomad` would read variables for itself, where the settings name no region.
        made = self.kind(
            address=self.settings.address,
            namespace=self.settings.namespace,
            region=self.settings.region,
            # Off in python-nomad unless it is said.
            verify=self.settings.verify,
            cert=self.settings.certificate or (),
            session=self.session,
            version=version,
        )
        made.ENDPOINT = endpoint
        return made

    def close(self) -> None:
        """Close idle connections."""
        self.session.close()


def read_settings(target: str, config: NomadConfig, environment: Mapping[str, str]) -> Settings:
    """Read configuration and environment; the configuration goes first.

    Raises:
        ConfigError: an address, a file or a pair of them cannot be used.
    """
    here = f"target {target!r} (nomad)"
    found = config.model_copy(update=_by_variables(config, environment))
    address = (found.address or DEFAULT_ADDRESS).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
        raise ConfigError(f"{here}: the address must be http://HOST:PORT or https://HOST:PORT")
    namespace = found.namespace or "default"
    if "*" in namespace:
        raise ConfigError(f"{here}: a target is one namespace, not {namespace!r}")
    for name in (*_FILES, "token_file"):
        if (path := getattr(found, name)) is not None and not path.exists():
            raise ConfigError(f"{here}: {name} {path} does not exist")
    if (found.client_cert is None) != (found.client_key is None):
        raise ConfigError(f"{here}: client_cert and client_key belong together")
    token = None if config.token_file else environment.get("NOMAD_TOKEN") or None
    credentials = f"token of {config.token_file}" if config.token_file else "NOMAD_TOKEN" if token else "no token"
    return Settings(
        address=address,
        namespace=namespace,
        region=found.region or None,
        token_file=config.token_file,
        token=token,
        verify=False if found.tls_skip_verify else str(found.ca_cert or found.ca_path or "") or True,
        certificate=_pair(found.client_cert, found.client_key),
        server_name=found.tls_server_name or None,
        source=f"{address}, {credentials}",
    )


def surroundings(target: str, config: NomadConfig, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that lead every process to the cluster that this one is led to by its variables.

    The token is none of them.

    Raises:
        ConfigError: as for `read_settings`.
    """
    read_settings(target, config, environment)
    if not config.variables:
        return {}
    found = _by_variables(config, environment)
    return {"variables": False, **{key: str(said) if key in _FILES else said for key, said in found.items()}}


def _by_variables(config: NomadConfig, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what the variables say of what is not configured."""
    if not config.variables:
        return {}
    found: dict[str, Any] = {}
    for key, name in _VARIABLES.items():
        if (text := environment.get(name)) and getattr(config, key) in (None, ""):
            found[key] = Path(text).absolute() if key in _FILES else text
    if "tls_skip_verify" in found:
        found["tls_skip_verify"] = found["tls_skip_verify"].lower() in _YES
    return found


def connect(target: str, config: NomadConfig) -> Connection:
    """Make a client; nothing is sent.

    Raises:
        ConfigError: the settings cannot be used.
    """
    from nomad.api.base import Requester  # type: ignore[import-untyped]

    settings = read_settings(target, config, os.environ)
    if settings.verify is False:
        logger.warning("target %r (nomad): certificates are not verified", target)
    return Connection(_session(settings), settings, Requester)


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


def _pair(certificate: Path | None, key: Path | None) -> tuple[str, str] | None:
    return None if certificate is None or key is None else (str(certificate), str(key))
