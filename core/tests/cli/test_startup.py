"""What a key press and `--help` cost: nothing heavy is imported for them."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from agora.cli.app import COMMANDS, app
from agora.cli.base import AgoraCommand
from agora.model.record import Entry, State
from agora.store import Store, rows

HEAVY = ("pluggy", "pydantic", "anyio", "asyncio", "rich", "importlib.metadata", "aiosql", "sqlite3")

#: What carries something out: to read what is over takes none of it.
CARRYING = ("agora.engine", "agora.plugins", "agora.state", "agora.client.blocking", "pluggy", "rich")

PROBE = """
import sys
from agora.cli.app import invoke
{env}
try:
    code = invoke({args!r})
except SystemExit as ended:
    code = ended.code
print("LOADED", sorted(set({heavy!r}) & set(sys.modules)), code)
"""


def loaded(args: list[str], env: str = "", heavy: tuple[str, ...] = HEAVY) -> str:
    """Run a command line in a new interpreter; return which heavy modules it imported, and its exit code."""
    probe = PROBE.format(args=args, heavy=heavy, env=env)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=50, check=False)
    assert "LOADED" in done.stdout, done.stderr
    return done.stdout.rsplit("LOADED ", 1)[1].strip()


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], ["cancel", "-h"], []])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    assert loaded(args) in ("[] 0", "[] 2")


@pytest.mark.parametrize("words", ["agora ", "agora ca", "agora cancel --"])
def test_completing_a_word_imports_nothing_heavy(words: str) -> None:
    index = len(words.split(" ")) - 1
    env = f"import os; os.environ.update(_AGORA_COMPLETE='bash_complete', COMP_WORDS={words!r}, COMP_CWORD='{index}')"
    assert loaded([], env) == "[] 0"


def test_completing_an_id_imports_only_the_database_beside() -> None:
    env = "import os; os.environ.update(_AGORA_COMPLETE='bash_complete', COMP_WORDS='agora show 0', COMP_CWORD='2')"
    assert loaded([], env) == "['sqlite3'] 0"


@pytest.mark.parametrize("args", [["ps"], ["ps", "--all"], ["show", "d1"], ["events", "d1"], ["runs"]])
def test_reading_what_is_over_imports_nothing_that_carries_something_out(
    store: Store, make_entry: Callable[..., Entry], args: list[str]
) -> None:
    entry = make_entry("d1", state=State.SUCCEEDED, exit_code=0, confirmed=True, submitter=None)
    store._writer.submit(lambda connection: rows.insert(connection, entry)).result(30)
    assert loaded(args, heavy=CARRYING) == "[] 0"


def test_looking_at_what_is_live_imports_what_asks_for_it(store: Store, make_entry: Callable[..., Entry]) -> None:
    entry = make_entry("d1", state=State.RUNNING)
    store._writer.submit(lambda connection: rows.insert(connection, entry)).result(30)
    assert "agora.engine" in loaded(["--no-supervisor", "ps"], heavy=CARRYING)


def test_the_table_of_commands_is_what_the_commands_say() -> None:
    context = app.make_context("agora", ["ps"])
    for name, (_, line) in COMMANDS.items():
        command = app.get_command(context, name)
        assert isinstance(command, AgoraCommand), name
        assert command.name == name
        assert line.endswith(".")
        assert command.help, f"{name} has no help"
        assert any("--json" in option.opts for option in command.get_params(context)), f"{name} has no --json"


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    done = subprocess.run(
        [sys.executable, "-m", "agora", "--version"], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == f"agora {version('agora-dispatch')}\n"
