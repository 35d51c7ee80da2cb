"""What a target of this provider can be configured with, and what a spec can ask of it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from agora.model.base import Model
from pydantic import Field, StrictInt, StrictStr, model_validator

PullPolicy = Literal["always", "missing", "never"]

#: Ended containers stay for so long by default, in seconds: a week.
DEFAULT_RETENTION = 604_800.0
#: A container's output is kept in two files of half this size by default, in bytes.
DEFAULT_LOG_CAP = 100_000_000


class DockerConfig(Model):
    """A Docker Engine.

    Parameters:
        host: its address (`unix:///var/run/docker.sock`, `tcp://HOST:2376`, `ssh://USER@HOST`). Without `host` and
            `context`: what the `docker` command would use (DOCKER_HOST, DOCKER_CONTEXT, the current context).
        context: name of a context of the `docker` command.
        tls_ca, tls_cert, tls_key: files for `host` over TLS; all three for `dockerd --tlsverify`.
        pull: when to pull an image, unless the spec says otherwise: `always`, when it is `missing`, or `never`.
        require_digest: refuse an image that is not pinned by digest (`NAME@sha256:...`).
        timeout: seconds to wait for one answer of the engine.
        retention: seconds after its end for which a container stays, with its output; `never` is it removed then,
            but released by `agora prune`. What is known of its end stays in any case.
        log_cap: bytes of output kept per container, where the engine logs to files; null leaves it to the engine.
    """

    host: StrictStr | None = None
    context: StrictStr | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    pull: PullPolicy = "missing"
    require_digest: bool = False
    timeout: float = Field(default=8.0, gt=0, le=60)
    retention: Annotated[float, Field(ge=1)] | Literal["never"] = DEFAULT_RETENTION
    log_cap: int | None = Field(default=DEFAULT_LOG_CAP, ge=100_000)

    @model_validator(mode="after")
    def _one_way_to_it(self) -> Self:
        if self.host is not None and self.context is not None:
            raise ValueError("host and context exclude each other")
        if self.host is None and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("tls_ca, tls_cert and tls_key need host; a context brings its own")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        return self


class Mount(Model):
    """Something mounted into the container.

    Parameters:
        type: a directory or file of the engine's machine (`bind`), a named `volume`, or memory (`tmpfs`).
        source: the path or the volume's name; none for `tmpfs`.
        target: where it is mounted, absolute.
        read_only: whether the workload may not write to it.
        size: bytes of a `tmpfs` at most.
    """

    type: Literal["bind", "volume", "tmpfs"]
    source: StrictStr | None = None
    target: Annotated[StrictStr, Field(pattern="^/")]
    read_only: bool = False
    size: StrictInt | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _source_fits(self) -> Self:
        if (self.source is None) != (self.type == "tmpfs"):
            raise ValueError("source is needed for bind and volume, and means nothing for tmpfs")
        if self.type == "bind" and self.source is not None and not self.source.startswith("/"):
            raise ValueError("the source of a bind must be an absolute path")
        if self.size is not None and self.type != "tmpfs":
            raise ValueError("size is for tmpfs")
        return self


class DockerOptions(Model):
    """What `spec.options` may say.

    Parameters:
        user: user that the command runs as (`NAME`, `UID`, `UID:GID`); the image's by default.
        network: network to join: `none`, `host`, `bridge` or one that exists; the engine's default otherwise.
        mounts: what to mount.
        read_only: mount the image read-only.
        gpus: how many GPUs to ask for; -1 for all of them.
        pids_limit: how many processes and threads at most.
        shm_size: bytes of /dev/shm.
        cap_add, cap_drop: Linux capabilities to add and to drop.
        extra_hosts: further names for /etc/hosts, by name.
        platform: platform of the image (`linux/arm64`).
        pull: when to pull the image; the target's setting by default.
        secrets: how the workload gets `spec.secrets`: as environment variables, which needs /bin/sh in the image,
            or as files /run/secrets/NAME, which needs nothing.
    """

    user: StrictStr | None = None
    network: StrictStr | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    gpus: StrictInt | None = Field(default=None, ge=-1)
    pids_limit: StrictInt | None = Field(default=None, gt=0)
    shm_size: StrictInt | None = Field(default=None, gt=0)
    cap_add: tuple[StrictStr, ...] = ()
    cap_drop: tuple[StrictStr, ...] = ()
    extra_hosts: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    platform: StrictStr | None = None
    pull: PullPolicy | None = None
    secrets: Literal["environment", "files"] = "environment"
