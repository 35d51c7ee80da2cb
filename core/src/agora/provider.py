"""What a provider package exports: one `ProviderInfo`, whose import loads no SDK."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agora.model.base import Model
from agora.model.capabilities import Capabilities, Limits

CONTRACT = "1.0"


class NoConfig(Model):
    """The model of a provider that has nothing to configure."""


@dataclass(frozen=True)
class Installation:
    """One store, as a provider sees it.

    Parameters:
        id: the mark that every workload carries.
        directory: where a provider may keep files of its own, one folder a target.
    """

    id: str
    directory: Path


@dataclass(frozen=True)
class ProviderInfo:
    """A provider, as its entry point in `agora.providers` exports it.

    Parameters:
        name: the provider's name, equal to the entry point's.
        contract: version of the contract that it was written for; another major version is not loaded.
        config_model: model of a target's table in the configuration.
        options_model: model of `spec.options`.
        capabilities: what it can do.
        limits: its numbers.
        create: `create(target_name, config, installation)` returns the plugin; imports the SDK at first use.
        surroundings: `surroundings(target_name, config)` returns the keys of the target's table that a configuration
            leaves to the process (its variables, its user's settings), with what they are here. They are stored with
            a dispatch, so that every process finds the same backend; no secrets.
    """

    name: str
    create: Callable[[str, Model, Installation], object]
    contract: str = CONTRACT
    config_model: type[Model] = NoConfig
    options_model: type[Model] = NoConfig
    capabilities: Capabilities = field(default_factory=Capabilities)
    limits: Limits = field(default_factory=Limits)
    surroundings: Callable[[str, Model], Mapping[str, Any]] | None = None
