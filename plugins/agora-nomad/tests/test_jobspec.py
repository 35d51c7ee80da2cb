"""The job that is registered: what Nomad would do by itself is switched off, and stays so."""

from __future__ import annotations

from typing import Any

import pytest
from agora.errors import InvalidRequest
from agora.model.spec import Spec
from agora_nomad import jobspec, names
from agora_nomad.config import NomadConfig
from pydantic import ValidationError

SECOND = 10**9


def build(config: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    values = {"image": "busybox", **(config or {})}
    spec = Spec(**{"command": ("sh", "-c", "true"), **fields})
    model = NomadConfig(**values)
    jobspec.check(spec, model)
    return jobspec.job("d1", "i1", spec, model, namespace="work", region="eu")


def group(job: dict[str, Any]) -> dict[str, Any]:
    (one,) = job["TaskGroups"]
    found: dict[str, Any] = one
    return found


def task(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in group(job)["Tasks"] if one["Name"] == names.TASK)
    return found


def test_nothing_is_started_twice() -> None:
    job = build(timeout=100)
    assert (job["ID"], job["Name"], job["Type"], job["Namespace"], job["Region"]) == (
        "agora-d1",
        "agora-d1",
        "batch",
        "work",
        "eu",
    )
    one = group(job)
    assert one["Count"] == 1
    assert one["RestartPolicy"] == {"Attempts": 0, "Mode": "fail"}
    assert one["ReschedulePolicy"] == {"Attempts": 0, "Unlimited": False}
    assert one["Disconnect"] == {"LostAfter": 30 * 86_400 * SECOND, "Replace": False, "Reconcile": "keep_original"}
    assert one["MaxRunDuration"] == 160 * SECOND
    assert jobspec.registration(job) == {"Job": job, "EnforceIndex": True, "JobModifyIndex": 0}


def test_signal_and_grace_are_always_said() -> None:
    assert (task(build(grace=7))["KillSignal"], task(build(grace=7))["KillTimeout"]) == ("SIGTERM", 7 * SECOND)


def test_marks_cannot_be_changed() -> None:
    spec = Spec(command=("sh", "-c", "true"), run="r", name="n", options={"meta": {"team": "a"}})
    meta = jobspec.job("d1", "i1", spec, NomadConfig(), namespace="n", region=None)["Meta"]
    assert meta == {
        "agora.dispatch_id": "d1",
        "agora.installation": "i1",
        "agora.spec_digest": spec.digest(),
        "agora.run": "r",
        "agora.name": "n",
        "team": "a",
    }
    for options in ({"meta": {"agora.installation": "x"}}, {"job": {"Meta": {"agora.installation": "x"}}}):
        with pytest.raises(InvalidRequest, match="belong to Agora"):
            build(options=options)


@pytest.mark.parametrize(
    ("driver", "config"),
    [
        ("docker", {"image": "busybox", "init": True, "entrypoint": ["a"], "args": ["$${X}", "%%{if}"]}),
        ("exec", {"command": "a", "args": ["$${X}", "%%{if}"], "pid_mode": "host", "ipc_mode": "host"}),
        ("raw_exec", {"command": "a", "args": ["$${X}", "%%{if}"]}),
    ],
)
def test_drivers(driver: str, config: dict[str, Any]) -> None:
    one = task(build({"driver": driver}, command=("a", "${X}", "%{if}")))
    assert (one["Driver"], one["Config"]) == (driver, config)


def test_the_workload_is_not_process_1_unless_the_target_says_so() -> None:
    assert "pid_mode" not in task(build({"driver": "exec", "host_namespaces": False}))["Config"]


def test_the_images_own_command_runs_where_there_is_none() -> None:
    assert task(build(command=None))["Config"] == {"image": "busybox", "init": True}


def test_directory_and_environment() -> None:
    one = task(build(cwd="/a/${b}", env={"A": "${HOME}"}))
    assert one["Config"]["work_dir"] == "/a/$${b}"
    assert "Env" not in one
    assert one["Templates"][0]["EmbeddedTmpl"] == 'A="${HOME}"\n'


def test_resources() -> None:
    assert task(build())["Resources"] == {"CPU": 100, "MemoryMB": 300}
    asked = build({"mhz_per_core": 2400}, resources={"cpu": 0.5, "memory": (64 << 20) + 1})
    assert task(asked)["Resources"] == {"CPU": 1200, "MemoryMB": 65}
    options = {"cores": 2, "memory_mb": 50, "memory_max_mb": 90}
    assert task(build(options=options))["Resources"] == {"Cores": 2, "MemoryMB": 50, "MemoryMaxMB": 90}


def test_options_and_defaults() -> None:
    config = {"defaults": {"datacenters": ["dc1"], "priority": 70, "user": "nobody"}}
    options = {
        "datacenters": ["dc2*"],
        "node_pool": "gpu",
        "constraints": [{"attribute": "${attr.kernel.name}", "value": "linux"}],
        "config": {"network_mode": "host"},
        "vault": {"role": "r", "policies": ["p"]},
        "consul": {"partition": "x"},
    }
    job = build(config, options=options)
    assert (job["Datacenters"], job["Priority"], job["NodePool"]) == (["dc2*"], 70, "gpu")
    assert job["Constraints"] == [{"LTarget": "${attr.kernel.name}", "Operand": "=", "RTarget": "linux"}]
    one = task(job)
    assert one["User"] == "nobody"
    assert one["Config"]["network_mode"] == "host"
    assert one["Vault"] == {"Env": True, "Role": "r", "Policies": ["p"]}
    assert one["Consul"] == {"Partition": "x"}
    assert build()["Datacenters"] == ["*"]


def test_a_patch_adds_and_keeps_what_the_dispatch_decides() -> None:
    patch = {
        "Affinities": [{"LTarget": "a", "RTarget": "b", "Operand": "="}],
        "TaskGroups": [
            {
                "Name": "main",
                "Networks": [{"Mode": "host"}],
                "Tasks": [
                    {"Name": "main", "Resources": {"DiskMB": 5}, "Templates": [{"DestPath": "local/x"}]},
                    {"Name": "log", "Driver": "docker", "Lifecycle": {"Hook": "prestart", "Sidecar": True}},
                ],
            }
        ],
    }
    job = build(env={"A": "1"}, options={"job": patch})
    assert job["Affinities"] == patch["Affinities"]
    assert group(job)["Networks"] == [{"Mode": "host"}]
    assert group(job)["Disconnect"]["Replace"] is False
    one = task(job)
    assert one["Resources"] == {"CPU": 100, "MemoryMB": 300, "DiskMB": 5}
    assert [template["DestPath"] for template in one["Templates"]] == ["local/x", "secrets/agora.env"]
    assert one["Leader"] is True
    assert [other["Name"] for other in group(job)["Tasks"]] == ["main", "log"]


@pytest.mark.parametrize(
    "patch",
    [
        {"ID": "other"},
        {"Namespace": "other"},
        {"Stop": True},
        {"TaskGroups": [{"Name": "second"}]},
        {"TaskGroups": "main"},
        {"TaskGroups": [{"Name": "main", "Count": 2}]},
        {"TaskGroups": [{"Name": "main", "RestartPolicy": {"Attempts": 3}}]},
        {"TaskGroups": [{"Name": "main", "ReschedulePolicy": {"Attempts": 1}}]},
        {"TaskGroups": [{"Name": "main", "Disconnect": None}]},
        {"TaskGroups": [{"Name": "main", "MaxRunDuration": 1}]},
        {"TaskGroups": [{"Name": "main", "StopAfterClientDisconnect": 1}]},
        {"TaskGroups": [{"Name": "main", "Tasks": [{"Name": "main", "KillTimeout": 1}]}]},
        {"TaskGroups": [{"Name": "main", "Tasks": [{"Name": "main", "KillSignal": "SIGINT"}]}]},
        {"TaskGroups": [{"Name": "main", "Tasks": [{"Name": "main", "Config": {"init": False}}]}]},
        {"TaskGroups": [{"Name": "main", "Tasks": [{"Name": "main", "Config": None}]}]},
        {"TaskGroups": [{"Name": "main", "Tasks": [{"Name": "second"}]}]},
    ],
)
def test_a_patch_of_what_the_dispatch_decides_is_refused(patch: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"options\.job"):
        build(options={"job": patch})


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        ({"image": None}, {}, "image: name one"),
        ({"driver": "raw_exec"}, {"image": "busybox"}, "image: the driver raw_exec"),
        ({"driver": "exec"}, {"command": None}, "command: the driver exec"),
        ({}, {"env": {"a.b": "x"}}, "ASCII letters"),
        ({}, {"options": {"config": {"command": "x"}}}, "the dispatch decides"),
    ],
)
def test_what_cannot_be_honoured_is_refused(config: dict[str, Any], fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        build(config, **fields)


def test_unknown_options_are_refused() -> None:
    for given in ({"drivers": "docker"}, {"driver": "qemu"}, {"priority": 101}):
        with pytest.raises(ValidationError):
            NomadConfig().options(given)
