"""The way to AWS: region, credentials and endpoints as boto3 finds them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agora.errors import ConfigError

from agora_fargate.config import FargateConfig, Service

#: Seconds to connect, and without a byte of an answer.
CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
_CONNECTIONS = 32
#: What boto3 calls the services in variables, and in its files in lower case.
_SERVICES: dict[Service, str] = {
    "ecs": "ECS",
    "logs": "CLOUDWATCH_LOGS",
    "secretsmanager": "SECRETS_MANAGER",
    "sqs": "SQS",
}
#: Variables with credentials, which go before those of a profile that is not configured.
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
#: Clients are made one after the other: a session of botocore is no matter for two threads.
_making = threading.Lock()


class _Discreet(logging.Filter):
    """Drops the lines in which botocore tells requests to Secrets Manager, with the values, where DEBUG is on."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line tells no such request."""
        return not any("Secret" in str(getattr(one, "name", "")) for one in record.args or ())


class Connection:
    """Clients of the services, each made at its first use.

    Parameters:
        target: the target's name.
        config: its configuration.
        agent: what the clients call themselves; CloudTrail keeps it of every call.

    Attributes:
        credentials, verify: with which requests are signed, and the certificates that servers are checked by.

    Raises:
        ConfigError: there is no region, no profile of that name, or there are no credentials.
    """

    def __init__(self, target: str, config: FargateConfig, agent: str = "agora") -> None:
        import boto3.session  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

        core = _session(config)
        self._target = target
        self._agent = agent
        self._endpoints: Mapping[Any, str] | None = config.endpoints
        self._clients: dict[str, Any] = {}
        try:
            self.region = _region(target, core)
            self._session = boto3.session.Session(botocore_session=core)
            self.credentials = credentials = self._session.get_credentials()
            bundle = core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
            self.verify: bool | str = bundle or True
        except BotoCoreError as error:
            raise ConfigError(f"target {target!r}: {error}") from error
        if credentials is None:
            raise ConfigError(
                f"target {target!r}: no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a "
                "`profile`, run `aws sso login`, or run where a role is attached"
            )
        profile = "" if config.profile is None else f", profile {config.profile!r}"
        self.source = f"region {self.region}{profile}, credentials from {credentials.method}"

    def client(self, service: str) -> Any:
        """Return the client of a service; it never repeats a request by itself.

        Raises:
            ConfigError: the configuration of the SDK is wrong.
        """
        from botocore.config import Config  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError

        with _making:
            if service not in self._clients:
                settings = Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": 1},
                    max_pool_connections=_CONNECTIONS,
                    user_agent_extra=self._agent,
                    ignore_configured_endpoint_urls=None if self._endpoints is None else True,
                )
                url = (self._endpoints or {}).get(service)
                try:
                    self._clients[service] = self._session.client(
                        service, region_name=self.region, endpoint_url=url, config=settings
                    )
                except (BotoCoreError, ValueError) as error:
                    raise ConfigError(f"target {self._target!r}: {error}") from error
                log = logging.getLogger("botocore.endpoint")
                if not any(isinstance(one, _Discreet) for one in log.filters):
                    log.addFilter(_Discreet())
            return self._clients[service]

    def close(self) -> None:
        """Close idle connections."""
        for client in list(self._clients.values()):  # another thread may make one meanwhile
            client.close()


def surroundings(target: str, config: FargateConfig) -> dict[str, Any]:
    """Return the settings that lead every process to the account that this one is led to by its surroundings.

    Credentials are none of them: of a profile its name and the files that it is in, where it has the credentials.

    Raises:
        ConfigError: there is no region, no profile of that name, or a password in an endpoint.
    """
    from botocore.exceptions import BotoCoreError

    core = _session(config)
    try:
        endpoints = _configured_endpoints(target, core) if config.endpoints is None else config.endpoints
        found: dict[str, Any] = {"region": _region(target, core), "endpoints": endpoints}
        if (profile := _profile(core, config)) is not None:
            files = {key: _absolute(core.get_config_variable(key)) for key in ("config_file", "credentials_file")}
            found |= {"profile": profile, **files}
    except BotoCoreError as error:
        raise ConfigError(f"target {target!r}: {error}") from error
    for service, url in endpoints.items():
        if "@" in urlsplit(url).netloc:
            raise ConfigError(
                f"target {target!r}: there is a password in the endpoint of {service}, where everybody would see it"
            )
    return {key: said for key, said in found.items() if getattr(config, key) is None}


def _session(config: FargateConfig) -> Any:
    import botocore.session  # type: ignore[import-untyped]

    core = botocore.session.Session(profile=config.profile)
    for key in ("region", "config_file", "credentials_file"):
        if (value := getattr(config, key)) is not None:
            core.set_config_variable(key, str(value))
    return core


def _region(target: str, core: Any) -> str:
    if region := core.get_config_variable("region"):
        return str(region)
    raise ConfigError(
        f"target {target!r}: no AWS region: give the target a `region`, or set AWS_DEFAULT_REGION or one in the profile"
    )


def _profile(core: Any, config: FargateConfig) -> str | None:
    """Return the profile that has the credentials; null where variables have them, or the role of a machine."""
    if config.profile is not None:
        return config.profile
    if any(os.environ.get(name) for name in _CREDENTIALS):
        return None
    chosen: str | None = core.get_config_variable("profile")
    return chosen or ("default" if "default" in core.available_profiles else None)


def _configured_endpoints(target: str, core: Any) -> dict[Service, str]:
    """Return the endpoints that boto3 would find in variables and in the profile."""
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return {}
    scoped = core.get_scoped_config()
    section = scoped.get("services")
    services = core.full_config.get("services", {}).get(section) or {}
    if section and not services:
        raise ConfigError(f"target {target!r}: the profile names services {section!r} that are not there")
    found = {
        service: os.environ.get(f"AWS_ENDPOINT_URL_{id}")
        or os.environ.get("AWS_ENDPOINT_URL")
        or services.get(id.lower(), {}).get("endpoint_url")
        or scoped.get("endpoint_url")
        for service, id in _SERVICES.items()
    }
    return {service: url for service, url in found.items() if url}


def _absolute(path: str) -> str:
    return str(Path(os.path.expandvars(path)).expanduser().absolute())
