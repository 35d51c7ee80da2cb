"""The suite can fail: every mutant fails exactly the requirements that are pinned to it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from agora_conformance.mutants import MUTANTS
from agora_conformance.pinned import PINNED

PASSED = ("pass", "inapplicable")


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_fails_exactly_what_is_pinned(
    name: str, mutant_reports: dict[str, Future[dict[str, Any]]]
) -> None:
    report = mutant_reports[name].result(timeout=390)
    seen = {row["id"]: f"{row['status']}: {row['message']}" for row in report["checks"] if row["status"] not in PASSED}
    unexpected = {requirement: text for requirement, text in seen.items() if requirement not in PINNED[name]}
    assert not unexpected
    assert set(seen) == set(PINNED[name])
    assert all(text.startswith("fail") for text in seen.values()), seen
    assert report["result"]["extended"] == "failed"
