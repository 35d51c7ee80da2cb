"""The way to AWS: region, credentials and endpoints as boto3 finds them."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from agora.errors import ConfigError

from agora_fargate.config import FargateConfig

#: Seconds to connect, and without a byte of an answer.
CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
_CONNECTIONS = 32
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
        import botocore.session  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

        core = botocore.session.Session(profile=config.profile)
        if config.config_file is not None:
            core.set_config_variable("config_file", str(config.config_file))
        self._target = target
        self._agent = agent
        self._clients: dict[str, Any] = {}
        try:
            self._session = boto3.session.Session(botocore_session=core, region_name=config.region)
            self.region = self._session.region_name
            self.credentials = credentials = self._session.get_credentials()
            bundle = core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
            self.verify: bool | str = bundle or True
        except BotoCoreError as error:
            raise ConfigError(f"target {target!r}: {error}") from error
        if not self.region:
            raise ConfigError(
                f"target {target!r}: no AWS region: give the target a `region`, or set AWS_DEFAULT_REGION or one in "
                "the profile"
            )
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
                )
                try:
                    self._clients[service] = self._session.client(service, region_name=self.region, config=settings)
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
