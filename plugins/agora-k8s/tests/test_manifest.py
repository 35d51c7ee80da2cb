"""The objects that a dispatch becomes."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from agora.errors import InvalidRequest
from agora.model.spec import Spec
from agora_k8s import manifest, merge
from agora_k8s.config import K8sConfig
from hypothesis import given
from hypothesis import strategies as st

ID = "01jd0000000000000000000000"
AWKWARD = (
    *("$HOME", "${X:-y}", "$(X)", "$$", "$$(X)", "$$$", "$", "$(", "%{if}", "{{x}}", "", "-n", "--", "*"),
    *(
        "it's",
        'say "hi"',
        "back\\slash",
        "two\nlines\n",
        "tab\there",
        "naïve 🦜 日本",
        "$(KUBERNETES_PORT)",
        "$(A)$(B)",
    ),
)


def expanded(text: str, known: dict[str, str]) -> str:
    """Expand as the kubelet was measured to do: `$$` is `$`, `$(NAME)` is a known value, the rest stays."""

    def one(found: re.Match[str]) -> str:
        if found.group() == "$$":
            return "$"
        return known.get(found["name"], found.group())

    return re.sub(r"\$\$|\$\((?P<name>[^)]*)\)", one, text)


def job(config: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    spec = Spec(**{"image": "busybox", "command": ("true",), **fields})
    made = K8sConfig.model_validate(config or {})
    manifest.check(spec, made)
    return manifest.job(ID, "an-installation", spec, made)


def pod_of(made: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = made["spec"]["template"]["spec"]
    return pod


def main_of(made: dict[str, Any]) -> dict[str, Any]:
    (main,) = pod_of(made)["containers"]
    found: dict[str, Any] = main
    return found


# -- strings ---------------------------------------------------------------------------------------------------


def test_arguments_and_variables_arrive_unchanged() -> None:
    values = {f"V{number}": text for number, text in enumerate(AWKWARD)}
    main = main_of(job(command=("program", *AWKWARD), env={"X": "bad", "A": "bad", "B": "bad", **values}))
    known = {"X": "bad", "A": "bad", "B": "bad", "KUBERNETES_PORT": "bad", "HOME": "bad"}
    assert [expanded(text, known) for text in main["command"]] == ["program", *AWKWARD]
    assert "args" not in main
    seen = {one["name"]: expanded(one["value"], known) for one in main["env"]}
    assert {name: seen[name] for name in values} == values


@given(st.text(alphabet="$(){}X A\\"))
def test_any_string_survives_the_expansion(text: str) -> None:
    assert expanded(manifest.exact(text), {"X": "bad", "": "bad", "A": "bad"}) == text


def test_without_a_command_the_image_decides() -> None:
    main = main_of(job(command=None))
    assert {"command", "args"} & main.keys() == set()


# -- the Job ---------------------------------------------------------------------------------------------------


def test_the_job_runs_once_and_keeps_its_record() -> None:
    made = job(grace=7, timeout=100, config={"ttl": 7200})
    assert made["metadata"]["name"] == f"agora-{ID}"
    spec = made["spec"]
    assert (spec["backoffLimit"], spec["parallelism"], spec["completions"]) == (0, 1, 1)
    assert (spec["podReplacementPolicy"], spec["suspend"]) == ("Failed", False)
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (160, 7200)
    pod = pod_of(made)
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 7)
    assert pod["shareProcessNamespace"] is True
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False


def test_job_and_pod_carry_the_marks() -> None:
    made = job()
    marks = {"agora.dev/dispatch-id": ID, "agora.dev/installation": "an-installation"}
    for labels in (made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]):
        assert marks.items() <= labels.items()
        assert len(labels["agora.dev/spec-digest"]) <= 63


def test_the_default_fits_the_restricted_security_standard() -> None:
    made = job()
    assert pod_of(made)["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert main_of(made)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "hostNetwork" not in pod_of(made)
    free = job(options={"security": "image", "run_as_user": 7})
    assert pod_of(free)["securityContext"] == {"runAsUser": 7}
    assert "securityContext" not in main_of(free)


def test_options_and_resources_reach_the_pod() -> None:
    made = job(
        cwd="/work",
        resources={"cpu": 0.25, "memory": 64 << 20},
        options={
            "service_account": "runner",
            "node_selector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "toleration_seconds": 5}],
            "limits": {"nvidia.com/gpu": "1"},
            "image_pull_secrets": ["registry"],
            "image_pull_policy": "Always",
            "host_network": True,
            "labels": {"team": "a"},
        },
    )
    pod, main = pod_of(made), main_of(made)
    assert pod["serviceAccountName"] == "runner"
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["hostNetwork"] is True
    assert (main["workingDir"], main["imagePullPolicy"]) == ("/work", "Always")
    assert main["resources"]["requests"] == {"cpu": "250m", "memory": "67108864"}
    assert main["resources"]["limits"] == {"cpu": "250m", "memory": "67108864", "nvidia.com/gpu": "1"}
    assert made["spec"]["template"]["metadata"]["labels"]["team"] == "a"


def test_a_dispatch_goes_before_the_targets_defaults() -> None:
    config = {"image": "from-target", "defaults": {"service_account": "target", "run_as_user": 7}}
    made = job(image=None, config=config, options={"service_account": "dispatch"})
    assert main_of(made)["image"] == "from-target"
    assert pod_of(made)["serviceAccountName"] == "dispatch"
    assert pod_of(made)["securityContext"]["runAsUser"] == 7


# -- secrets ---------------------------------------------------------------------------------------------------


def test_secrets_stay_out_of_the_job_and_belong_to_it() -> None:
    spec = Spec(image="busybox", secrets={"TOKEN": "hidden $(X)", "A": "other"})
    made = manifest.job(ID, "an-installation", spec, K8sConfig())
    assert "hidden" not in json.dumps(made)
    assert made["spec"]["suspend"] is True, "it must not start before its Secret is there"
    owner = {"metadata": {"name": made["metadata"]["name"], "uid": "a-uid"}}
    secret = manifest.secret(ID, "an-installation", spec, owner)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "a-uid"
    by_name = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in main_of(made)["env"]}
    assert by_name["TOKEN"]["name"] == secret["metadata"]["name"]
    assert base64.b64decode(secret["data"][by_name["TOKEN"]["key"]]) == b"hidden $(X)"


# -- the patch -------------------------------------------------------------------------------------------------


def test_the_patch_merges_into_the_template() -> None:
    patch = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {
            "containers": [{"name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "initContainers": [{"name": "proxy", "image": "p", "restartPolicy": "Always"}],
            "securityContext": {"fsGroup": 5},
            "enableServiceLinks": None,
        },
    }
    made = job(env={"A": "1"}, options={"pod_template": patch})
    main, pod = main_of(made), pod_of(made)
    assert main["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert main["env"] == [{"name": "A", "value": "1"}]
    assert pod["volumes"] == [{"name": "data", "emptyDir": {}}]
    assert pod["initContainers"][0]["name"] == "proxy"
    assert pod["securityContext"]["fsGroup"] == 5
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert "enableServiceLinks" not in pod


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        ({"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy"),
        ({"spec": {"terminationGracePeriodSeconds": 0}}, "spec.terminationGracePeriodSeconds"),
        ({"spec": {"shareProcessNamespace": False}}, "spec.shareProcessNamespace"),
        ({"spec": {"$patch": "replace"}}, "cannot be replaced"),
        ({"spec": {"containers": [{"name": "other", "image": "x"}]}}, "only 'main'"),
        ({"spec": {"containers": [{"$patch": "replace"}]}}, "only 'main'"),
        ({"spec": {"containers": [{"name": "main", "command": ["x"]}]}}, "command"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "has no name"),
        ({"metadata": {"labels": {"agora.dev/dispatch-id": "other"}}}, "agora.dev/"),
        ({"metadata": {"labels": None}}, "agora.dev/"),
        ({"other": {}}, "other"),
    ],
)
def test_the_patch_cannot_break_the_contract(patch: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(named)):
        job(options={"pod_template": patch})


def test_merge_directives() -> None:
    base = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "list": [1], "table": {"x": 1}}
    patch = {"env": [{"name": "A", "$patch": "delete"}, {"name": "C"}], "list": [2], "table": {"$patch": "replace"}}
    assert merge.merged(base, patch) == {"env": [{"name": "B", "value": "2"}, {"name": "C"}], "list": [2], "table": {}}
    assert merge.merged({"env": [{"name": "A"}]}, {"env": [{"$patch": "replace"}, {"name": "Z"}]}) == {
        "env": [{"name": "Z"}]
    }
    assert base["list"] == [1], "the base is not changed"


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"image": None}, "image"),
        ({"env": {"ä": "x"}}, "printable ASCII"),
        ({"env": {f"V{number}": "$" * 100_000 for number in range(6)}}, "a Job of Kubernetes holds"),
        ({"secrets": {f"V{number}": "x" * 100_000 for number in range(11)}}, "secrets"),
        ({"options": {"labels": {"agora.dev/dispatch-id": "x"}}}, "options.labels"),
    ],
)
def test_what_no_job_could_honour_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        job(**fields)
