"""What the pages tell people to type works, and what README and CONTRIBUTING point to exists.

Shell blocks of README run word for word, each Python block of a page is a whole program and runs, each TOML block is
read. A block that cannot be treated so says why in a comment before it: `<!-- not run: ... -->` (shell),
`<!-- fragment: ... -->` (Python: it is compiled; TOML: it is parsed), `<!-- skeleton: ... -->` (Python: a provider).
"""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import setup_main
from agora.client import BlockingClient
from agora.config import load_settings
from agora.hookspecs import REQUIRED_HOOKS
from agora.plugins import TargetHooks
from agora.provider import Installation, ProviderInfo

ROOT = setup_main.ROOT
PAGES = ["README.md", "CONTRIBUTING.md"]
WITH_CODE = ["README.md", "core/README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
#: A program of a page, or a block of README, is done after so many seconds.
PATIENCE = 150


@dataclass(frozen=True)
class Block:
    """A fenced block: its page and first line, its language, the word of the comment before it, its text."""

    page: str
    line: int
    language: str
    comment: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    lines = (ROOT / page).read_text(encoding="utf-8").split("\n")
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        comment = re.match(r"<!-- (not run|fragment|skeleton): .+ -->$", lines[start - 1])
        text = "\n".join(lines[start + 1 : number]) + "\n"
        yield Block(page, start + 1, lines[start][3:].strip(), comment.group(1) if comment else "", text)
        start = None
    assert start is None, f"{page}: a block is not closed"


ALL = [block for page in WITH_CODE for block in blocks(page)]


def chosen(language: str, *comments: str) -> list[Block]:
    """Return the blocks of a language with one of these comments."""
    return [block for block in ALL if block.language == language and block.comment in comments]


def finish(program: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in the state directory of the test."""
    return subprocess.run(
        program,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def installation() -> Iterator[str]:
    """Return the id of the test's installation, whose workloads are ended in the end."""
    with BlockingClient(supervisor=False) as client:
        yield (Path(os.environ["AGORA_HOME"]) / "installation").read_text(encoding="utf-8").strip()
        for record in client.list(live=True):
            client.cancel(record.id, force=True)


def workloads(installation: str) -> list[str]:
    """Look for workloads of an installation from outside: the command lines of processes that carry its mark."""
    mark = f"AGORA_DISPATCH_INSTALLATION={installation}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def eventually(question: Callable[[], bool]) -> bool:
    """Ask until it is true, for at most 60 s."""
    until = time.monotonic() + 60
    while not question():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def recorded() -> list[dict[str, object]]:
    """Read the public part of every record, oldest first, without the code under test."""
    with closing(sqlite3.connect(Path(os.environ["AGORA_HOME"]) / "agora.db")) as connection:
        rows = connection.execute("SELECT body FROM dispatches ORDER BY id").fetchall()
    return [json.loads(row[0]) for row in rows]


def test_there_is_something_of_each_kind() -> None:
    """An empty list of blocks would pass every test below."""
    assert len([block for block in chosen("sh", "") if block.page == "README.md"]) >= 4
    assert len(chosen("python", "")) >= 6
    assert len(chosen("python", "skeleton")) == 1
    assert chosen("toml", "")


# --- shell ---------------------------------------------------------------------------------------------------


OF_README = [block for block in chosen("sh", "") if block.page == "README.md"]


@pytest.fixture
def environment() -> None:
    """Refuse to go on where `scripts/setup` would have to work: it would change what these tests run in."""
    if setup_main.read_stamp() != setup_main.wanted_stamp():
        pytest.fail("the environment is not up to date: run scripts/setup", pytrace=False)


@pytest.mark.backend("local")
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("block", [block for block in OF_README if "docker" not in block.text], ids=str)
def test_a_shell_block_of_the_readme_works_word_for_word(block: Block, installation: str) -> None:
    done = finish(["sh", "-euc", block.text], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert eventually(lambda: not workloads(installation))
    if "examples/" in block.text:
        for said in ("winner: near", "ran: 10 cancelled: 5 never started: 5", "requests that counted: 1"):
            assert said in done.stdout.splitlines()
        assert {record["state"] for record in recorded()} == {"succeeded", "failed", "cancelled"}
    if "agora cancel" not in block.text:
        return
    ran, cancelled = recorded()
    assert ran["state"] == "succeeded"
    assert f"hello from {ran['id']}\n" in done.stdout
    cause = cancelled["cause"]
    assert isinstance(cause, dict)
    assert (cancelled["state"], cause["reason"], cause["via"]) == ("cancelled", "the wrong input file", "cli")
    assert re.search(rf"^{cancelled['id']} .* running ", done.stdout, flags=re.MULTILINE)


@pytest.fixture
def containers(installation: str) -> Iterator[Callable[[str], str]]:
    """Return what a format of `docker ps` says of all containers of the installation, which are removed in the end."""

    def listed(form: str) -> str:
        mark = f"label=agora.installation={installation}"
        return subprocess.check_output(
            ["docker", "ps", "-a", "--filter", mark, "--format", form], text=True, timeout=60
        )

    yield listed
    if found := listed("{{.ID}}").split():
        subprocess.run(["docker", "rm", "-f", "-v", *found], check=True, capture_output=True, timeout=60)


@pytest.mark.backend("docker")
@pytest.mark.usefixtures("environment")
def test_the_docker_block_of_the_readme_works_word_for_word(
    installation: str, containers: Callable[[str], str]
) -> None:
    (block,) = [block for block in OF_README if "docker" in block.text]
    done = finish(["sh", "-euc", block.text], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert eventually(lambda: not workloads(installation))
    (record,) = recorded()
    assert (record["state"], record["exit_code"], record["confirmed"]) == ("cancelled", 143, True)
    assert f"agora-{record['id']}-" in done.stdout, "docker ps shows it while it runs"
    assert containers("{{.Status}}").startswith("Exited (143)")


# --- Python --------------------------------------------------------------------------------------------------


@pytest.mark.backend("local")
@pytest.mark.parametrize("block", [block for block in chosen("python", "") if block.page != "README.md"], ids=str)
def test_a_program_of_a_page_runs(block: Block, installation: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text, encoding="utf-8")
    done = finish([sys.executable, "-W", "error", str(program)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert eventually(lambda: not workloads(installation))
    assert {record["state"] for record in recorded()} <= {"succeeded", "failed", "cancelled"}


@pytest.mark.backend("local")
def test_the_programs_of_the_readme_tell_what_is_stored(installation: str, tmp_path: Path) -> None:
    programs = [block.text for block in chosen("python", "") if block.page == "README.md"]
    printed = [finish([sys.executable, "-W", "error", "-c", text], tmp_path).stdout for text in programs]
    assert eventually(lambda: not workloads(installation))
    cancelled, failed = recorded()
    assert (cancelled["state"], cancelled["labels"], cancelled["confirmed"]) == ("cancelled", {"team": "data"}, True)
    assert printed[0].startswith("STOPPING delivered: True\ncancelled 143 forced: False confirmed: True\n")
    assert (failed["state"], failed["exit_code"], failed["timeout"]) == ("failed", 3, 60)
    assert printed[1] == "failed 3\nstdout b'hello\\n'\n"


def test_the_copy_of_a_store_in_use_is_whole(tmp_path: Path) -> None:
    (block,) = [block for block in chosen("python", "") if block.page == "docs/operations.md"]
    with BlockingClient(supervisor=False) as client:
        client.dispatch(command=["/no/such/program"])
        assert finish([sys.executable, "-c", block.text], tmp_path).returncode == 0
    before = recorded()
    home = Path(os.environ["AGORA_HOME"])
    (home / "backup.db").rename(home / "agora.db")
    for left in ("agora.db-wal", "agora.db-shm"):
        (home / left).unlink(missing_ok=True)
    assert len(before) == 1
    assert recorded() == before


@pytest.mark.parametrize("block", chosen("python", "fragment"), ids=str)
def test_a_fragment_compiles_and_imports_what_there_is(block: Block) -> None:
    compile(block.text, str(block), "exec")
    imports = "\n".join(line for line in block.text.splitlines() if line.startswith(("import ", "from ")))
    exec(imports, {})


def test_the_skeleton_of_a_provider_is_accepted(tmp_path: Path) -> None:
    (block,) = chosen("python", "skeleton")
    module = ModuleType("agora_example")
    exec(compile(block.text, str(block), "exec"), vars(module))
    info = module.PROVIDER
    assert isinstance(info, ProviderInfo)
    plugin = info.create("example", info.config_model(), Installation("installation", tmp_path))
    assert TargetHooks("example", plugin).hooks == set(REQUIRED_HOOKS)


# --- TOML ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", chosen("toml", "", "fragment"), ids=str)
def test_a_toml_block_can_be_read(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.backend("local")
def test_the_configuration_of_the_page_is_accepted(tmp_path: Path) -> None:
    (block,) = [block for block in chosen("toml", "") if block.page == "docs/configuration.md"]
    (tmp_path / "agora.toml").write_text(block.text, encoding="utf-8")
    settings = load_settings(directory=tmp_path)
    with BlockingClient(settings=settings, supervisor=False) as client:
        errors = {target.name: target.error for target in client.targets()}
    assert errors == {"box": None, "local": None, "scratch": None}
    assert (settings.default_target, settings.timeout_cap) == ("box", 3600)


# --- links and scripts ---------------------------------------------------------------------------------------


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
