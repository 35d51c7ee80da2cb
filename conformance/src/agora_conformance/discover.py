"""Find targets by their entry points; nothing is imported before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from agora_conformance.target import ConformanceTarget

TARGETS = "agora.conformance"


class Unusable(Exception):
    """There is no such target, or it cannot be loaded; the message says what to do."""


@dataclass(frozen=True)
class Listed:
    """One target as `list` shows it.

    Parameters:
        name: name of its entry point.
        distribution: the package that declares it.
        target: null where it cannot be loaded.
        error: why it cannot be loaded.
    """

    name: str
    distribution: str
    target: ConformanceTarget | None = None
    error: str | None = None


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "?"


def _load(point: EntryPoint) -> ConformanceTarget:
    try:
        loaded = point.load()
        target = loaded if isinstance(loaded, ConformanceTarget) else loaded()
    except Exception as error:
        raise Unusable(f"{point.value} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(target, ConformanceTarget):
        raise Unusable(f"{point.value} is a {type(target).__name__} and no ConformanceTarget")
    tested, _ = provider_distribution(target.provider)
    if point.dist is not None and tested is not None and tested.lower() != point.dist.name.lower():
        # A copied target that still names the original would earn a report with somebody else's code.
        raise Unusable(
            f"{point.value} of {point.dist.name} tests the provider {target.provider!r}, which {tested} brings: "
            "set `provider` of its ConformanceTarget to your own"
        )
    return target


def load_target(name: str) -> ConformanceTarget:
    """Return the target that the entry point `name` of group `agora.conformance` declares.

    Parameters:
        name: name of the entry point, or `module:attribute` of a target that is being developed.

    Raises:
        Unusable: there is none, more than one, or it cannot be loaded.
    """
    if ":" in name:
        return _load(EntryPoint(name, name, TARGETS))
    found = list(entry_points(group=TARGETS, name=name))
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group=TARGETS))) or "none"
        raise Unusable(
            f"no conformance target {name!r} is installed (installed: {known}); a package declares one by an entry "
            f"point of the group {TARGETS!r}"
        )
    owners = sorted({_distribution(point) for point in found})
    if len(owners) > 1:
        raise Unusable(f"the conformance target {name!r} is declared more than once: {', '.join(owners)}")
    return _load(found[0])


def list_targets() -> list[Listed]:
    """Return every declared target, those that cannot be loaded with their error."""
    listed = []
    for point in sorted(entry_points(group=TARGETS), key=lambda point: point.name):
        try:
            listed.append(Listed(point.name, _distribution(point), target=_load(point)))
        except Unusable as error:
            listed.append(Listed(point.name, _distribution(point), error=str(error)))
    return listed


def provider_distribution(provider: str) -> tuple[str | None, str | None]:
    """Return the name and version of the package that brings a provider, where it is an installed one."""
    for point in entry_points(group="agora.providers", name=provider):
        if point.dist is not None:
            return point.dist.name, point.dist.version
    return None, None
