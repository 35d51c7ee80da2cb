"""What is sent for a dispatch: a task definition that many share, and the overrides that are its own."""

from __future__ import annotations

import json
import math
from typing import Any

from agora.errors import InvalidRequest
from agora.model.spec import Spec

from agora_fargate import inline, names
from agora_fargate.config import FargateConfig, FargateOptions
from agora_fargate.inline import Own
from agora_fargate.names import CONTAINER, Item, Mark

#: "A total of 8192 characters are allowed for overrides. This limit includes the JSON formatting characters"
#: (botocore's ECS model, RunTask). Counted as botocore writes them, which is the longest way.
MAX_OVERRIDES = 8192
#: CPU units and the MiB that go with them, from the least to the most ("Task size" of the ECS developer's guide,
#: and `memory` of RegisterTaskDefinition in botocore's model).
SIZES = {
    256: (512, 1024, 2048),
    512: tuple(range(1024, 4097, 1024)),
    1024: tuple(range(2048, 8193, 1024)),
    2048: tuple(range(4096, 16385, 1024)),
    4096: tuple(range(8192, 30721, 1024)),
    8192: tuple(range(16384, 61441, 4096)),
    16384: tuple(range(32768, 122881, 8192)),
}
#: "don't specify less than 6 MiB of memory for your containers" (botocore's ECS model).
_LEAST_MEMORY = 6
_MIB = 1 << 20
_RESERVED = (names.INSTALLATION, names.MARK)


def size(cpu: float | None, memory: int | None) -> tuple[int, int]:
    """Return the smallest task that Fargate offers for some cores and bytes: CPU units and MiB.

    Raises:
        InvalidRequest: there is none.
    """
    units, least = math.ceil((cpu or 0) * 1024), math.ceil((memory or 0) / _MIB)
    for offered, memories in SIZES.items():
        fitting = [one for one in memories if one >= least]
        if offered >= units and fitting:
            return offered, fitting[0]
    raise InvalidRequest(
        f"resources: Fargate has no task with {cpu or 0:g} CPU and {least} MiB; the largest has 16 CPU and 122880 MiB"
    )


def check(spec: Spec, config: FargateConfig) -> None:
    """Refuse what no task of this target could honour.

    Parameters:
        spec: with the variables that tell a worker of its dispatch.

    Raises:
        InvalidRequest: names the field.
    """
    options = config.options(spec.options)
    if (spec.image or config.image) is None:
        raise InvalidRequest("image: name one, or give the target a default `image`")
    if not options.subnets:
        raise InvalidRequest("options.subnets: Fargate needs at least one; give the target `defaults.subnets`")
    if options.execution_role is None:
        raise InvalidRequest(
            "options.execution_role: ECS writes the logs of a Fargate task with it; give the target "
            "`defaults.execution_role`"
        )
    for field in (spec.env, spec.secrets, options.secrets):
        if taken := sorted(set(field) & set(_RESERVED)):
            raise InvalidRequest(f"variable {taken[0]} belongs to Agora")
    for word, given in (("env", spec.env.keys()), ("secrets", spec.secrets.keys())):
        if both := sorted(given & options.secrets.keys()):
            raise InvalidRequest(f"variable {both[0]} is in {word} and in options.secrets")
    inline.check(spec, options.platform_version)
    size(spec.resources.cpu, spec.resources.memory)
    longest = Mark("x" * 32, "x" * 64, spec.digest(), 120)
    if (length := override_characters(overrides(longest, spec))) > MAX_OVERRIDES:
        raise InvalidRequest(
            f"command and env: ECS takes {MAX_OVERRIDES} characters of overrides, written as JSON and with the marks "
            f"of Agora; these have {length}. Put what is large into the image, or into S3 and pass its address"
        )


def override_characters(made: Item) -> int:
    """Count the characters of overrides as they are sent."""
    return len(json.dumps(made))


