"""The suite on a cluster that somebody has configured, here an emulator of which it knows nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from agora_conformance.emulators.k8s import Image, K8sEmulator
from agora_k8s.config import K8sConfig
from agora_k8s.connect import connect
from agora_k8s.testing.gateway import Gateway

pytestmark = pytest.mark.backend("k8s")

#: What needs more than the provider's own requests: a cut of the API, another image, a pod of nobody's.
HANDS = ("AWAY-01", "AWAY-02", "DISP-12", "FOREIGN-02")


@pytest.mark.timeout(400)
def test_a_configured_cluster_is_tested_whole(tmp_path: Path) -> None:
    images = {"own/entrypoint:1": Image(entrypoint=("sh", "-c", "exit 9"))}
    with K8sEmulator(images=images) as emulator:
        emulator.kubeconfig(tmp_path / "kubeconfig")
        table = f'kubeconfig = "{tmp_path / "kubeconfig"}"\nimage = "busybox:1.36"\n'
        table += '[defaults]\nrun_as_user = 65534\n[conformance]\nentrypoint_image = "own/entrypoint:1"\n'
        (tmp_path / "cluster.toml").write_text(table)
        command = [sys.executable, "-m", "agora_conformance", "run", "k8s", "--profile", "extended"]
        command += ["--target-config", str(tmp_path / "cluster.toml"), "--report", str(tmp_path / "report.json")]
        command += [word for id in HANDS for word in ("--only", id)]
        environment = {**os.environ, "AGORA_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["id"]: row["status"] for row in report["checks"]} == dict.fromkeys(HANDS, "pass"), done.stdout
    assert report["backend"]["emulated"] is False, "nothing told the suite that it is an emulator"


def test_nobody_gets_through_the_gateway_without_its_token(emulator: K8sEmulator, tmp_path: Path) -> None:
    emulator.faults.clear()
    config = K8sConfig(kubeconfig=emulator.kubeconfig(tmp_path / "kubeconfig"))
    gateway = Gateway(connect("a test", config))
    way = json.loads(gateway.kubeconfig(tmp_path / "through").read_text())
    path = f"{way['clusters'][0]['cluster']['server']}/api/v1/namespaces/default"
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(path, timeout=10)
    refused.value.close()
    request = urllib.request.Request(path, headers={"Authorization": f"Bearer {way['users'][0]['user']['token']}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["metadata"]["name"] == "default"
    assert (tmp_path / "through").stat().st_mode & 0o077 == 0
    gateway.close()
