"""Where the engine is: a configured host, a context, or what the `docker` command would use."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agora.errors import ConfigError
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from agora_docker.config import DockerConfig

_SCHEMES = ("unix", "tcp", "ssh", "http", "https")
_DEFAULT = "default"


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
        ConfigError: no such context, certificates that are not there, or an address that makes no sense.
    """
    try:
        if config.host is not None:
            found = _configured(config.host, f"targets.{target_name}.host", config)
        elif config.context is not None:
            found = _context(config.context, f"targets.{target_name}.context")
        else:
            found = _surroundings()
        _check(found)
    except (DockerException, OSError) as error:
        raise ConfigError(f"target {target_name!r}: {error}") from error
    return found


def surroundings(target_name: str, config: DockerConfig) -> dict[str, str]:
    """Return the settings that lead every process to the engine that this one is led to by its surroundings.

    Nothing where these turn off the check of a certificate, which no setting does.

    Raises:
        ConfigError: as for `resolve`.
    """
    if config.host is not None or config.context is not None:
        return {}
    found = resolve(target_name, config)
    if found.tls is None:
        return {"host": found.url}
    if not found.tls.verify:
        return {}
    files = {"tls_ca": found.tls.ca_cert}
    if found.tls.cert is not None:
        files["tls_cert"], files["tls_key"] = found.tls.cert
    return {"host": found.url, **{key: str(Path(file).absolute()) for key, file in files.items() if file}}


def _check(endpoint: Endpoint) -> None:
    """Refuse an address that can lead nowhere; one without a scheme is for the SDK to read."""
    scheme, colon, _ = endpoint.url.partition("://")
    if not colon:
        return
    try:
        parts = urlsplit(endpoint.url)
        port = parts.port if scheme != "unix" else None
    except ValueError as error:
        raise ConfigError(f"{endpoint.source}: {error}") from error
    if parts.password is not None:
        raise ConfigError(f"{endpoint.source}: there is a password in the address, where everybody would see it")
    words = f"{endpoint.source}: {endpoint.url!r} is no address of an engine: "
    if scheme not in _SCHEMES:
        raise ConfigError(f"{words}it begins with {scheme}://, not with unix://, tcp:// or ssh://")
    if scheme == "unix":
        if not (parts.netloc + parts.path).strip("/"):
            raise ConfigError(f"{words}it names no socket")
    elif port == 0 or (scheme == "ssh" and not parts.hostname):
        raise ConfigError(f"{words}it names no {'port' if parts.hostname else 'host'}")


# --- certificates --------------------------------------------------------------------------------------------------


def _configured(url: str, source: str, config: DockerConfig) -> Endpoint:
    if config.tls_ca is None and config.tls_cert is None:
        return Endpoint(url, source)
    ca, cert, key = (path and path.expanduser() for path in (config.tls_ca, config.tls_cert, config.tls_key))
    return Endpoint(url, source, _tls(source, ca, cert, key))


def _tls(source: str, ca: Path | None, cert: Path | None, key: Path | None, verify: bool = True) -> TLSConfig:
    for path in (ca, cert, key):
        if path is not None and not path.is_file():
            raise ConfigError(f"{source}: {path}, needed for TLS, is no file")
    pair = (str(cert), str(key)) if cert and key else None
    try:
        context = ssl.create_default_context(cafile=ca)
        if pair is not None:
            context.load_cert_chain(*pair, password="")  # a key with a passphrase would ask the terminal for it
    except (OSError, ValueError) as error:
        files = ", ".join(str(path) for path in (ca, cert, key) if path is not None)
        raise ConfigError(f"{source}: TLS cannot be had with {files}: {error}") from error
    return TLSConfig(client_cert=pair, ca_cert=str(ca) if ca else None, verify=verify)


# --- as the docker command does ------------------------------------------------------------------------------------


def _own() -> Path:
    try:
        return Path.home() / ".docker"
    except RuntimeError:  # a user without a home, as in many containers
        return Path("/nonexistent")


def _folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or _own())


def _surroundings() -> Endpoint:
    if os.environ.get("DOCKER_HOST"):
        return _by_variables("DOCKER_HOST")
    if chosen := os.environ.get("DOCKER_CONTEXT"):
        return _context(chosen, "DOCKER_CONTEXT")
    path = _folder() / "config.json"
    try:
        current = json.loads(path.read_text(encoding="utf-8")).get("currentContext")
    except (FileNotFoundError, NotADirectoryError):
        current = None
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read, and may name another engine: {error}") from error
    return _context(current or _DEFAULT, "the current context of docker")


def _by_variables(source: str) -> Endpoint:
    certificates = os.environ.get("DOCKER_CERT_PATH")
    if certificates or os.environ.get("DOCKER_TLS_VERIFY"):
        folder = Path(certificates) if certificates else _own()
        _tls(source, folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    found = kwargs_from_env()
    url = found.get("base_url") or DEFAULT_UNIX_SOCKET.replace("http+unix:", "unix:")
    return Endpoint(url, source, found.get("tls"))


def _context(name: str, source: str) -> Endpoint:
    """Read a context where the `docker` command keeps it.

    The SDK looks for it below the working directory where there is no `config.json`, goes without TLS where a file
    is missing, and to the usual socket where a context names no engine.
    """
    if name == _DEFAULT:
        return _by_variables(source)
    folder, hashed = _folder() / "contexts", hashlib.sha256(name.encode()).hexdigest()
    path = folder / "meta" / hashed / "meta.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["Endpoints"]["docker"]
        url, skip = str(said["Host"]), bool(said.get("SkipTLSVerify"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{source}: there is no context {name!r} in {folder}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source}: the context {name!r} names no engine: {path}") from error
    kept = folder / "tls" / hashed / "docker"
    ca, cert, key = (file if (file := kept / f"{part}.pem").exists() else None for part in ("ca", "cert", "key"))
    if (cert is None) != (key is None):
        raise ConfigError(f"{source}: the context {name!r} has only one of cert.pem and key.pem: {kept}")
    secured = (ca or cert or skip) and not url.startswith(("unix://", "ssh://"))
    return Endpoint(url, source, _tls(source, ca, cert, key, verify=not skip) if secured else None)
