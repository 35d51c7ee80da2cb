"""What README and CONTRIBUTING point to exists."""

import os
import re

import pytest
import setup_main

ROOT = setup_main.ROOT
PAGES = ["README.md", "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!\w+://|#)([^)#]+)[^)]*\)", text)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_script_that_is_named_can_be_run(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    names = set(re.findall(r"(?:scripts|\.ci)/[a-z]+\b(?!\.)", text))
    assert names
    for name in names:
        assert os.access(ROOT / name, os.X_OK), name
