"""A dispatch stays with the cluster that the surroundings of its caller led to."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.errors import ConfigError
from agora_conformance.emulators.k8s import K8sEmulator
from agora_k8s import PROVIDER, names
from agora_k8s.config import K8sConfig
from agora_k8s.connect import connect
from k8s_harness import GRACEFUL, CommandLine, Hands, eventually

pytestmark = pytest.mark.backend("k8s")


@pytest.fixture(scope="module")
def another() -> Iterator[K8sEmulator]:
    """Another cluster."""
    with K8sEmulator() as cluster:
        yield cluster


@pytest.fixture
def agora(tmp_path: Path) -> Iterator[CommandLine]:
    """The `agora` command."""
    made = CommandLine(tmp_path)
    yield made
    made.run("cancel", "--all", "--force", "--yes")


@asynccontextmanager
async def client(home: Path) -> AsyncIterator[AgoraClient]:
    """A client whose only target leaves its cluster to the surroundings."""
    table = {"image": "busybox", "defaults": {"security": "image"}}
    settings = Settings(default_target="c", targets={"c": TargetConfig("c", "k8s", table, "a test")}, supervisor=False)
    async with AgoraClient(home / "home", settings=settings, supervisor=False) as made:
        yield made


def processes(cluster: K8sEmulator, id: str) -> list[int]:
    """Return the live processes of a dispatch on the node of a cluster."""
    return cluster.processes(f"{names.DISPATCH}={id}")


def test_a_supervisor_that_was_started_in_other_surroundings_keeps_the_deadline(
    emulator: K8sEmulator, another: K8sEmulator, agora: CommandLine, tmp_path: Path
) -> None:
    meant = emulator.kubeconfig(tmp_path / "meant")
    agora.environment["KUBECONFIG"] = str(another.kubeconfig(tmp_path / "another"))
    agora.configure(kubeconfig=str(meant))
    first = agora.dispatch("--", "sh", "-c", GRACEFUL)
    agora.environment["KUBECONFIG"] = str(meant)
    agora.configure()
    ran = tmp_path / "ran"
    id = agora.dispatch("--timeout", "4", "--grace", "2", "--", "sh", "-c", f"touch {ran}; {GRACEFUL}")
    eventually(ran.exists)  # on a busy machine it may be over before anybody looks for its process
    eventually(lambda: not processes(emulator, id), within=30)
    assert processes(emulator, first), "the supervisor was there all the time"


@pytest.mark.anyio
async def test_what_could_not_be_sent_is_sent_to_the_cluster_that_was_meant(
    emulator: K8sEmulator, another: K8sEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = emulator.kubeconfig(tmp_path / "meant")
    monkeypatch.setenv("KUBECONFIG", str(meant))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # where nobody listens
        meant.write_text(meant.read_text().replace(emulator.url, f"http://127.0.0.1:{free.getsockname()[1]}"))
        async with client(tmp_path) as agora:
            unsent = await agora.dispatch(command=("sh", "-c", GRACEFUL))
    emulator.kubeconfig(meant)
    monkeypatch.setenv("KUBECONFIG", str(another.kubeconfig(tmp_path / "another")))
    async with client(tmp_path) as agora:
        with anyio.fail_after(50):
            while not (processes(emulator, unsent.id) or processes(another, unsent.id)):
                await agora.reconcile()
                await anyio.sleep(0.05)
        assert not processes(another, unsent.id)
        await agora.cancel(unsent.id, grace=2)
        eventually(lambda: not processes(emulator, unsent.id))


@pytest.mark.parametrize("how", ["another kubeconfig", "another directory", "another current context"])
@pytest.mark.anyio
async def test_a_cancel_from_other_surroundings_reaches_the_cluster_of_the_dispatch(
    emulator: K8sEmulator, another: K8sEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = both(tmp_path / "both", emulator, another, current="first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", path.name)
    async with client(tmp_path) as agora:
        id = (await agora.dispatch(command=("sh", "-c", GRACEFUL))).id
    eventually(lambda: processes(emulator, id))
    if how == "another kubeconfig":
        monkeypatch.setenv("KUBECONFIG", str(another.kubeconfig(tmp_path / "another")))
    elif how == "another directory":
        (tmp_path / "directory").mkdir()
        monkeypatch.chdir(tmp_path / "directory")
    else:
        both(path, emulator, another, current="second")
    async with client(tmp_path) as agora:
        await agora.cancel(id, grace=2)
        eventually(lambda: not processes(emulator, id))


@pytest.mark.anyio
async def test_a_dispatch_that_remembers_nothing_is_found_where_the_surroundings_lead(
    emulator: K8sEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(emulator.kubeconfig(tmp_path / "kubeconfig")))
    with monkeypatch.context() as once:
        once.setattr("agora.engine.targets.load_provider", lambda _: replace(PROVIDER, surroundings=None))
        async with client(tmp_path) as agora:
            id = (await agora.dispatch(command=("sh", "-c", GRACEFUL))).id
    eventually(lambda: processes(emulator, id))
    async with client(tmp_path) as agora:
        await agora.cancel(id, grace=2)
        eventually(lambda: not processes(emulator, id))


def both(path: Path, first: K8sEmulator, second: K8sEmulator, *, current: str) -> Path:
    """Write a kubeconfig with a context for each of two clusters."""
    merged: dict[str, object] = {"apiVersion": "v1", "kind": "Config", "current-context": current}
    for kind in ("clusters", "users", "contexts"):
        entries = []
        for name, cluster in (("first", first), ("second", second)):
            (entry,) = json.loads(cluster.kubeconfig(path.with_name(name)).read_text())[kind]
            text = json.dumps(entry).replace('"emulator"', json.dumps(name))
            entries.append(json.loads(text))
        merged[kind] = entries
    path.write_text(json.dumps(merged))
    return path


@pytest.mark.parametrize(
    ("config", "remembered"),
    [
        ({}, {"kubeconfig", "context", "namespace"}),
        ({"kubeconfig": "one"}, {"kubeconfig", "context", "namespace"}),
        ({"kubeconfig": "/{}/one"}, {"context", "namespace"}),
        ({"context": "first"}, {"kubeconfig", "namespace"}),
        ({"context": "first", "namespace": "work"}, {"kubeconfig"}),
        ({"kubeconfig": "/{}/one", "context": "first", "namespace": "work"}, set()),
    ],
)
@pytest.mark.parametrize("where", ["KUBECONFIG", "home"])
def test_only_what_is_not_configured_is_remembered(
    where: str, config: dict[str, str], remembered: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "one" if where == "KUBECONFIG" else "")
    (tmp_path / ".kube").mkdir()
    for path in (tmp_path / "one", tmp_path / ".kube" / "config"):
        path.write_text(json.dumps(kubeconfig("first")))
    said = {key: value.replace("/{}", str(tmp_path)) for key, value in config.items()}
    path = tmp_path / (".kube/config" if where == "home" and "kubeconfig" not in config else "one")
    whole = {"context": "first", "namespace": "of-first", **said, "kubeconfig": str(path)}
    assert remember(K8sConfig.model_validate({**said, "image": "busybox"})) == {key: whole[key] for key in remembered}


def test_of_several_files_the_first_that_names_a_context_decides_as_with_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", "none:one:two:./three:")
    for name, current in (("one", ""), ("two", "two"), ("three", "three")):
        Path(name).write_text(json.dumps({**kubeconfig(name), "current-context": current}))
    found = remember(K8sConfig())
    files = ":".join(str(tmp_path / name) for name in ("none", "one", "two", "three"))
    assert found == {"kubeconfig": files, "context": "two", "namespace": "of-two"}
    for stored in ({}, found):
        made = connect("t", K8sConfig.model_validate(stored))
        assert (made.url(""), made.namespace) == ("https://two", "of-two")


def test_a_context_that_is_no_longer_the_current_one_is_still_that_of_the_dispatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    path.write_text(json.dumps(kubeconfig("first")))
    found = remember(K8sConfig())
    for current in ({}, {"current-context": ""}, {"current-context": "gone"}):
        body = {key: value for key, value in kubeconfig("first").items() if key != "current-context"}
        path.write_text(json.dumps({**body, **current}))
        assert connect("t", K8sConfig.model_validate(found)).url("") == "https://first"


@pytest.mark.parametrize(("context", "namespace"), [("first", 2024), (7, "work")])
def test_what_yaml_reads_as_a_number_leads_a_later_process_too(
    context: str | int, namespace: str | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    body = {**kubeconfig("first"), "current-context": context}
    body["contexts"] = [{"name": context, "context": {"cluster": "first", "user": "first", "namespace": namespace}}]
    path.write_text(json.dumps(body))
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = remember(K8sConfig())
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "another"))
    made = connect("t", K8sConfig.model_validate(found))
    assert (made.url(""), made.namespace) == ("https://first", str(namespace))


def test_a_kubeconfig_that_was_moved_is_named_and_found_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig("first")))
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = K8sConfig.model_validate(remember(K8sConfig()))
    moved = path.rename(tmp_path / "moved")
    monkeypatch.setenv("KUBECONFIG", str(moved))
    with pytest.raises(ConfigError, match=f"no configuration found in {path};"):
        connect("t", found)
    path.symlink_to(moved)
    assert connect("t", found).url("") == "https://first"


def test_a_provider_stays_where_its_first_attempt_was_led(
    emulator: K8sEmulator, another: K8sEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = both(tmp_path / "both", emulator, another, current="first")
    monkeypatch.setenv("KUBECONFIG", str(path))
    whole = json.loads(path.read_text())
    whole["users"][0]["user"] = {"auth-provider": {"name": "oidc", "config": {"client-id": "without a token"}}}
    path.write_text(json.dumps(whole))
    hands = Hands(emulator, tmp_path, kubeconfig=None)
    with pytest.raises(ConfigError, match="Expected key id-token"):
        _ = hands.api
    both(path, emulator, another, current="second")
    assert hands.api.source.startswith("context 'first'")


def test_a_plugin_for_credentials_runs_once_and_what_it_says_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "seekrit"}}
    (tmp_path / "said").write_text(json.dumps(said))
    script = f"echo run >> {runs}; cat {tmp_path / 'said'}"
    plugin = {"apiVersion": said["apiVersion"], "command": "sh", "args": ["-c", script], "env": None}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({**kubeconfig("first"), "users": [{"name": "first", "user": {"exec": plugin}}]}))
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = remember(K8sConfig())
    assert not runs.exists()
    assert found == {"kubeconfig": str(path), "context": "first", "namespace": "of-first"}
    assert connect("t", K8sConfig.model_validate(found)).headers()["authorization"] == "Bearer seekrit"
    assert runs.read_text() == "run\n"


@pytest.mark.parametrize(
    "text", [None, "", "[", "- a list", "a text", "{}", "contexts: 5", "current-context: none\ncontexts: []"]
)
def test_a_kubeconfig_that_cannot_be_read_says_what_to_do(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    for attempt in (remember, lambda config: connect("t", config)):
        with pytest.raises(ConfigError, match=r"no way to a cluster.*kubeconfig and a context"):
            attempt(K8sConfig())


def test_what_is_wrong_with_credentials_is_said_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = {"auth-provider": {"name": "oidc", "config": {"refresh-token": "seekrit"}}}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({**kubeconfig("first"), "users": [{"name": "first", "user": user}]}))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError, match="Expected key id-token") as caught:
        connect("t", K8sConfig())
    assert "seekrit" not in "".join(traceback.format_exception(caught.value))


def remember(config: K8sConfig) -> dict[str, object]:
    """Return what is stored with a dispatch."""
    assert PROVIDER.surroundings is not None
    return dict(PROVIDER.surroundings("t", config))


def kubeconfig(name: str) -> dict[str, object]:
    """Return a kubeconfig with one context, the current one, whose cluster is nowhere."""
    context = {"cluster": name, "user": name, "namespace": f"of-{name}"}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}"}}],
        "users": [{"name": name, "user": {"token": "seekrit"}}],
        "contexts": [{"name": name, "context": context}],
    }  # fmt: skip
