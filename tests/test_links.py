"""What the pages name exists: commands, options, files, headings."""

import importlib
import re
import typing
from collections.abc import Iterable
from pathlib import Path

import click
import pytest
from agora.cli.app import COMMANDS, app
from agora_conformance.cli import main as conformance

from tests.pages import EVERY_PAGE, PAGES, ROOT, anchor


def code_of(page: str) -> str:
    """Return the blocks and the words in backticks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return "\n".join([*fenced, *inline])


def options_of(commands: Iterable[click.Command]) -> set[str]:
    """Return every option of these commands."""
    found: set[str] = set()
    for command in commands:
        with click.Context(command) as context:
            for parameter in command.get_params(context):
                found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def agora_commands() -> dict[str, click.Command]:
    """Return every command of `agora`."""
    group = typing.cast("click.Group", app)
    found = {}
    with click.Context(group) as context:
        for name in COMMANDS:
            command = group.get_command(context, name)
            assert command is not None
            found[name] = command
    return found


def commands_in(text: str) -> set[str]:
    """Return the commands of `agora` that a text names."""
    return set(re.findall(r"(?<!from )(?<![\w./-])(?:\S*/bin/)?agora ([a-z]+)\b", text))


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_command_that_is_named_exists(page: str) -> None:
    text = code_of(page)
    assert commands_in(text) <= COMMANDS.keys()
    assert set(re.findall(r"\bagora-conformance ([a-z]+)\b", text)) <= conformance.commands.keys()


def test_every_command_is_told_and_commands_are_found() -> None:
    text = code_of("docs/cli.md")
    assert {name for name in COMMANDS if not re.search(rf"(^|[\s`]){name}\b", text, flags=re.MULTILINE)} == set()
    assert commands_in(code_of("README.md")) == {"cancel", "dispatch", "ps", "run", "show"}


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_every_option_that_is_named_exists(page: str) -> None:
    known = options_of([app, *agora_commands().values(), *conformance.commands.values()])
    assert {"--grace", "--profile"} <= known
    others = {"--find-links", "--no-index", "--offline", "--install-engine"}  # of pip, scripts/wheels, scripts/setup
    others |= {"--filter", "--live-restore"}  # of docker and dockerd
    # Of aws, and of the modules of agora-fargate that are run by themselves.
    others |= {"--account", "--cluster", "--execution", "--log-group-name", "--region", "--remove", "--role"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", code_of(page)))
    assert named - known - others == set()


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    source = ROOT / page
    text = source.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", " ".join(text.split())):
        if re.match(r"\w+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = (source.parent / name).resolve() if name else source
        assert path.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, target


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in seen or path.suffix != ".md":
            continue
        seen.add(path)
        text = " ".join(path.read_text(encoding="utf-8").split())
        names = re.findall(r"\]\((?!\w+:)([^)#\s]+)", text)
        waiting += [(path.parent / name).resolve() for name in names if (path.parent / name).exists()]
    assert {page for page in PAGES if ROOT / page not in seen} == set()


def test_the_modules_that_the_core_names_exist() -> None:
    names = re.findall(r"`(agora\.\w+)`", (ROOT / "core" / "README.md").read_text(encoding="utf-8"))
    assert names
    for name in names:
        importlib.import_module(name)
