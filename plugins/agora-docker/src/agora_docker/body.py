"""From a spec to what the engine is asked to create. No I/O."""

from __future__ import annotations

import io
import os.path
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import IO, Any

from agora.errors import InvalidRequest
from agora.model.spec import Spec

from agora_docker import marks
from agora_docker.config import DockerConfig, DockerOptions, Mount

#: Where secrets lie in the container: an anonymous volume, so that a read-only root does not matter and no image
#: made of the container has them.
SECRETS = "/run/secrets"
ENVIRONMENT = ".environment"
#: Reads the variables, empties their file and becomes the command.
_EXPORT = f'. {SECRETS}/{ENVIRONMENT} && : >{SECRETS}/{ENVIRONMENT} && exec "$@"'
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z")
#: The engine refuses less, "Minimum memory limit allowed is 6MB".
_MIN_MEMORY = 6 * 1024 * 1024
#: Log drivers that write files which the engine can cap.
_FILE_LOGS = ("json-file", "local")


def check(spec: Spec, config: DockerConfig) -> None:
    """Refuse what no engine could start.

    Raises:
        InvalidRequest: names the field.
    """
    if not spec.image:
        raise InvalidRequest("image: a container needs one (--image)")
    if config.require_digest and not _DIGEST.search(spec.image):
        raise InvalidRequest(f"image: {spec.image} is not pinned by digest; this target wants NAME@sha256:...")
    if spec.cwd is not None and not spec.cwd.startswith("/"):
        raise InvalidRequest(f"cwd: {spec.cwd} is not an absolute path")
    memory = spec.resources.memory
    if memory is not None and memory < _MIN_MEMORY:
        raise InvalidRequest(f"resources.memory: {memory} bytes are below the 6 MiB that Docker allows")
    if spec.secrets:
        _check_secrets(spec, DockerOptions.model_validate(spec.options))


def _check_secrets(spec: Spec, options: DockerOptions) -> None:
    for mount in options.mounts:
        # What lies there is emptied after the end.
        if PurePosixPath(os.path.normpath(mount.target)).is_relative_to(SECRETS):
            raise InvalidRequest(
                f"options.mounts: {mount.target} is where the secrets of this dispatch lie ({SECRETS})"
            )
    if options.secrets == "files":
        if odd := sorted(name for name in spec.secrets if not _FILE.fullmatch(name)):
            raise InvalidRequest(f"secrets: {odd[0]!r} is no name of a file")
        return
    if odd := sorted(name for name in (*spec.secrets, *spec.env) if not _VARIABLE.fullmatch(name)):
        raise InvalidRequest(
            f"secrets: the shell that passes them on drops the variable {odd[0]!r}; rename it, or use "
            "options.secrets = files"
        )


def container(
    id: str, installation: str, spec: Spec, config: DockerConfig, log_driver: str, image_command: Sequence[str]
) -> dict[str, Any]:
    """Return the body of a request to create the container of a dispatch.

    Parameters:
        log_driver: where the engine puts output by default.
        image_command: what the image runs, needed where secrets are passed and the spec has no command.
    """
    options = DockerOptions.model_validate(spec.options)
    entrypoint = list(spec.command) if spec.command is not None else None
    if spec.secrets and options.secrets == "environment":
        entrypoint = ["/bin/sh", "-c", _EXPORT, "sh", *(entrypoint or image_command)]
    environment = {**spec.env, "AGORA_DISPATCH_ID": id, "AGORA_DISPATCH_INSTALLATION": installation}
    body: dict[str, Any] = {
        "Image": spec.image,
        "Labels": marks.labels(id, installation, spec.digest()),
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "StopSignal": "SIGTERM",
        "StopTimeout": spec.grace,
        # A check of the image's would run programs that nobody asked for and fill the engine's list of events.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host(spec, options, config, log_driver),
    }
    if entrypoint is not None:
        body["Entrypoint"] = entrypoint
        body["Cmd"] = []
    if spec.cwd is not None:
        body["WorkingDir"] = spec.cwd
    if options.user is not None:
        body["User"] = options.user
    if spec.secrets:
        # Without a name it goes with its container, and is found by its labels where somebody removed that alone.
        labelled = {"Labels": marks.labels(id, installation, spec.digest())}
        body["HostConfig"]["Mounts"].append({"Type": "volume", "Target": SECRETS, "VolumeOptions": labelled})
    return body


def _host(spec: Spec, options: DockerOptions, config: DockerConfig, log_driver: str) -> dict[str, Any]:
    host: dict[str, Any] = {
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "ReadonlyRootfs": options.read_only,
        "Mounts": [_mount(mount) for mount in options.mounts],
        "CapAdd": list(options.cap_add),
        "CapDrop": list(options.cap_drop),
        "ExtraHosts": [f"{name}:{address}" for name, address in options.extra_hosts.items()],
    }
    if spec.resources.cpu is not None:
        host["NanoCpus"] = round(spec.resources.cpu * 1e9)
    if spec.resources.memory is not None:
        host["Memory"] = host["MemorySwap"] = spec.resources.memory
    if options.network is not None:
        host["NetworkMode"] = options.network
    if options.pids_limit is not None:
        host["PidsLimit"] = options.pids_limit
    if options.shm_size is not None:
        host["ShmSize"] = options.shm_size
    if options.gpus:
        host["DeviceRequests"] = [{"Driver": "", "Count": options.gpus, "Capabilities": [["gpu"]]}]
    if config.log_cap is not None and log_driver in _FILE_LOGS:
        files = {"max-size": str(config.log_cap // 2), "max-file": "2"}
        host["LogConfig"] = {"Type": log_driver, "Config": files}
    return host


def _mount(mount: Mount) -> dict[str, Any]:
    body: dict[str, Any] = {"Type": mount.type, "Target": mount.target, "ReadOnly": mount.read_only}
    if mount.source is not None:
        body["Source"] = mount.source
    if mount.size is not None:
        body["TmpfsOptions"] = {"SizeBytes": mount.size}
    return body


def archive(spec: Spec) -> bytes:
    """Return the archive with a spec's secrets that goes into `SECRETS` before the start."""
    secrets = {name: value.get_secret_value() for name, value in spec.secrets.items()}
    if DockerOptions.model_validate(spec.options).secrets == "files":
        files = {name: value.encode() for name, value in secrets.items()}
        mode = 0o444
    else:
        files = {ENVIRONMENT: _exports(secrets)}
        # Whoever the command runs as, it empties the file.
        mode = 0o666
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def emptied(packed: IO[bytes]) -> bytes | None:
    """Return an archive with the same files without their content, or null where none has any.

    Parameters:
        packed: the archive of a directory, as the engine gives it: its names begin with the directory's own. It is
            read piece by piece, since a workload may have written anything there.
    """
    blank = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="r|") as full, tarfile.open(fileobj=blank, mode="w") as empty:
        for entry in full:
            name = entry.name.partition("/")[2]
            if entry.isfile() and entry.size and name:
                bare = tarfile.TarInfo(name)
                bare.mode = entry.mode
                empty.addfile(bare)
        found = empty.getmembers()
    return blank.getvalue() if found else None


def _exports(secrets: Mapping[str, str]) -> bytes:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in secrets.items()).encode()
