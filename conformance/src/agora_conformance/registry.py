"""Checks register here by the id of their requirement."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING

from agora_conformance import checks
from agora_conformance.requirements import BY_ID

if TYPE_CHECKING:
    from agora_conformance.arena import Arena

Check = Callable[["Arena"], Awaitable[None]]

_CHECKS: dict[str, Check] = {}


def check(requirement: str) -> Callable[[Check], Check]:
    """Register the check of one requirement.

    Raises:
        ValueError: there is no such requirement, or it has a check already.
    """
    if requirement not in BY_ID:
        raise ValueError(f"{requirement} is no requirement")

    def register(function: Check) -> Check:
        if requirement in _CHECKS:
            raise ValueError(f"{requirement} has two checks")
        _CHECKS[requirement] = function
        return function

    return register


@cache
def load_checks() -> dict[str, Check]:
    """Import every module of checks and return the checks by requirement."""
    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"{checks.__name__}.{module.name}")
    return dict(_CHECKS)
