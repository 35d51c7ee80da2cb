"""Every requirement has one check, every check a requirement, every mutant a requirement that it fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from agora.model.capabilities import Capabilities
from agora_conformance.mutants import MUTANTS
from agora_conformance.pinned import PINNED
from agora_conformance.registry import check, load_checks
from agora_conformance.render import requirement_list
from agora_conformance.requirement import Level, Requirement, Tier
from agora_conformance.requirements import BY_ID, FAMILIES, REQUIREMENTS

#: What no mutant of the local provider can break, and why.
WITHOUT_MUTANT = {
    "CANCEL-02": "the core answers alone; no provider is asked",
    "DISP-12": "the local provider has no images",
    "CAP-09": "the local provider does not claim it",
    "CAP-11": "the local provider does not claim it",
}


def test_every_requirement_has_a_check_and_every_check_a_requirement() -> None:
    assert set(load_checks()) == {requirement.id for requirement in REQUIREMENTS}


def test_a_check_for_nothing_and_a_second_check_are_refused() -> None:
    with pytest.raises(ValueError, match="is no requirement"):
        check("DISP-99")
    load_checks()
    with pytest.raises(ValueError, match="has two checks"):
        check("DISP-01")(load_checks()["DISP-02"])


def test_ids_are_unique_and_of_a_known_family() -> None:
    assert len(BY_ID) == len(REQUIREMENTS)
    assert len({requirement.slug for requirement in REQUIREMENTS}) == len(REQUIREMENTS)
    for requirement in REQUIREMENTS:
        assert re.fullmatch(r"[A-Z]+-\d\d", requirement.id)
        assert requirement.family in FAMILIES
        assert requirement.sentence.endswith(".")
        assert len(requirement.sentence.split()) > 5


def test_every_capability_is_asked_for_by_some_requirement() -> None:
    assert {requirement.capability for requirement in REQUIREMENTS} - {None} == set(Capabilities.model_fields)


def test_every_mutant_fails_something_and_every_requirement_is_failed_by_a_mutant() -> None:
    assert set(PINNED) == set(MUTANTS)
    assert all(PINNED.values())
    assert {requirement for failed in PINNED.values() for requirement in failed} <= set(BY_ID)
    assert {requirement.id for requirement in REQUIREMENTS if not requirement.mutants} == set(WITHOUT_MUTANT)


def test_the_core_is_every_must_without_a_capability() -> None:
    sentence = "A rule that is there for this test only."
    assert Requirement("X-01", "x", sentence).tier is Tier.CORE
    assert Requirement("X-01", "x", sentence, level=Level.SHOULD).tier is Tier.EXTENDED
    assert Requirement("X-01", "x", sentence, capability="logs").tier is Tier.EXTENDED


def test_the_list_in_the_documentation_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "conformance.md"
    assert page.read_text(encoding="utf-8") == requirement_list()
