"""Bad input: a clear error before anything starts, an exit code, and nothing recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

Cli = Any

WITHOUT_A_SHELL = ("--", "true")


def spec_file(directory: Path, **fields: Any) -> str:
    """Write a spec file; return its path."""
    path = directory / "spec.json"
    path.write_text(json.dumps({"command": ["true"], **fields}))
    return str(path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["cancl", "x"], "No such command 'cancl'. Did you mean cancel?"),
        (["dispach"], "No such command 'dispach'. Did you mean dispatch?"),
        (["zzz"], "No such command 'zzz'.\n"),
        (["prune", "--older-than", "-5"], "'-5' is below 0"),
        (["prune", "--older-than=-5d"], "'-5d' is below 0"),
        (["ps", "--older-than", "-5"], "'-5' is below 0"),
        (["ps", "--state", "killed"], "'killed' is not one of 'pending'"),
        (["wait", "x", "--timeout", "-1"], "--timeout is below 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_way_on(cli: Cli, args: list[str], words: str) -> None:
    done = cli(*args)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert "--help" in done.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--on", "nowhere"], ["nowhere", "agora.toml"]),
        (["--timeout", "86401"], ["timeout", "86400"]),
        (["--timeout", "0"], ["timeout"]),
        (["--grace", "1"], ["grace", "2"]),
        (["--grace", "1.5"], ["grace", "whole"]),
        (["--grace", "-1"], ["grace", "2"]),
        (["-o", "no_such_option=1"], ["no_such_option"]),
        (["--id", "No Id!"], ["No Id!"]),
        (["--id", "x" * 33], ["32"]),
        (["--cpu", "-1"], ["cpu"]),
        (["--name", "not a name!"], ["name"]),
        (["-e", "=x"], ["variable name"]),
        (["--secret", "TOKEN=plain"], ["by reference"]),
        (["--image", "alpine"], ["image"]),
        (["--no-such-flag"], ["--no-such-flag"]),
    ],
)
@pytest.mark.backend("local")
def test_a_wrong_flag_is_refused_before_anything_starts(cli: Cli, flags: list[str], words: list[str]) -> None:
    done = cli("run", "--json", *flags, "--", "touch", "started")
    assert done.code == 2, done.err
    assert done.err.startswith("agora: ")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err
    assert done.object["error"]["message"] in done.err.removeprefix("agora: ")
    assert not (cli.directory / "started").exists()
    assert cli.recorded() == 0


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"command": []}, "command"),
        ({"command": [""]}, "command"),
        ({"command": ["touch", "started\0"]}, "NUL"),
        ({"env": {"A": "x" * 200_000}}, "131071"),
        ({"grace": 2.5}, "grace"),
        ({"colour": "red"}, "colour"),
        ({"command": "touch started"}, "command"),
    ],
)
@pytest.mark.backend("local")
def test_a_wrong_spec_is_refused_before_anything_starts(cli: Cli, fields: dict[str, Any], word: str) -> None:
    done = cli("run", "--spec", spec_file(cli.directory, **fields))
    assert done.code == 2, done.err
    assert word in done.err
    assert "xxxxxxxxxx" not in done.err
    assert cli.recorded() == 0


@pytest.mark.backend("local")
def test_an_environment_value_of_200_kb_from_a_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("BIG=" + "x" * 200_000 + "\n")
    done = cli("run", "--env-file", str(tmp_path / "env"), *WITHOUT_A_SHELL)
    assert done.code == 2
    assert "131071" in done.err
    assert len(done.err) < 1_000


def test_no_command_at_all_is_a_usage_error(cli: Cli) -> None:
    done = cli("run")
    assert done.code == 2
    assert "give the command after --" in done.err


def test_a_provider_that_is_not_installed_says_what_to_install(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "agora.toml").write_text('[targets.cluster]\nprovider = "no-such"\n')
    done = cli("run", "--on", "cluster", *WITHOUT_A_SHELL)
    assert done.code == 2
    assert "no-such" in done.err
    assert "install" in done.err
    assert cli.recorded() == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1\n", ["colour", "agora.toml"]),
        ("[targets.local\n", ["agora.toml"]),
        ('[targets.local]\nprovider = "local"\nno_such_key = 1\n', ["targets.local.no_such_key", "agora.toml"]),
    ],
)
@pytest.mark.backend("local")
def test_a_wrong_configuration_names_key_and_file(cli: Cli, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "agora.toml").write_text(text)
    done = cli("run", *WITHOUT_A_SHELL)
    assert done.code == 2
    for word in words:
        assert word in done.err


@pytest.mark.parametrize("command", ["show", "logs", "events", "cancel", "wait"])
def test_an_id_that_is_none_is_refused(cli: Cli, command: str) -> None:
    done = cli(command, "Not An Id!")
    assert done.code == 2
    assert "is no dispatch id" in done.err


@pytest.mark.parametrize(("command", "code"), [("show", 4), ("logs", 4), ("events", 4), ("cancel", 4), ("wait", 125)])
def test_an_id_that_nobody_has_is_not_found(cli: Cli, command: str, code: int) -> None:
    done = cli(command, "nobody-has-this")
    assert done.code == code
    assert "nobody-has-this" in done.err


@pytest.mark.parametrize("grace", ["1", "-1", "1.5", "0"])
def test_a_malformed_cancel_records_nothing(cli: Cli, grace: str) -> None:
    cli("run", "--id", "over", *WITHOUT_A_SHELL)
    done = cli("cancel", "over", "--grace", grace)
    assert done.code == 2, done.err
    assert "grace" in done.err.lower()


@pytest.mark.parametrize(("command", "code"), [(["ps"], 1), (["cancel", "x"], 1), (["run", "--", "true"], 125)])
def test_a_store_that_cannot_be_used_has_its_code(cli: Cli, tmp_path: Path, command: list[str], code: int) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = cli(command[0], "--home", str(blocked / "home"), *command[1:])
    assert done.code == code, done.err
    assert "AGORA_HOME" in done.err
    assert "Traceback" not in done.err


def test_a_corrupted_store_is_a_clear_error(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "agora.db").write_bytes(b"this is no database" * 1_000)
    done = cli("ps")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "agora.db" in done.err or str(cli.home) in done.err


def test_verbose_shows_where_an_error_came_from(cli: Cli) -> None:
    assert "Traceback" in cli("-v", "show", "nobody-has-this").err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "Give an id, or --run RUN."),
        (["x", "--run", "r"], 2, "Give an id, or --run RUN."),
        (["x", "--after", "x/3"], 2, "'x/3' is no number of an event"),
        (["--run", "nobody"], 4, "there is no dispatch of run 'nobody'"),
    ],
)
def test_events_are_those_of_one_dispatch_or_of_one_run(cli: Cli, args: list[str], code: int, words: str) -> None:
    done = cli("events", *args)
    assert done.code == code
    assert words in done.err
