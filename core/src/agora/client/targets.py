"""What `agora targets` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agora.config import Settings, validate_target
from agora.errors import ConfigError
from agora.plugins import load_provider


@dataclass(frozen=True)
class TargetStatus:
    """One configured target.

    Parameters:
        name, provider: as configured.
        config: its own keys as written; secrets are references.
        source: the file that it stands in.
        default: whether a dispatch that names no target goes here.
        error: why it cannot be used.
    """

    name: str
    provider: str
    config: Mapping[str, Any]
    source: str
    default: bool
    error: str | None = None


def target_statuses(settings: Settings) -> list[TargetStatus]:
    """Check every configured target without using it.

    Raises:
        ConfigError: the configuration could not be read.
    """
    settings.require()
    found = []
    for name, target in sorted(settings.targets.items()):
        error = None
        try:
            validate_target(target, load_provider(target.provider).config_model)
        except ConfigError as problem:
            error = str(problem)
        default = name == settings.default_target
        found.append(TargetStatus(name, target.provider, target.table, target.source, default, error))
    return found
