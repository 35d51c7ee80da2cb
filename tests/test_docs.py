"""The pages say what the code says: their tables are compared with it, and what they name exists."""

import dataclasses
import inspect
import os
import re
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import setup_main
from agora import errors
from agora.client import AgoraClient, BlockingClient
from agora.config import _VARIABLES, Settings
from agora.engine.plan import CANCEL_MARGIN
from agora.hookspecs import REQUIRED_HOOKS, ProviderHooks
from agora.model.cancel import CancelResult, Outcome
from agora.model.capabilities import Capabilities, Capability, Limits, Support
from agora.model.events import EventType
from agora.model.record import State
from agora.model.spec import Spec
from agora.plugins import load_provider
from agora.provider import ProviderInfo
from agora.state import ALLOWED
from agora_conformance.target import (
    ConformanceTarget,
    CutsOff,
    Forgets,
    MakesStrangers,
    SeesLeftovers,
    SeesProcesses,
    Sweeps,
)
from agora_local.config import LocalConfig, LocalOptions
from pydantic import BaseModel

from tests.pages import ROOT, code, table, tables, text_of

# --- what cancel guarantees ------------------------------------------------------------------------------------


def test_the_page_on_cancel_begins_with_what_may_never_arrive() -> None:
    title, first, *_ = text_of("cancel.md").split("\n\n")
    assert title == "# What cancel guarantees"
    words = " ".join(line.removeprefix("> ") for line in first.splitlines())
    assert words.startswith("**`dispatch.cancelled` may never arrive, and nothing may wait for it.**")
    assert "best-effort" in words
    assert "`wait()` waits for the state, never for an event" in words


@pytest.mark.parametrize("page", ["contract.md", "python.md", "cli.md"])
def test_other_pages_repeat_it(page: str) -> None:
    words = " ".join(text_of(page).split())
    assert re.search(r"`dispatch\.cancelled`[^.]*may never (arrive|come)|which may never come", words)


def test_every_outcome_of_a_cancel_is_told_with_its_exit_code() -> None:
    told: dict[str, dict[bool | None, str]] = {}
    for outcomes, when, codes in table("cancel.md", "outcome", "when", "exit code"):
        for name in code(outcomes):
            delivered = None if "delivered" not in when else "`delivered: true`" in when
            told.setdefault(name, {})[delivered] = codes
    assert told.keys() == {outcome.value for outcome in Outcome}
    for name, by_delivery in told.items():
        for delivered, codes in by_delivery.items():
            now, *later = [int(number) for number in re.findall(r"\d", codes)]
            assert CancelResult(id="x", outcome=Outcome(name), delivered=delivered).exit_code == now
            for other in later:
                assert CancelResult(id="x", outcome=Outcome(name), delivered=False).exit_code == other
    assert told["STOPPING"].keys() == {True, False}


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    bounds = " ".join(cell for row in table("cancel.md", "bound") for cell in row)
    assert f"+ {CANCEL_MARGIN:g} s" in bounds
    assert f"`lost_after` ({Settings().lost_after / 3600:g} hour)" in bounds
    assert f"`abandon_after` ({Settings().abandon_after / 86400:g} days)" in bounds


def support(claim: Capability) -> str:
    """Put a capability claim into the words of the table."""
    match claim.support:
        case Support.FULL:
            return "yes"
        case Support.FROM_VERSION:
            return f"from {claim.detail}"
        case Support.CANNOT:
            return f"no: {claim.detail}"
        case Support.NOT_YET:
            return f"not yet: {claim.detail}"
        case _:
            return "undeclared"


def column(info: ProviderInfo) -> dict[str, str]:
    """Return what the table has to say of a provider."""
    capabilities, limits = info.capabilities, info.limits
    most = "" if limits.grace_max is None else f" to {limits.grace_max}"
    grace = f"{limits.grace_min}{most} s" + ("" if most else " or more")
    lost = "; it may be lost (null)" if limits.exit_code_may_be_lost else ""
    named = {
        "another grace at the stop": "grace_per_stop",
        "kill brought forward later": "shorten",
        "kill without grace": "force_kill",
        "the backend's own deadline": "native_deadline",
        "exit code of a stopped workload": "exit_code_after_stop",
        "killed for lack of memory is told": "oom_reason",
    }
    words = {f"{row} (`{name}`)": support(getattr(capabilities, name)) for row, name in named.items()}
    words["exit code of a stopped workload (`exit_code_after_stop`)"] += lost
    return {
        "signal": "SIGTERM" if capabilities.has("stop_signal") else str(capabilities.stop_signal.detail),
        "grace": f"{grace}, in {'whole seconds' if limits.grace_step == 1 else f'steps of {limits.grace_step:g} s'}",
        **words,
        "absence proves death": "yes" if limits.absence_proves_death else "no",
    }


