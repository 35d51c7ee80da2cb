"""Which backends the tests can reach, and which of them must be there.

A backend is known by its package, plugins/agora-NAME. AGORA_TEST_REQUIRE lists, with commas, the ones that
must be tested: a listed one that is missing fails, another one that is missing counts as not tested.
"""

import os
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _local() -> str | None:
    if not hasattr(os, "pidfd_open"):
        return "this system has no pidfd (Linux 5.3 or later)"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    return None


#: For each backend: says why it cannot be used here, None where it can. A probe ends within 10 s.
PROBES: dict[str, Callable[[], str | None]] = {"local": _local}


def known() -> list[str]:
    """Return the names of the backends that have a provider package in this repository."""
    return sorted(path.parent.name.removeprefix("agora-") for path in ROOT.glob("plugins/agora-*/pyproject.toml"))


def required() -> list[str]:
    """Return the names that AGORA_TEST_REQUIRE lists."""
    names = os.environ.get("AGORA_TEST_REQUIRE", "").split(",")
    return sorted({name.strip() for name in names if name.strip()})


def missing_reason(name: str) -> str | None:
    """Return why the backend `name` cannot be tested here, None where it can."""
    if name not in known():
        return f"there is no plugins/agora-{name}"
    if name not in PROBES:
        return "scripts/backends.py has no probe for it"
    return PROBES[name]()
