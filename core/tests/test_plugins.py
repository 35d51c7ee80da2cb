"""Discovery and hook chains: what is broken is told and stops nothing else; extensions wrap, veto, fail and hear."""

import logging
import sys
import textwrap
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from agora import hookimpl
from agora.errors import ProviderNotInstalled, SubmitRefused, Vetoed
from agora.model.events import Event, EventType
from agora.plugins import Listeners, TargetHooks, discovery, list_providers, load_extensions, load_provider

Install = Callable[..., None]

GOOD = """
    from agora import hookimpl
    from agora.provider import ProviderInfo

    class Plugin:
        @hookimpl
        def dispatch(self, id, spec, check): ...
        @hookimpl
        def stop(self, handle, grace, cause): ...
        @hookimpl
        def observe(self, handles): ...
        @hookimpl
        def find(self, id): ...
        @hookimpl
        def list_owned(self, installation): ...

    PROVIDER = ProviderInfo(name="{name}", create=lambda target, config, installation: Plugin())
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give an installer of distributions that bring one provider each."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def installer(dist: str, provider: str, code: str = GOOD, *, group: str = "agora.providers") -> None:
        module = f"{dist.replace('-', '_')}_of_a_test"
        modules.append(module)
        (site / f"{module}.py").write_text(textwrap.dedent(code).replace("{name}", provider))
        info = site / f"{dist.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{provider} = {module}:PROVIDER\n")

    yield installer
    for module in modules:
        sys.modules.pop(module, None)


def status(name: str) -> tuple[str, str]:
    """Return how a provider is listed, and with which error."""
    (found,) = (one for one in list_providers() if one.name == name)
    return found.status, found.error or ""


# --- discovery -----------------------------------------------------------------------------------------------


def test_a_broken_provider_is_told_with_its_error_and_does_not_stop_the_others(install: Install) -> None:
    install("agora-good", "good")
    install("agora-raises", "raises", "raise RuntimeError('the SDK is not there')")
    install("agora-syntax", "syntax", "def broken(:")
    install("agora-empty", "empty", "")
    install("agora-other", "other", "PROVIDER = 42")
    assert status("good") == ("ok", "")
    assert "RuntimeError: the SDK is not there" in status("raises")[1]
    assert "SyntaxError" in status("syntax")[1]
    assert "has no attribute 'PROVIDER'" in status("empty")[1]
    assert "no ProviderInfo but int" in status("other")[1]
    assert [one.version for one in list_providers() if one.name == "good"] == ["1.5"]
    assert load_provider("good").name == "good"
    for name in ("raises", "syntax", "empty", "other"):
        assert status(name)[0] == "broken"
        with pytest.raises(ProviderNotInstalled, match=name):
            load_provider(name)


def test_listing_imports_only_what_is_asked_for(install: Install) -> None:
    install("agora-good", "good")
    install("agora-lazy", "lazy")
    load_provider("good")
    assert "agora_good_of_a_test" in sys.modules
    assert "agora_lazy_of_a_test" not in sys.modules


def test_two_distributions_that_claim_one_name_are_an_error_and_not_first_wins(install: Install) -> None:
    install("agora-twin-a", "twin")
    install("agora-twin-b", "twin")
    install("agora-good", "good")
    with pytest.raises(ProviderNotInstalled, match=r"more than one package: agora-twin-a, agora-twin-b; uninstall one"):
        load_provider("twin")
    assert status("twin")[0] == "broken"
    assert status("good")[0] == "ok"


def test_a_distribution_that_is_found_twice_is_one(install: Install, tmp_path: Path, monkeypatch: Any) -> None:
    install("agora-good", "good")
    copy = tmp_path / "again"
    copy.symlink_to(tmp_path / "site")
    monkeypatch.syspath_prepend(str(copy))
    assert load_provider("good").name == "good"


@pytest.mark.parametrize(("contract", "fits"), [("1.0", True), ("1.9", True), ("2.0", False), ("0.9", False)])
def test_only_another_major_of_the_contract_is_refused(install: Install, contract: str, fits: bool) -> None:
    install("agora-dated", "dated", GOOD.replace('name="{name}"', f'name="{{name}}", contract="{contract}"'))
    if fits:
        assert load_provider("dated").contract == contract
    else:
        with pytest.raises(ProviderNotInstalled, match=rf"contract {contract}, this Agora speaks 1\.0"):
            load_provider("dated")
        assert status("dated")[0] == "broken"


def test_a_provider_under_another_name_than_its_own_is_refused(install: Install) -> None:
    install("agora-alias", "alias", GOOD.replace("{name}", "real"))
    with pytest.raises(ProviderNotInstalled, match=r"'alias' calls itself 'real'"):
        load_provider("alias")


def test_a_provider_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "entry_points", lambda group: ())
    with pytest.raises(ProviderNotInstalled, match=r"'nomad' is not installed .*install the package agora-nomad"):
        load_provider("nomad")
    with pytest.raises(ProviderNotInstalled, match=r"'acme' is not installed .*install the package that brings it"):
        load_provider("acme")


def test_a_provider_without_a_required_hook_is_listed_with_the_reason(install: Install) -> None:
    without_stop = GOOD.replace("        @hookimpl\n        def stop(self, handle, grace, cause): ...\n", "")
    install("agora-unstoppable", "unstoppable", without_stop)
    install("agora-misspelt", "misspelt", GOOD.replace("def find(", "def fnid("))
    install("agora-good", "good")
    assert status("unstoppable")[0] == "broken"
    assert "does not implement stop" in status("unstoppable")[1]
    assert status("misspelt")[0] == "broken"
    assert "fnid" in status("misspelt")[1]
    assert status("good") == ("ok", "")


# --- hook chains ---------------------------------------------------------------------------------------------


class Provider:
    """A provider that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @hookimpl
    def dispatch(self, id: str, spec: Any, check: Any) -> Any:
        self.calls.append(id)
        if id == "refused":
            raise SubmitRefused("no such image", reason="image_missing")
        return f"handle of {id}"

    @hookimpl
    def stop(self, handle: Any, grace: int, cause: Any) -> Any:
        return f"stopped within {grace}"

    @hookimpl
    def observe(self, handles: Any) -> Any:
        return list(handles)

    @hookimpl
    def find(self, id: str) -> None:
        return None

    @hookimpl
    def list_owned(self, installation: str) -> Any:
        return []