def declared_providers() -> list[str]:
    """Return the providers of this repository, by the entry points of its packages; uncommitted ones do not count."""
    listing = subprocess.run(
        ["git", "ls-files", "plugins/*/pyproject.toml"], cwd=ROOT, capture_output=True, check=False
    )
    committed = {ROOT / name for name in listing.stdout.decode().split()}
    names: list[str] = []
    for path in committed or ROOT.glob("plugins/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        names += project.get("entry-points", {}).get("agora.providers", {})
    return names


def test_the_table_of_providers_says_what_they_declare() -> None:
    (rows,) = [rows for rows in tables("cancel.md") if rows[0][0] == ""]
    head, *below = rows
    providers = [name for cell in head[1:] for name in code(cell)]
    assert "local" in providers
    assert sorted(providers) == sorted(declared_providers())
    for number, name in enumerate(providers, 1):
        told = {row[0]: row[number] for row in below}
        prose = {told.pop("confirmation"), told.pop("known gaps")}
        assert told == column(load_provider(name)), name
        assert all(len(words) > 20 for words in prose), f"{name}: say how an end is proven and what is missing"


# --- the contract ----------------------------------------------------------------------------------------------


def test_the_table_of_states_is_that_of_the_state_machine() -> None:
    rows = table("contract.md", "state")
    told = {State(*code(state)): {State(name) for name in code(after)} for state, after, _ in rows}
    assert told == ALLOWED
    assert list(told) == list(State)


def test_every_event_is_told_and_exactly_one_comes_exactly_once() -> None:
    rows = table("contract.md", "type", "by", "guarantee")
    assert [EventType(*code(row[0])) for row in rows] == list(EventType)
    assert [code(row[0]) for row in rows if "exactly once" in row[2]] == [[EventType.TERMINATED.value]]
    told_by_workload = {EventType(*code(row[0])) for row in rows if row[1] == "workload"}
    assert told_by_workload == {EventType.CANCELLED, EventType.PROGRESS, EventType.HEARTBEAT}


# --- Python ----------------------------------------------------------------------------------------------------


def public(kind: type) -> set[str]:
    """Return the public names of a class."""
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_verb_of_the_client_is_told_with_its_parameters() -> None:
    told = {}
    for cell, _ in table("python.md", "verb"):
        for entry in code(cell):
            name, _, inside = entry.rstrip(")").partition("(")
            parts = [re.sub(r"=.*", "", part.strip()) for part in inside.split(",")]
            told[name] = [part for part in parts if part not in ("", "*")]
    assert told.keys() == public(AgoraClient)
    for name, parameters in told.items():
        if name == "settings":
            continue
        real = [
            f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
            for parameter in inspect.signature(getattr(AgoraClient, name)).parameters.values()
        ]
        assert parameters == real[1:], name
    assert told.keys() - {"settings"} == public(BlockingClient)


def test_every_exception_is_told() -> None:
    told = {name for cell, _ in table("python.md", "exception") for name in code(cell)}
    real = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert told == real | {"TimeoutError"}


def test_every_field_of_a_spec_is_told() -> None:
    told = {name for cell, _ in table("python.md", "field") for name in code(cell)}
    assert told == set(Spec.model_fields)


# --- configuration ---------------------------------------------------------------------------------------------


def as_toml(value: object) -> str:
    """Write a default as the page does."""
    match value:
        case None:
            return "unset"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`'
        case _:
            return f"`{value}`"


def test_every_key_is_told_with_its_variable_and_default() -> None:
    below = table("configuration.md", "key", "variable")
    rows = {code(key)[0]: (variable, default) for key, variable, default, _ in below}
    settings = Settings()
    assert rows.pop("targets") == ("", "`local`")
    variables = {key: f"`{variable}`" for variable, key in _VARIABLES.items()}
    expected = {
        key: (variables.get(key, ""), as_toml(value))
        for key, value in vars(settings).items()
        if key not in ("targets", "problem")
    }
    assert rows == expected


@pytest.mark.parametrize(("head", "model"), [("key", LocalConfig), ("option", LocalOptions)])
def test_every_key_of_a_local_target_is_told(head: str, model: type[BaseModel]) -> None:
    told = {code(key)[0]: default for key, default, _ in table("configuration.md", head, "default")}
    real = {name: as_toml(field.default) for name, field in model.model_fields.items()}
    if "state_dir" in real:
        assert "local/<target>" in told.pop("state_dir")
        del real["state_dir"]
    assert told == real


def test_every_variable_is_told() -> None:
    told = {name for row in table("configuration.md", "key", "variable") for name in code(row[1])}
    told |= {name for row in table("configuration.md", "variable", "meaning") for name in code(row[0])}
    told |= {name for row in table("worker.md", "variable", "meaning") for name in code(row[0])[:1]}
    sources = [path for directory in setup_main.package_directories() for path in (directory / "src").rglob("*.py")]
    used = {
        name
        for path in sources
        if "conformance" not in path.as_posix()
        for name in re.findall(r"\bAGORA_[A-Z]+(?:_[A-Z]+)*\b", path.read_text(encoding="utf-8"))
    }
    marks = {"AGORA_DISPATCH_ID", "AGORA_DISPATCH_INSTALLATION", "AGORA_DISPATCH_MARK"}
    assert told == used - marks - {"AGORA_COMPLETE"}  # set by the completion scripts
    assert all(f"`{mark}`" in text_of("configuration.md") for mark in marks)


# --- providers -------------------------------------------------------------------------------------------------


def shown(annotation: object) -> str:
    """Write a return type as the page does."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.replace("typing.", "")


def test_the_table_of_hooks_is_that_of_the_hookspecs() -> None:
    rows = {code(signature)[0]: words for signature, words in table("providers.md", "hook")}
    real = {}
    for name in public(ProviderHooks):
        hook = getattr(ProviderHooks, name)
        signature = inspect.signature(hook)
        parameters = ", ".join(list(signature.parameters)[1:])
        real[f"{name}({parameters}) -> {shown(signature.return_annotation)}"] = inspect.getdoc(hook)
    assert rows == real
    order = [next(iter(key.split("("))) for key in rows]
    assert order == [name for name in vars(ProviderHooks) if name in order]


def test_the_required_hooks_are_named() -> None:
    sentence = next(line for line in text_of("providers.md").splitlines() if "are required" in line)
    assert set(code(sentence)) >= set(REQUIRED_HOOKS)


def test_every_capability_is_told() -> None:
    assert [code(row[0])[0] for row in table("providers.md", "capability")] == list(Capabilities.model_fields)


def test_every_limit_is_told_with_its_default() -> None:
    told = {code(name)[0]: default for name, default, _ in table("providers.md", "limit")}
    real = {name: f"`{field.default}`" for name, field in Limits.model_fields.items()}
    assert told == real


def test_every_field_of_a_conformance_target_is_told_and_every_eye() -> None:
    assert [code(row[0])[0] for row in table("providers.md", "field")] == [
        known.name for known in dataclasses.fields(ConformanceTarget)
    ]
    eyes = [SeesProcesses, CutsOff, Forgets, MakesStrangers, SeesLeftovers, Sweeps]
    told = text_of("providers.md").partition("`eyes` is an object")[2]
    assert {name for eye in eyes for name in public(eye)} <= set(code(told))


def test_the_errors_that_a_provider_raises_exist() -> None:
    named = {call.partition("(")[0] for cell, _ in table("providers.md", "raise") for call in code(cell)}
    assert len(named) > 5
    for name in named:
        assert issubclass(getattr(errors, name), errors.AgoraError)


# --- operations ------------------------------------------------------------------------------------------------


@pytest.mark.backend("local")
def test_the_state_directory_holds_what_the_page_says() -> None:
    told = {name for cell, _ in table("operations.md", "file") for name in code(cell)}
    with BlockingClient() as client:
        handle = client.dispatch(command=["sleep", "600"])
        handle.cancel(reason="only to see the files", force=True)
        handle.wait()
        home = Path(os.environ["AGORA_HOME"])
        until = time.monotonic() + 60
        while not (home / "supervisor.lock").exists() and time.monotonic() < until:
            time.sleep(0.02)  # the supervisor has been started; it makes its lock when it runs
        found = {path.name for path in home.iterdir()}
    assert found == {name.partition("/")[0] for name in told}


def test_the_reasons_and_notes_of_the_page_are_in_the_code() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for directory in setup_main.package_directories()
        for path in (directory / "src").rglob("*.py")
    )
    named = {name for cell, _ in table("operations.md", "what you see") for name in code(cell)}
    reasons = text_of("contract.md").partition("Some reasons of `failed`")[2].partition("\n\n")[0]
    named |= set(re.findall(r"`(\w+)`\s\(", reasons))
    assert len(named) > 8
    for name in named:
        assert re.search(rf"\b{name.partition(':')[0]}\b", sources), name
