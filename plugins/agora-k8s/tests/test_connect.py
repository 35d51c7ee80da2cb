"""The way to a cluster."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from agora.errors import ConfigError, Unreachable
from agora.model.observation import Handle
from agora.provider import Installation
from agora_conformance.emulators.k8s import K8sEmulator
from agora_k8s import PROVIDER
from agora_k8s.config import K8sConfig
from agora_k8s.connect import connect, surroundings
from k8s_harness import Hands

pytestmark = pytest.mark.backend("k8s")


def test_the_client_is_imported_only_when_a_hook_needs_it() -> None:
    code = (
        "import sys, pathlib; from agora_k8s import PROVIDER; from agora.provider import Installation\n"
        "assert 'urllib3' not in sys.modules and 'kubernetes' not in sys.modules\n"
        "PROVIDER.create('t', PROVIDER.config_model(), Installation('i', pathlib.Path('.')))\n"
        "assert 'kubernetes' not in sys.modules\n"
        "whole = PROVIDER.config_model(kubeconfig='/a/file', context='c', namespace='n')\n"
        "assert PROVIDER.surroundings('t', whole) == {}, 'there is nothing to be read for it'\n"
        "assert 'kubernetes' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


def test_a_kubeconfig_that_is_set_late_is_used(
    emulator: K8sEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kubernetes  # type: ignore[import-untyped]

    assert kubernetes
    monkeypatch.setenv("KUBECONFIG", str(emulator.kubeconfig(tmp_path / "late", namespace="kube-system")))
    made = connect("t", K8sConfig())
    assert (made.url(""), made.namespace) == (emulator.url, "kube-system")
    assert connect("t", K8sConfig(namespace="other")).namespace == "other"
    assert "late" in made.source


@pytest.mark.parametrize("config", [{"in_cluster": True}, {}], ids=["asked for", "found"])
def test_in_a_pod_its_own_service_account_is_used(
    config: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config  # type: ignore[import-untyped]

    for name, text in (("token", "first"), ("ca.crt", "a certificate"), ("namespace", "workloads\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("agora_k8s.connect._ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("HOME", str(tmp_path))  # where no kubeconfig is
    monkeypatch.delenv("KUBECONFIG", raising=False)
    made = connect("t", K8sConfig.model_validate(config))
    assert (made.url("/api"), made.namespace) == ("https://10.96.0.1:443/api", "workloads")
    assert made.client.configuration.verify_ssl
    assert made.client.configuration.ssl_ca_cert == str(tmp_path / "ca.crt")
    assert made.headers()["authorization"] == "bearer first"
    assert "service account" in made.source
    found = {"in_cluster": True, "namespace": "workloads"}
    assert surroundings("t", K8sConfig.model_validate(config)) == {k: v for k, v in found.items() if k not in config}

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(minutes=2)

    (tmp_path / "token").write_text("second")
    monkeypatch.setattr(incluster_config.datetime, "datetime", Later)
    assert made.headers()["authorization"] == "bearer second", "a token of a pod lives for an hour"


@pytest.mark.parametrize("config", [{"kubeconfig": "/no/such/file"}, {"context": "none"}, {"in_cluster": True}])
def test_no_way_to_a_cluster_says_what_to_do(
    config: dict[str, object], emulator: K8sEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(emulator.kubeconfig(tmp_path / "kubeconfig")))
    with pytest.raises(ConfigError, match=r"no way to a cluster.*kubeconfig and a context"):
        connect("t", K8sConfig.model_validate(config))


def test_a_server_that_is_not_there_was_sent_nothing(emulator: K8sEmulator, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # ours all the while, so that nobody else can listen there
        path = emulator.kubeconfig(tmp_path / "kubeconfig")
        path.write_text(path.read_text().replace(emulator.url, f"http://127.0.0.1:{port}"))
        hands = Hands(emulator, tmp_path, kubeconfig=path)
        with pytest.raises(Unreachable, match="no connection") as caught:
            hands.start()
    assert caught.value.sent is False


def test_a_server_that_never_answers_keeps_nobody_waiting(emulator: K8sEmulator, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = emulator.kubeconfig(tmp_path / "kubeconfig")
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        path.write_text(path.read_text().replace(emulator.url, url))
        hands = Hands(emulator, tmp_path, kubeconfig=path)
        began = time.monotonic()
        handle = Handle(id="a", backend="b", data={"installation": "i", "uid": "u"})
        with pytest.raises(Unreachable, match="no answer"):
            hands.stop(handle)
        assert time.monotonic() - began < 10, "a stop has no more"


def test_the_targets_configuration_is_refused_where_it_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ttl"):
        K8sConfig(ttl=5)
    with pytest.raises(TypeError):
        PROVIDER.create("t", Installation("i", tmp_path), Installation("i", tmp_path))  # type: ignore[arg-type]
