"""Strings reach a workload unchanged, although Nomad rewrites them."""

from __future__ import annotations

import json
import re

import pytest
from agora_nomad import exact

#: What the contract lists, and what was seen to be rewritten.
STRINGS = [
    *("$HOME", "${HOME}", "${X:-y}", "$(X)", "$$", "$${nope}", "$$${A}", "${NOMAD_JOB_ID}", "${attr.kernel.name}"),
    *("%{if}", "%%{if}", "%", "%d", "{{x}}", "{{ .x }}", "it's", '"q"', "a\\nb", "\\", "`id`", "#hash", "a=b"),
    *(
        "new\nline",
        "tab\there",
        " \r\n",
        "  lead ",
        "",
        "-dash",
        "\u00e9",
        "\U0001f600",
        "\b\f\x01\x1f\x7f",
        "\u27e6agora",
    ),
]


def hcl(text: str) -> str:
    """Read a template without interpolations, as a client does with a driver's `config`."""
    assert "${" not in text.replace("$${", "")
    assert "%{" not in text.replace("%%{", "")
    return text.replace("$${", "${").replace("%%{", "%{")


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("$HOME", "$HOME"),
        ("$${HOME}", "${HOME}"),
        ("$${X:-y}", "${X:-y}"),
        ("%%{if}", "%{if}"),
        ("$$", "$$"),
        ("$$$${A}", "$$${A}"),
        ("$$${A}", "$${A}"),
        ("$${", "${"),
        ("$$ {", "$$ {"),
        ('$${env["PATH"]}', '${env["PATH"]}'),
    ],
)
def test_what_a_real_agent_shows_is_what_was_meant(sent: str, seen: str) -> None:
    assert exact.argument(seen) == sent


@pytest.mark.parametrize("text", STRINGS)
def test_an_argument_comes_back_from_its_template(text: str) -> None:
    assert hcl(exact.argument(text)) == text


@pytest.mark.parametrize("text", STRINGS)
def test_a_variable_is_one_line_of_ascii_without_a_delimiter(text: str) -> None:
    line = exact.line("NAME", text)
    assert line.isascii()
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    assert "\t" not in line
    name, _, value = line[:-1].partition("=")
    assert (name, json.loads(value)) == ("NAME", text)
    # That reader of environment files knows these escapes and no others.
    assert not re.search(r"(?<!\\)(?:\\\\)*\\[^\\\"nrtu]", line)
    _, template = exact.environment({"NAME": text})
    assert template is not None
    assert template["EmbeddedTmpl"] == line
    assert not {template["LeftDelim"], template["RightDelim"]} & {"{{", "}}"}
    assert str(template["LeftDelim"]) not in line


def test_the_template_makes_variables_and_never_restarts_the_task() -> None:
    direct, template = exact.environment({"A": "1", "B": "2"})
    assert direct == {}
    assert template is not None
    assert template["EmbeddedTmpl"] == 'A="1"\nB="2"\n'
    assert (template["Envvars"], template["ChangeMode"]) == (True, "noop")
    assert exact.environment({}) == ({}, None)


def test_what_is_too_long_for_a_line_goes_another_way() -> None:
    long = "x" * 131_000
    direct, template = exact.environment({"LONG": long, "SHORT": "${HOME}"})
    assert direct == {"LONG": long}
    assert template is not None
    assert "LONG" not in str(template["EmbeddedTmpl"])
    assert exact.unfit({"LONG": long}) is None
    # `Env` replaces this one, and there is no escape.
    assert "LONG" in str(exact.unfit({"LONG": "${HOME}" + long}))
    # A character takes up to twelve bytes of a line.
    assert exact.environment({"A": "\U0001f600" * 6_000})[0] == {"A": "\U0001f600" * 6_000}


@pytest.mark.parametrize("name", ["a.b", "1A", "a-b", "a b", "\u00e9", "a\n"])
def test_a_name_that_no_environment_file_takes_is_refused(name: str) -> None:
    assert "names of ASCII letters" in str(exact.unfit({name: "x"}))


def test_usual_names_are_not_refused() -> None:
    assert exact.unfit({"PATH": "", "_x9": "", "lower": ""}) is None