def task_definition(spec: Spec, config: FargateConfig, region: str, own: Own | None = None) -> Item:
    """Return what RegisterTaskDefinition gets; the same for all dispatches that can share a definition.

    The first word of the command stands in it, since overrides replace only what follows.

    Parameters:
        own: for a dispatch with inline secrets, which shares with nobody.
    """
    options = config.options(spec.options)
    cpu, memory = size(spec.resources.cpu, spec.resources.memory)
    body: Item = {
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "cpu": str(cpu),
        "memory": str(memory),
        "executionRoleArn": options.execution_role,
        "taskRoleArn": options.task_role,
        "containerDefinitions": [_container(spec, config, options, region, own)],
    }
    if options.cpu_architecture is not None:
        body["runtimePlatform"] = {"cpuArchitecture": options.cpu_architecture, "operatingSystemFamily": "LINUX"}
    if options.ephemeral_storage is not None:
        body["ephemeralStorage"] = {"sizeInGiB": options.ephemeral_storage}
    if options.tags:
        body["tags"] = _tags(options)
    body = {name: value for name, value in body.items() if value is not None}
    return {"family": names.family(json.dumps(body, sort_keys=True)) if own is None else own.family, **body}


def _container(spec: Spec, config: FargateConfig, options: FargateOptions, region: str, own: Own | None) -> Item:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": spec.image or config.image,
        "essential": True,
        "stopTimeout": config.stop_timeout(spec.grace),
        "linuxParameters": {"initProcessEnabled": True},
        "readonlyRootFilesystem": options.readonly_root,
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": config.log_group,
                "awslogs-region": region,
                "awslogs-stream-prefix": names.PREFIX,
                "mode": config.log_mode,
            },
        },
    }
    if spec.command is not None:
        container["entryPoint"] = [spec.command[0]]
    if spec.cwd is not None:
        container["workingDirectory"] = spec.cwd
    if spec.resources.memory is not None:
        # The task may be larger: what is killed for lack of memory is what was asked for.
        container["memory"] = max(_LEAST_MEMORY, math.ceil(spec.resources.memory / _MIB))
    if options.user is not None:
        container["user"] = options.user
    secrets = {**options.secrets, **({name: own.value_from(name) for name in spec.secrets} if own else {})}
    if secrets:
        container["secrets"] = [{"name": name, "valueFrom": secrets[name]} for name in sorted(secrets)]
    return container


def overrides(mark: Mark, spec: Spec) -> Item:
    """Return what is a dispatch's own: the rest of its command, its environment, and the marks."""
    variables = {**spec.env, **mark.variables()}
    container: Item = {
        "name": CONTAINER,
        "environment": [{"name": name, "value": value} for name, value in variables.items()],
    }
    if spec.command is not None and len(spec.command) > 1:
        container["command"] = list(spec.command[1:])
    return {"containerOverrides": [container]}


def run_request(mark: Mark, spec: Spec, config: FargateConfig) -> Item:
    """Return what RunTask gets, but for the task definition."""
    options = config.options(spec.options)
    network: Item = {
        "subnets": list(options.subnets),
        "assignPublicIp": "ENABLED" if options.assign_public_ip else "DISABLED",
    }
    if options.security_groups:
        network["securityGroups"] = list(options.security_groups)
    request: Item = {
        "count": 1,
        "clientToken": names.client_token(mark.id, mark.installation),
        "startedBy": mark.id,
        "overrides": overrides(mark, spec),
        "networkConfiguration": {"awsvpcConfiguration": network},
    }
    if options.capacity_providers:
        request["capacityProviderStrategy"] = [
            {"capacityProvider": one.provider, "weight": one.weight, "base": one.base}
            for one in options.capacity_providers
        ]
    else:
        request["launchType"] = "FARGATE"
    if options.platform_version is not None:
        request["platformVersion"] = options.platform_version
    if options.tags:
        request["tags"] = _tags(options)
    return request


def _tags(options: FargateOptions) -> list[Item]:
    return [{"key": key, "value": options.tags[key]} for key in sorted(options.tags)]
