"""From flags to the fields of a spec."""

import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import click
import pytest
from agora.cli.spec_flags import spec_fields, spec_options
from agora.errors import InvalidRequest
from click.testing import CliRunner

Parse = Callable[..., dict[str, Any]]


@pytest.fixture
def parse() -> Parse:
    """Give a function that returns the fields for a command line, without those that are not set."""

    def run(*args: str, stdin: str | None = None) -> dict[str, Any]:
        fields: dict[str, Any] = {}

        @click.command(context_settings={"allow_interspersed_args": False})
        @spec_options
        def command(target: str | None, dispatch_id: str | None, **flags: Any) -> None:
            fields.update(spec_fields(flags))

        CliRunner().invoke(command, args, input=stdin, catch_exceptions=False, standalone_mode=False)
        return fields

    return run


def test_everything_after_the_dashes_is_the_command_unchanged(parse: Parse) -> None:
    words = ["sh", "-c", "$HOME ${X:-y} $(X) $$ %{if} {{x}} \"'", "--json", "-v", "", "\t\n", "🚀", "--"]
    assert parse("--", *words)["command"] == words


def test_the_first_word_that_is_no_flag_begins_the_command(parse: Parse) -> None:
    assert parse("--name", "n", "sleep", "5", "--name", "x") == {"command": ["sleep", "5", "--name", "x"], "name": "n"}


def test_variables_come_from_flags_files_and_this_environment(
    parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", "here=1")
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=file\nB=b c\nHERE\n")
    fields = parse("--env-file", str(file), "-e", "A=flag", "--env", "EMPTY=", "x")
    assert fields["env"] == {"A": "flag", "B": "b c", "HERE": "here=1", "EMPTY": ""}


def test_a_variable_that_is_not_set_here_is_an_error(parse: Parse) -> None:
    with pytest.raises(InvalidRequest, match="'NOT_SET_ANYWHERE' is not set here"):
        parse("-e", "NOT_SET_ANYWHERE", "x")


def test_secrets_come_by_reference_alone(parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_HERE", "t0p")
    (tmp_path / "key").write_text("line1\nline2\n")
    fields = parse("--secret", "TOKEN=env:TOKEN_HERE", "--secret", f"KEY=file:{tmp_path / 'key'}", "x")
    assert fields["secrets"] == {"TOKEN": "t0p", "KEY": "line1\nline2"}


@pytest.mark.parametrize("given", ["TOKEN=hunter2", "TOKEN=env:", "TOKEN=vault:hunter2", "hunter2"])
def test_a_literal_secret_is_refused_and_not_repeated(parse: Parse, given: str) -> None:
    with pytest.raises((InvalidRequest, click.UsageError)) as refused:
        parse("--secret", given, "x")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2031-05-01T06:00+02:00", "2031-05-01T04:00:00+00:00"), ("2031-05-01T06:00", "2031-05-01T11:00:00+00:00"),
        ("2031-05-01", "2031-05-01T05:00:00+00:00"),
    ],
)  # fmt: skip
def test_a_time_has_the_zone_that_it_says_or_the_one_that_is_here(
    parse: Parse, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setenv("TZ", "XYZ+5")
    time.tzset()
    try:
        assert parse("--at", text, "x")["start_at"].astimezone(UTC).isoformat() == expected
    finally:
        monkeypatch.undo()
        time.tzset()


def test_options_are_json_or_text_and_dots_go_deeper(parse: Parse) -> None:
    fields = parse("-o", "a.b=1", "-o", "a.c=[true, null]", "-o", "text=hello", "-o", 'quoted="1"', "x")
    assert fields["options"] == {"a": {"b": 1, "c": [True, None]}, "text": "hello", "quoted": "1"}
    with pytest.raises(InvalidRequest, match="is a value already"):
        parse("-o", "a=1", "-o", "a.b=2", "x")


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("1000000", 10**6), ("512Mi", 512 * 2**20), ("2G", 2 * 10**9), ("1.5gib", 3 * 2**29), ("4kb", 4000)],
)
def test_memory_has_units(parse: Parse, text: str, bytes_: int) -> None:
    assert parse("--memory", text, "--cpu", "0.5", "x")["resources"] == {"cpu": 0.5, "memory": bytes_}


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("-1", -1)])
def test_times_have_units(parse: Parse, text: str, seconds: int) -> None:
    assert parse("--timeout", text, "x")["timeout"] == seconds


@pytest.mark.parametrize(
    "args",
    [("--grace", "1.5", "x"), ("--memory", "lots", "x"), ("--label", "novalue", "x"), ("--label", "=v", "x"), ()],
)
def test_words_that_mean_nothing_are_usage_errors(parse: Parse, args: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        parse(*args)


def test_flags_win_over_a_file_and_join_its_maps(parse: Parse, tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(
        'command = ["sleep", "1"]\ngrace = 5\n[labels]\na = "file"\nb = "file"\n[options.deep]\nx = 1\ny = 1\n'
    )
    fields = parse("--spec", str(file), "--grace", "7", "--label", "a=flag", "-o", "deep.x=2")
    assert fields == {
        "command": ["sleep", "1"], "grace": 7, "labels": {"a": "flag", "b": "file"},
        "options": {"deep": {"x": 2, "y": 1}},
    }  # fmt: skip


def test_a_spec_comes_from_stdin_with_its_secrets_by_reference(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_HERE", "t0p")
    given = '{"command": ["x"], "secrets": {"T": {"env": "TOKEN_HERE"}}}'
    assert parse("--spec", "-", stdin=given) == {"command": ["x"], "secrets": {"T": "t0p"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[1]", "a spec is an object"),
        ('{"command": ["x"], "secrets": {"T": "hunter2"}}', "secrets.T: give a reference"),
        ('{"command": ["x"], "secrets": ["T"]}', "secrets must be an object"),
    ],
)
def test_a_spec_file_that_is_wrong_says_how(parse: Parse, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "spec.json"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=words) as refused:
        parse("--spec", str(file))
    assert "hunter2" not in str(refused.value)


def test_a_budget_has_units_and_is_joined_with_that_of_a_file(parse: Parse, tmp_path: Path) -> None:
    assert parse("--budget", "tokens=200_000", "--budget", "usd=.5", "x")["budget"] == {"tokens": 200_000, "usd": 0.5}
    file = tmp_path / "spec.json"
    file.write_text('{"budget": {"tokens": 1, "usd": 2}}')
    assert parse("--spec", str(file), "--budget", "usd=3", "x")["budget"] == {"tokens": 1, "usd": 3}
    assert "budget" not in parse("x")
    for wrong in ("tokens", "tokens=", "=1", "tokens=many"):
        with pytest.raises(click.UsageError, match="write UNIT=AMOUNT"):
            parse("--budget", wrong, "x")
