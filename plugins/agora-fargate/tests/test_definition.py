"""What is sent for a dispatch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agora.errors import InvalidRequest
from agora.model.cause import Cause, Via
from agora.model.spec import Spec
from agora_fargate import PROVIDER, definition, inline, names
from agora_fargate.config import FargateConfig
from agora_fargate.names import Mark
from fargate_harness import ROLE
from pydantic import ValidationError

MARK = Mark("01m7", "an-installation", "d" * 40, 30)


def config(**values: Any) -> FargateConfig:
    defaults = {"subnets": ["subnet-1"], "execution_role": ROLE, **values.pop("defaults", {})}
    return FargateConfig.model_validate({"image": "busybox", "defaults": defaults, **values})


def made(spec: Spec, **values: Any) -> dict[str, Any]:
    return definition.task_definition(spec, config(**values), "eu-central-1")


def test_dispatches_that_differ_in_what_overrides_can_say_share_a_definition() -> None:
    first = made(Spec(command=("python", "a.py"), env={"A": "1"}, grace=30))
    assert first == made(Spec(command=("python", "b.py", "-v"), env={"B": "2"}, grace=25, labels={"x": "y"}))
    assert names.is_family(first["family"])
    others = (
        Spec(command=("python3", "a.py"), grace=30),
        Spec(command=("python", "a.py"), grace=31),
        Spec(command=("python", "a.py"), grace=30, cwd="/tmp"),
        Spec(command=("python", "a.py"), grace=30, image="other"),
        Spec(command=("python", "a.py"), grace=30, resources={"cpu": 2}),
        Spec(command=("python", "a.py"), grace=30, options={"task_role": "arn:aws:iam::1:role/x"}),
    )
    families = {made(one)["family"] for one in others} | {first["family"]}
    assert len(families) == len(others) + 1


def test_a_container_has_an_init_its_grace_and_a_log_that_loses_nothing() -> None:
    [container] = made(Spec(command=("sh", "-c", "x"), grace=7, cwd="/work"))["containerDefinitions"]
    assert container["entryPoint"] == ["sh"]
    assert "command" not in container
    assert container["linuxParameters"] == {"initProcessEnabled": True}
    assert (container["stopTimeout"], container["workingDirectory"]) == (7, "/work")
    assert container["logConfiguration"]["logDriver"] == "awslogs"
    assert container["logConfiguration"]["options"] == {
        "awslogs-group": "/agora",
        "awslogs-region": "eu-central-1",
        "awslogs-stream-prefix": "agora",
        "mode": "blocking",
    }
    [container] = made(Spec(), log_mode="non-blocking")["containerDefinitions"]
    assert "entryPoint" not in container
    assert container["logConfiguration"]["options"]["mode"] == "non-blocking"


@pytest.mark.parametrize(
    ("grace", "timeout"), [(2, 2), (9, 9), (15, 15), (16, 20), (21, 30), (46, 60), (91, 120), (120, 120), (300, 120)]
)
def test_the_stop_timeout_is_the_next_step(grace: int, timeout: int) -> None:
    assert config().stop_timeout(grace) == timeout


def test_steps_of_the_target_stay_within_what_ecs_takes() -> None:
    assert [config(graces=[1, 30, 500]).stop_timeout(grace) for grace in (2, 30, 31)] == [30, 30, 120]
    assert (PROVIDER.limits.grace_min, PROVIDER.limits.grace_max) == (2, 120)


@pytest.mark.parametrize(
    ("cpu", "memory", "size"),
    [
        (None, None, (256, 512)),
        (0.25, 512 << 20, (256, 512)),
        (0.3, None, (512, 1024)),
        (None, 2049 << 20, (512, 3072)),
        (1, 1 << 20, (1024, 2048)),
        (4, 30 << 30, (4096, 30720)),
        (4, 31 << 30, (8192, 32768)),
        (16, 120 << 30, (16384, 122880)),
    ],
)
def test_the_smallest_task_that_is_enough(cpu: float | None, memory: int | None, size: tuple[int, int]) -> None:
    assert definition.size(cpu, memory) == size


def test_a_limit_of_memory_is_the_containers_own() -> None:
    body = made(Spec(resources={"memory": 64 << 20}))
    assert (body["memory"], body["containerDefinitions"][0]["memory"]) == ("512", 64)
    for resources in ({"cpu": 17}, {"memory": 121 << 30}):
        with pytest.raises(InvalidRequest, match="the largest has 16 CPU"):
            definition.check(Spec(resources=resources), config())


def test_overrides_up_to_8192_characters_and_no_further() -> None:
    def spec(length: int) -> Spec:
        return Spec(command=("sh", "-c", "x" * length))

    longest = Mark("x" * 32, "x" * 64, spec(1).digest(), 120)
    left = 8192 - definition.override_characters(definition.overrides(longest, spec(0)))
    definition.check(spec(left), config())
    with pytest.raises(InvalidRequest, match=r"8192 characters of overrides.*these have 8193.*S3"):
        definition.check(spec(left + 1), config())
    with pytest.raises(InvalidRequest, match="8192"):
        definition.check(spec(left).with_worker("a"), config())
    # Every character is counted as it is sent, escaped.
    assert definition.override_characters({"x": "é"}) == len('{"x": "\\u00e9"}')


def test_the_request_carries_the_marks() -> None:
    spec = Spec(command=("sh", "-c", "a", "b"), env={"X": "$HOME"})
    request = definition.run_request(MARK, spec, config())
    assert request["startedBy"] == MARK.id
    assert request["clientToken"] == names.client_token(MARK.id, MARK.installation)
    assert (request["launchType"], request["count"]) == ("FARGATE", 1)
    task = {"startedBy": MARK.id, "overrides": request["overrides"]}
    assert Mark.of(task) == MARK
    assert request["overrides"]["containerOverrides"][0]["command"] == ["-c", "a", "b"]
    assert {"name": "X", "value": "$HOME"} in request["overrides"]["containerOverrides"][0]["environment"]
    assert Mark.of({**task, "startedBy": "somebody"}) is None
    assert Mark.of({"startedBy": "x"}) is None


def test_options_reach_the_request() -> None:
    options = {
        "subnets": ["subnet-a", "subnet-b"],
        "security_groups": ["sg-1"],
        "assign_public_ip": True,
        "platform_version": "1.4.0",
        "capacity_providers": [{"provider": "FARGATE_SPOT", "weight": 3}, {"provider": "FARGATE", "base": 1}],
        "task_role": "arn:task",
        "cpu_architecture": "ARM64",
        "ephemeral_storage": 50,
        "user": "65534",
        "readonly_root": True,
        "secrets": {"TOKEN": "arn:secret"},
        "tags": {"team": "x"},
    }
    spec = Spec(options=options)
    request, body = definition.run_request(MARK, spec, config()), made(spec)
    network = request["networkConfiguration"]["awsvpcConfiguration"]
    assert network == {
        "subnets": ["subnet-a", "subnet-b"],
        "securityGroups": ["sg-1"],
        "assignPublicIp": "ENABLED",
    }
    assert "launchType" not in request
    assert request["capacityProviderStrategy"][0] == {"capacityProvider": "FARGATE_SPOT", "weight": 3, "base": 0}
    assert (request["platformVersion"], request["tags"]) == ("1.4.0", [{"key": "team", "value": "x"}])
    assert (body["executionRoleArn"], body["taskRoleArn"]) == (ROLE, "arn:task")
    assert body["runtimePlatform"]["cpuArchitecture"] == "ARM64"
    assert body["ephemeralStorage"] == {"sizeInGiB": 50}
    [container] = body["containerDefinitions"]
    assert (container["user"], container["readonlyRootFilesystem"]) == ("65534", True)
    assert container["secrets"] == [{"name": "TOKEN", "valueFrom": "arn:secret"}]
    json.dumps(body)


@pytest.mark.parametrize(
    ("spec", "values", "words"),
    [
        (Spec(), {"image": None}, "image: name one"),
        (Spec(), {"defaults": {"subnets": []}}, "options.subnets"),
        (Spec(), {"defaults": {"execution_role": None}}, "options.execution_role"),
        (Spec(env={names.MARK: "x"}), {}, "belongs to Agora"),
        (Spec(env={"A": "x"}, options={"secrets": {"A": "arn"}}), {}, "in env and in options.secrets"),
        (Spec(secrets={"A": "x"}, options={"secrets": {"A": "arn"}}), {}, "in secrets and in options.secrets"),
        (Spec(secrets={names.MARK: "x"}), {}, "belongs to Agora"),
        (Spec(secrets={"A:B": "x"}), {}, "'A:B' is no name that ECS can pass"),
        (Spec(secrets={"A": "x"}, options={"platform_version": "1.3.0"}), {}, "1.4.0 and later can"),
    ],
)
def test_what_no_task_could_honour_is_refused(spec: Spec, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        definition.check(spec, config(**values))


def test_secrets_up_to_what_one_secret_holds_and_no_further() -> None:
    def spec(length: int) -> Spec:
        return Spec(secrets={"LARGE": "é" * length, "B": "x"}, options={"platform_version": "1.4.0"})

    most = (65_536 - len('{"B": "x", "LARGE": ""}')) // 2
    definition.check(spec(most), config())
    with pytest.raises(InvalidRequest, match=r"65536 bytes.*these have 65537.*options.secrets") as caught:
        definition.check(spec(most + 1), config())
    assert "éé" not in str(caught.value)


def test_inline_secrets_make_a_definition_ones_own_and_show_no_value() -> None:
    spec = Spec(command=("sh",), secrets={"B": "hidden", "A": "hidden"}, options={"secrets": {"C": "arn:c"}})
    arn = "arn:aws:secretsmanager:eu-central-1:1:secret:agora/i/x-AbCdEf"
    own = inline.Own(names.own_family("x", "i"), arn)
    body = definition.task_definition(spec, config(), "eu-central-1", own)
    assert names.is_own_family(body["family"])
    assert names.is_family(body["family"])
    assert body["containerDefinitions"][0]["secrets"] == [
        {"name": "A", "valueFrom": f"{arn}:A::"},
        {"name": "B", "valueFrom": f"{arn}:B::"},
        {"name": "C", "valueFrom": "arn:c"},
    ]
    assert "hidden" not in json.dumps([body, definition.run_request(MARK, spec, config())])
    families = {names.own_family(id, i) for id, i in (("x", "i"), ("y", "i"), ("x", "j"), ("a" * 32, "b" * 40))}
    assert len(families) == 4
    assert all(names.is_own_family(one) for one in families)
    assert len({names.secret_token("x", "i"), names.secret_token("y", "i"), names.secret_token("x", "j")}) == 3


def test_unknown_options_are_errors() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"subnet": ["x"]},
        {"ephemeral_storage": 20},
        {"subnets": ["s"] * 17},
        {"capacity_providers": [{}]},
    )
    for bad in wrong:
        with pytest.raises(ValidationError):
            config().options(bad)


def test_tokens_are_short_and_of_one_installation() -> None:
    longest = names.client_token("a" * 32, "x" * 500)
    assert len(longest) == 64
    assert all(33 <= ord(character) <= 126 for character in longest)
    assert names.client_token("a", "one") != names.client_token("a", "two")


@pytest.mark.parametrize("text", ["short", "x" * 4000, "é" * 300, "日本\n\t語" * 100])
def test_a_reason_is_ours_and_fits(text: str) -> None:
    cause = Cause(actor="a" * 100, via=Via.CLI, reason=text)
    written = names.reason("01m7", cause)
    assert len(written) <= len(written.encode()) <= 255
    assert written.startswith(f"agora 01m7: {'a' * 100} via cli: {text[0]}")
    assert names.is_our_reason("01m7", written)
    assert not names.is_our_reason("01m8", written)
    assert not names.is_our_reason("01m7", "Task stopped by user")
    assert not names.is_our_reason("01m7", None)
