"""Agora provider for Docker Engine: a container per dispatch."""

from collections.abc import Mapping
from typing import Any

from agora.model.base import Model
from agora.model.capabilities import FULL, Capabilities, Limits, cannot
from agora.provider import Installation, ProviderInfo

from agora_docker.config import DockerConfig, DockerOptions

__all__ = ["PROVIDER"]


def _create(target_name: str, config: Model, installation: Installation) -> object:
    from agora_docker.provider import DockerProvider

    if not isinstance(config, DockerConfig):
        raise TypeError(f"DockerConfig expected, not {type(config).__name__}")
    return DockerProvider(target_name, config, installation)


def _surroundings(target_name: str, config: Model) -> Mapping[str, Any]:
    from agora_docker.endpoint import surroundings

    if not isinstance(config, DockerConfig):
        raise TypeError(f"DockerConfig expected, not {type(config).__name__}")
    return surroundings(target_name, config)


PROVIDER = ProviderInfo(
    name="docker",
    config_model=DockerConfig,
    options_model=DockerOptions,
    create=_create,
    surroundings=_surroundings,
    capabilities=Capabilities(
        grace_per_stop=FULL,
        shorten=FULL,
        force_kill=FULL,
        stop_signal=FULL,
        native_deadline=cannot("the engine has no deadline for a container; the background supervisor keeps it"),
        logs=FULL,
        logs_after_end=FULL,
        watch=FULL,
        reattach=FULL,
        exit_code_after_end=FULL,
        exit_code_after_stop=FULL,
        oom_reason=FULL,
        secrets=FULL,
    ),
    # An engine that was given another data directory does not know its containers, and their processes may run
    # on, so absence proves no death. What this provider created is noted before it is asked for, together with the
    # engine that was asked, so absence there does prove that nothing was started.
    limits=Limits(
        settle_time=0,
        report_lag=2,
        concurrency=32,
        absence_proves_death=False,
        absence_proves_never_started=True,
    ),
)
