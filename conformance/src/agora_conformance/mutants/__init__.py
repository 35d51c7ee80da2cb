"""Providers with one planted fault each, over the local one: the suite proves with them that it can fail.

`agora-conformance run agora_conformance.mutants:KILLS_AT_ONCE` runs one of them.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import ModuleType

from agora.provider import ProviderInfo

from agora_conformance.mutants import starting, stopping, telling
from agora_conformance.mutants.base import Mutant, name_of, provider_of, target_of
from agora_conformance.target import ConformanceTarget

_PROVIDER = "PROVIDER_"


def _kinds(module: ModuleType) -> list[type[Mutant]]:
    return [
        kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, Mutant) and kind is not Mutant and not name.startswith("_")
    ]


#: Every mutant by its name.
MUTANTS: dict[str, type[Mutant]] = {
    name_of(kind): kind for module in (stopping, starting, telling) for kind in _kinds(module)
}


def address_of(name: str) -> str:
    """Return where the target of a mutant can be imported from."""
    return f"{__name__}:{name.upper().replace('-', '_')}"


@cache
def __getattr__(attribute: str) -> ConformanceTarget | ProviderInfo:
    """Make the target `NAME`, or the provider `PROVIDER_NAME`, of a mutant."""
    name = attribute.removeprefix(_PROVIDER).lower().replace("_", "-")
    if name not in MUTANTS:
        raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
    if attribute.startswith(_PROVIDER):
        return provider_of(MUTANTS[name])
    return target_of(MUTANTS[name], f"{__name__}:{_PROVIDER}{attribute}")
