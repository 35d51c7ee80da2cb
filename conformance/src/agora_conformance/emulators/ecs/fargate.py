"""Sizes and other limits of Fargate."""

from __future__ import annotations

import re

from agora_conformance.emulators.ecs.errors import ApiError, Object, client

#: Memory in MiB by CPU units (botocore: `TaskDefinition.cpu` and `.memory`).
SIZES: dict[int, tuple[int, ...]] = {
    256: (512, 1024, 2048),
    512: tuple(range(1024, 4096 + 1, 1024)),
    1024: tuple(range(2048, 8192 + 1, 1024)),
    2048: tuple(range(4096, 16384 + 1, 1024)),
    4096: tuple(range(8192, 30720 + 1, 1024)),
    8192: tuple(range(16384, 61440 + 1, 4096)),
    16384: tuple(range(32768, 122880 + 1, 8192)),
}
#: botocore: `stopTimeout`; what the least is, nobody says, and 1 is assumed.
STOP_TIMEOUTS = range(1, 121)
PLATFORMS = {"LATEST": "1.4.0", "1.4.0": "1.4.0", "1.3.0": "1.3.0"}
NO_ROLE = "Fargate requires task definition to have execution role ARN to support"


def units(text: str | None) -> int | None:
    """Read CPU units or vCPUs, such as `256` or `.25 vCPU`; None for what is neither."""
    found = re.fullmatch(r"([0-9.]+) ?(vcpu)?", (text or "").strip().lower())
    return None if found is None else round(float(found[1]) * 1024) if found[2] else int(float(found[1]))


def mebibytes(text: str | None) -> int | None:
    """Read MiB or GB, such as `512` or `1 GB`; None for what is neither."""
    found = re.fullmatch(r"([0-9.]+) ?(gb)?", (text or "").strip().lower())
    return None if found is None else round(float(found[1]) * 1024) if found[2] else int(float(found[1]))


def size(cpu: str | None, memory: str | None) -> tuple[str, str]:
    """Return the CPU units and MiB of a task.

    Raises:
        ApiError: Fargate has no such size.
    """
    found, mib = units(cpu), mebibytes(memory)
    if found is None or mib is None or mib not in SIZES.get(found, ()):
        raise client("No Fargate configuration exists for given values.")
    return str(found), str(mib)


def platform(wanted: str | None) -> str:
    """Return the platform version that is used.

    Raises:
        ApiError: there is no such version.
    """
    if (wanted or "LATEST") not in PLATFORMS:
        raise ApiError("PlatformUnknownException", "The specified platform does not exist.")
    return PLATFORMS[wanted or "LATEST"]


def check(definition: Object) -> None:
    """Check what Fargate wants of a task definition.

    Raises:
        ApiError: it wants something else.
    """
    if definition.get("networkMode") != "awsvpc":
        raise client("Fargate only supports network mode 'awsvpc'.")
    size(definition.get("cpu"), definition.get("memory"))
    if definition.get("placementConstraints"):
        raise client("Fargate tasks do not support placement constraints.")
    for container in definition["containerDefinitions"]:
        _check_container(container, definition)


def _check_container(container: Object, definition: Object) -> None:
    parameters = container.get("linuxParameters") or {}
    for wrong, where in (
        (container.get("privileged"), "privileged"),
        (container.get("links"), "links"),
        (container.get("dockerSecurityOptions"), "dockerSecurityOptions"),
        (parameters.get("devices"), "devices"),
        (parameters.get("sharedMemorySize"), "sharedMemorySize"),
    ):
        if wrong:
            raise client(f"Fargate task definitions do not support {where}.")
    if container.get("stopTimeout", 30) not in STOP_TIMEOUTS:
        raise client(f"Container.stopTimeout must be between {STOP_TIMEOUTS[0]} and {STOP_TIMEOUTS[-1]} for Fargate.")
    if (container.get("memory") or 0) > int(size(definition["cpu"], definition["memory"])[1]):
        raise client("Container memory must not be greater than the memory of the task.")
    options = (container.get("logConfiguration") or {}).get("options") or {}
    driver = (container.get("logConfiguration") or {}).get("logDriver")
    role = definition.get("executionRoleArn")
    if driver not in (None, "awslogs", "splunk", "awsfirelens"):
        raise client(f"Fargate task definitions do not support log driver {driver}.")
    if driver == "awslogs":
        if not role:
            raise client(f"{NO_ROLE} log driver awslogs.")
        for name in ("awslogs-group", "awslogs-region", "awslogs-stream-prefix"):
            if not options.get(name):
                raise client(f"Log driver awslogs requires options: {name}")
    if re.match(r"[0-9]{12}\.dkr\.ecr\.", container["image"]) and not role:
        raise client(f"{NO_ROLE} ECR images.")
    if container.get("secrets") and not role:
        raise client("When you are specifying container secrets, you must also specify a value for 'executionRoleArn'.")