def dispatch(hooks: TargetHooks, id: str = "d1") -> Any:
    return hooks.call("dispatch", id=id, spec=None, check=lambda: None)


def test_a_provider_without_stop_is_refused() -> None:
    class NoStop(Provider):
        stop: Any = None

    with pytest.raises(ProviderNotInstalled, match=r"target 't' is refused: it does not implement stop"):
        TargetHooks("t", NoStop())


def test_a_misspelt_hook_and_a_wrong_argument_are_refused() -> None:
    class Misspelt(Provider):
        @hookimpl
        def stopp(self, handle: Any) -> None: ...

    class WrongArgument(Provider):
        @hookimpl
        def find(self, id: str, where: str) -> None: ...  # type: ignore[override]

    with pytest.raises(ProviderNotInstalled, match="stopp"):
        TargetHooks("t", Misspelt())
    with pytest.raises(ProviderNotInstalled, match="where"):
        TargetHooks("t", WrongArgument())


def test_async_hooks_are_adapted_so_that_wrappers_see_results() -> None:
    class Async(Provider):
        @hookimpl
        async def dispatch(self, id: str, spec: Any, check: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            return f"async handle of {id}"

    seen: list[Any] = []

    class Wrapper:
        @hookimpl(wrapper=True)
        def dispatch(self, id: str) -> Generator[None, Any, Any]:
            result = yield
            seen.append(result)
            return result

    hooks = TargetHooks("t", Async(), [Wrapper()])

    async def call() -> Any:
        return await anyio.to_thread.run_sync(dispatch, hooks)

    assert anyio.run(call) == "async handle of d1"
    assert seen == ["async handle of d1"]


def test_an_extension_wraps_measures_and_changes_nothing() -> None:
    order: list[str] = []

    class Wrapper:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl(wrapper=True)
        def stop(self, handle: Any, grace: int, cause: Any) -> Generator[None, Any, Any]:
            order.append(f"{self.name} before")
            result = yield
            order.append(f"{self.name} after: {result}")
            return "something else"

    hooks = TargetHooks("t", Provider(), [Wrapper("inner"), Wrapper("outer")])
    assert hooks.call("stop", handle=None, grace=5, cause=None) == "stopped within 5"
    assert order == [
        "outer before", "inner before", "inner after: stopped within 5", "outer after: stopped within 5",
    ]  # fmt: skip


def test_an_extension_vetoes_with_a_reason_and_the_provider_hears_nothing() -> None:
    class Veto:
        @hookimpl(wrapper=True)
        def dispatch(self, id: str) -> Generator[None, Any, Any]:
            if id == "forbidden":
                raise Vetoed("not on a Friday")
            return (yield)

    provider = Provider()
    hooks = TargetHooks("t", provider, [Veto()])
    with pytest.raises(Vetoed, match="not on a Friday"):
        dispatch(hooks, "forbidden")
    assert provider.calls == []
    assert dispatch(hooks) == "handle of d1"


@pytest.mark.parametrize("where", ["before", "after", "no generator", "two yields", "swallows"])
def test_an_extension_that_fails_is_told_and_breaks_no_dispatch(where: str, caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        @hookimpl(wrapper=True)
        def dispatch(self, id: str) -> Generator[None, Any, Any]:
            if where == "before":
                raise RuntimeError("broken before")
            try:
                result = yield
            except SubmitRefused:
                if where == "swallows":
                    return "a handle out of nowhere"
                raise
            if where == "after":
                raise RuntimeError("broken after")
            if where == "two yields":
                yield
            return result

    class NoGenerator:
        @hookimpl(wrapper=True)
        def dispatch(self, id: str) -> Any:
            return 42

    provider = Provider()
    with caplog.at_level(logging.ERROR):
        hooks = TargetHooks("t", provider, [NoGenerator() if where == "no generator" else Failing()])
        assert dispatch(hooks) == "handle of d1"
        with pytest.raises(SubmitRefused, match="no such image"):
            dispatch(hooks, "refused")
    assert provider.calls == ["d1", "refused"], "called once each"
    if where not in ("swallows", "two yields"):
        assert "extension" in caplog.text


def test_an_extension_with_a_misspelt_hook_or_without_wrapper_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Misspelt:
        @hookimpl
        def on_evnet(self, event: Event) -> None: ...

    class Replaces:
        @hookimpl
        def dispatch(self, id: str) -> str:
            return "mine"

    heard: list[Event] = []

    def heard_of(event: Event) -> None:
        heard.append(event)

    good = SimpleNamespace(on_event=hookimpl(heard_of))
    with caplog.at_level(logging.ERROR):
        hooks = TargetHooks("t", Provider(), [Misspelt(), Replaces(), good])
    assert "on_evnet" in caplog.text
    assert "must be a wrapper" in caplog.text
    assert dispatch(hooks) == "handle of d1"
    listeners = Listeners([Misspelt(), Replaces(), good])
    assert listeners
    listeners.tell(an_event())
    assert len(heard) == 1
    assert not Listeners([Misspelt(), Replaces()])


def test_every_listener_hears_every_event_though_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def on_event(self, event: Event) -> None:
            heard.append(self.name)
            if self.name == "broken":
                raise RuntimeError("cannot hear")

    listeners = Listeners([Listener("first"), Listener("broken"), Listener("last")])
    with caplog.at_level(logging.ERROR):
        listeners.tell(an_event())
    assert sorted(heard) == ["broken", "first", "last"]
    assert "failed to hear" in caplog.text


def test_extensions_come_from_entry_points_and_from_the_environment(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install("agora-audit", "audit", "class PROVIDER: ...", group="agora.extensions")
    install("agora-broken", "broken", "1 / 0", group="agora.extensions")
    monkeypatch.setenv("AGORA_EXTENSIONS", "types:SimpleNamespace, no.such:thing ,")
    with caplog.at_level(logging.ERROR):
        loaded = load_extensions()
    assert sorted(type(one).__name__ for one in loaded) == ["PROVIDER", "SimpleNamespace"]
    assert "agora_broken_of_a_test:PROVIDER cannot be loaded" in caplog.text
    assert "no.such:thing cannot be loaded" in caplog.text


def an_event() -> Event:
    return Event(
        id="d1/1", source="/agora/i", type=EventType.REQUESTED, subject="d1", time=datetime.now(UTC), sequence=1
    )  # fmt: skip
