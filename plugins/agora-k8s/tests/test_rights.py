"""The Role in the package is enough, and no more than enough."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from agora.errors import PermissionDenied
from agora.model.observation import Phase, ReceiptKind
from agora_conformance.emulators.k8s import K8sEmulator
from agora_k8s import rbac
from k8s_harness import Hands, Sink, eventually

pytestmark = pytest.mark.backend("k8s")

USER = "system:serviceaccount:default:agora"


def documents() -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(rbac.text()) if one]


def rules() -> list[tuple[str, str, str]]:
    [role] = [one for one in documents() if one["kind"] == "Role"]
    return [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def without(resource: str, verb: str) -> list[dict[str, Any]]:
    """Return the manifest with one right left out."""
    found = documents()
    for one in found:
        for rule in one.get("rules", ()):
            if resource in rule["resources"]:
                rule["verbs"] = [name for name in rule["verbs"] if name != verb]
    return found


def restricted(emulator: K8sEmulator, directory: Path, manifest: list[dict[str, Any]]) -> Hands:
    """Return the provider with the rights of a manifest and no others."""
    emulator.load(manifest)
    kubeconfig = emulator.kubeconfig(directory / "restricted", token=emulator.token(USER))
    return Hands(emulator, directory, "restricted", kubeconfig=kubeconfig)


def whole_life(hands: Hands) -> None:
    """Do everything that the provider can do."""
    sink = Sink()
    watch = threading.Thread(target=hands.provider.watch, args=(sink,), daemon=True)
    watch.start()
    eventually(lambda: sink.up)
    handle = hands.start(secrets={"TOKEN": "x"})
    sink.live[handle.id] = handle
    hands.ready(handle)
    assert hands.provider.find(handle.id) == handle
    assert hands.stop(handle, grace=2).kind is ReceiptKind.SIGNALLED
    assert hands.end(handle).exit_code == 42
    hands.provider.remove_secrets(handle.id)
    eventually(lambda: sink.last(handle).phase is Phase.ENDED)
    unplaced = hands.start(options={"node_selector": {"disk": "none"}})
    hands.stop(unplaced)
    assert hands.end(unplaced).never_started
    [*owned] = hands.provider.list_owned(hands.installation)
    assert len(owned) == 2
    for one in owned:
        hands.provider.release(one.handle)
    sink.over.set()
    watch.join(50)
    assert not watch.is_alive()


def test_the_role_is_enough(emulator: K8sEmulator, tmp_path: Path) -> None:
    emulator.faults.clear()
    with K8sEmulator() as cluster:
        hands = restricted(cluster, tmp_path, documents())
        whole_life(hands)
        hands.provider.close()
        used = {(call.verb, call.resource) for call in cluster.faults.requests()}
    granted = {(verb, resource) for _, resource, verb in rules()}
    # A Secret is changed only where an earlier attempt had made it already.
    assert granted - used == {("patch", "secrets")}


def test_a_missing_right_is_told_with_its_source(tmp_path: Path) -> None:
    with K8sEmulator() as cluster:
        hands = restricted(cluster, tmp_path, without("jobs", "create"))
        with pytest.raises(PermissionDenied, match=r"cannot create resource .jobs.*restricted"):
            hands.start()
        hands.provider.close()


def test_a_stop_is_not_refused_for_want_of_the_right_to_write_the_cause(tmp_path: Path) -> None:
    with K8sEmulator() as cluster:
        hands = restricted(cluster, tmp_path, without("pods", "patch"))
        handle = hands.start()
        hands.ready(handle)
        receipt = hands.stop(handle, grace=2)
        assert (receipt.kind, receipt.degraded) == (ReceiptKind.SIGNALLED, ("cause",))
        eventually(lambda: not hands.processes(handle))
        hands.provider.close()


def test_the_package_prints_its_manifest() -> None:
    command = [sys.executable, "-m", "agora_k8s.rbac"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=50)
    assert printed.stdout == rbac.text()
