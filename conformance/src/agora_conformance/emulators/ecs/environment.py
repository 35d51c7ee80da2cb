"""What a container of a task is started with."""

from __future__ import annotations

from dataclasses import dataclass

from agora_conformance.emulators.ecs.errors import Object
from agora_conformance.emulators.ecs.task import Task, TaskContainer
from agora_conformance.emulators.runner import ContainerSpec, Image

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIB = 2**20


class NotStartable(Exception):
    """The container cannot be made; the message is ECS's."""


@dataclass(frozen=True)
class Maker:
    """Turns a container of a task into what the runner starts.

    Parameters:
        region: that the container is told.
        metadata: address of the task's metadata, which nothing serves.
    """

    region: str
    metadata: str = "http://169.254.170.2/v4"

    def make(self, task: Task, container: TaskContainer, image: Image, secrets: dict[str, str]) -> ContainerSpec:
        """Return what to start.

        Parameters:
            task: whose container it is.
            container: which one.
            image: its image.
            secrets: the values of its secrets, by the variable's name.

        Raises:
            NotStartable: there is no command, or no such user.
        """
        definition, override = container.definition, container.override
        user, group = _user(definition.get("user"), image)
        told = {one["name"]: one.get("value", "") for one in definition.get("environment") or []}
        told |= secrets
        told |= {one["name"]: one.get("value", "") for one in override.get("environment") or []}
        home = {"PATH": PATH, "HOSTNAME": f"ip-{task.id[:12]}.internal", "HOME": "/root" if user == 0 else "/"}
        own = {
            "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "ECS_CONTAINER_METADATA_URI_V4": f"{self.metadata}/{task.id}-{container.name}",
        }
        limit = container.memory() or int(task.memory)
        return ContainerSpec(
            argv=tuple(_command(definition, override, image)),
            env={**home, **image.env, **own, **told},
            cwd=definition.get("workingDirectory") or image.cwd,
            # tini, which initProcessEnabled puts before the command, passes signals on and reaps as the pause process.
            shared=bool((definition.get("linuxParameters") or {}).get("initProcessEnabled")),
            memory=limit * MIB,
            user=user,
            group=group,
            message=False,
        )


def _command(definition: Object, override: Object, image: Image) -> list[str]:
    entry = definition.get("entryPoint") or []
    command = override.get("command") or definition.get("command") or []
    # An entry point of the task definition takes away the command of the image, as with Docker.
    argv = [*(entry or image.entrypoint), *(command or (() if entry else image.command))]
    if not argv:
        raise NotStartable("CannotCreateContainerError: no command specified")
    return argv


def _user(name: str | None, image: Image) -> tuple[int, int]:
    user, _, group = (name or "").partition(":")
    try:
        uid = image.user if not user else 0 if user == "root" else int(user)
        gid = 0 if group in ("", "root") else int(group)
    except ValueError:
        raise NotStartable(f"CannotStartContainerError: unable to find user {name}: no matching entries") from None
    return uid, gid
