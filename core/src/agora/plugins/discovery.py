"""Providers and extensions by entry point; listing imports none of them."""

from __future__ import annotations

import importlib
import logging
import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import ValidationError

from agora.errors import ConfigError, ProviderNotInstalled
from agora.model.capabilities import Capabilities
from agora.plugins.chain import TargetHooks
from agora.provider import CONTRACT, Installation, ProviderInfo

logger = logging.getLogger(__name__)

PROVIDERS = "agora.providers"
EXTENSIONS = "agora.extensions"

#: Distributions of this project, for the hint when a provider is missing.
DISTRIBUTIONS = {
    "local": "agora-local",
    "docker": "agora-docker",
    "k8s": "agora-k8s",
    "nomad": "agora-nomad",
    "fargate": "agora-fargate",
}


@dataclass(frozen=True)
class ProviderStatus:
    """One installed provider.

    Parameters:
        name: as targets name it.
        distribution, version: the package that brings it.
        status: `ok`, or `broken` with the error.
        capabilities: what it can do, once loaded.
    """

    name: str
    distribution: str | None
    version: str | None
    status: Literal["ok", "broken"]
    error: str | None = None
    capabilities: Capabilities | None = None


def list_providers() -> list[ProviderStatus]:
    """Load every installed provider and say how that went; one that is broken does not stop the others."""
    found: list[ProviderStatus] = []
    for name, points in sorted(_by_name(PROVIDERS).items()):
        dist = points[0].dist
        package, version = (None, None) if dist is None else (dist.name, dist.version)
        try:
            info = load_provider(name)
            _check_hooks(info)
        except ConfigError as error:
            found.append(ProviderStatus(name, package, version, "broken", str(error)))
        else:
            found.append(ProviderStatus(name, package, version, "ok", None, info.capabilities))
    return found


def _check_hooks(info: ProviderInfo) -> None:
    """Make a plugin, where the provider needs no configuration for that, and see that its hooks are whole.

    Raises:
        ConfigError: it cannot be made, or is refused.
    """
    try:
        config = info.config_model()
    except ValidationError:
        return
    with TemporaryDirectory(prefix="agora-") as folder:
        try:
            plugin = info.create(info.name, config, Installation("check-of-providers", Path(folder)))
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"provider {info.name!r} cannot be used: {type(error).__name__}: {error}") from error
        TargetHooks(info.name, plugin)


def load_provider(name: str) -> ProviderInfo:
    """Load a provider by its name, or by `module:attribute` while it is being developed.

    Raises:
        ProviderNotInstalled: nothing of that name is installed, it cannot be imported, two distributions claim
            the name, it was written for another contract, or it exports no `ProviderInfo`.
    """
    if ":" in name:
        return _checked(name, _import(name, EntryPoint(name, name, PROVIDERS)), named=False)
    points = _by_name(PROVIDERS).get(name, [])
    if not points:
        raise ProviderNotInstalled(_not_installed(name))
    if len(points) > 1:
        owners = ", ".join(sorted(str(p.dist.name) for p in points if p.dist is not None))
        raise ProviderNotInstalled(f"provider {name!r} is claimed by more than one package: {owners}; uninstall one")
    return _checked(name, _import(name, points[0]), named=True)


def load_extensions() -> list[object]:
    """Load the extensions: entry points of `agora.extensions` and `AGORA_EXTENSIONS` (`module:object`, commas).

    One that cannot be loaded is logged and left out.
    """
    points = [point for same in _by_name(EXTENSIONS).values() for point in same]
    named = [part.strip() for part in os.environ.get("AGORA_EXTENSIONS", "").split(",") if part.strip()]
    points += [EntryPoint(part, part, EXTENSIONS) for part in named]
    loaded = []
    for point in points:
        try:
            extension = point.load()
            loaded.append(extension() if isinstance(extension, type) else extension)
        except Exception:
            logger.exception("extension %s cannot be loaded and is left out", point.value)
    return loaded


def _by_name(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=group):
        owner = point.value if point.dist is None else point.dist.name.lower()
        found.setdefault(point.name, {}).setdefault(owner, point)
    return {name: list(owners.values()) for name, owners in found.items()}


def _import(name: str, point: EntryPoint) -> object:
    module, _, attribute = point.value.partition(":")
    try:
        value: object = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except Exception as error:
        raise ProviderNotInstalled(
            f"provider {name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return value


def _checked(name: str, info: object, *, named: bool) -> ProviderInfo:
    if not isinstance(info, ProviderInfo):
        raise ProviderNotInstalled(f"provider {name!r} exports no ProviderInfo but {type(info).__name__}")
    if info.contract.partition(".")[0] != CONTRACT.partition(".")[0]:
        raise ProviderNotInstalled(
            f"provider {name!r} was written for contract {info.contract}, this Agora speaks {CONTRACT}: "
            "install versions that belong together"
        )
    if named and info.name != name:
        raise ProviderNotInstalled(f"provider {name!r} calls itself {info.name!r}; the names must be equal")
    return info


def _not_installed(name: str) -> str:
    package = DISTRIBUTIONS.get(name)
    installed = ", ".join(sorted(_by_name(PROVIDERS))) or "none"
    if package is None:
        return f"provider {name!r} is not installed (installed: {installed}); install the package that brings it"
    return f"provider {name!r} is not installed (installed: {installed}); install the package {package}"
