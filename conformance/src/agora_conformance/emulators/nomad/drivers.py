"""Task drivers: how raw_exec, exec and docker start a task, signal it and tell its end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agora_conformance.emulators.nomad.errors import Object, listed
from agora_conformance.emulators.nomad.interpolate import Malformed
from agora_conformance.emulators.runner import (
    Container,
    ContainerSpec,
    Exit,
    Images,
    PullFailed,
    Runner,
    StartFailed,
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMON = ("command", "args")
EXECUTOR = (*COMMON, "work_dir", "cap_add", "cap_drop", "cgroup_v1_override", "cgroup_v2_override", "oom_score_adj",
            "denied_envvars")  # fmt: skip
#: What the configuration of each driver may say.
OPTIONS = {
    "raw_exec": EXECUTOR,
    "exec": (*EXECUTOR, "pid_mode", "ipc_mode"),
    "docker": (
        *COMMON, "image", "init", "entrypoint", "work_dir", "labels", "network_mode", "auth", "force_pull", "volumes",
        "mount", "mounts", "ports", "port_map", "privileged", "pid_mode", "ipc_mode", "hostname", "interactive", "tty",
        "logging", "ulimit", "cap_add", "cap_drop", "security_opt", "readonly_rootfs", "shm_size", "runtime",
        "extra_hosts", "dns_servers", "image_pull_timeout", "cpu_hard_limit", "cpuset_cpus", "memory_hard_limit",
        "pids_limit", "sysctl", "devices", "group_add", "storage_opt", "healthchecks", "load",
    ),
}  # fmt: skip
#: Signal that a driver sends where a job names none.
KILL_SIGNAL = {"raw_exec": signal.SIGINT, "exec": signal.SIGINT, "docker": signal.SIGTERM}
LOST = "executor: error waiting on process: rpc error: code = {}"
EOF, CANCELED = "Unavailable desc = error reading from server: EOF", "Canceled desc = context canceled"


class DriverFailed(Exception):
    """A task could not be started; the message is the driver's."""


@dataclass(frozen=True)
class Result:
    """How a task ended, as its driver tells it.

    Parameters:
        code: exit code; -1 where nobody knows.
        signal: the signal that it died of, as far as the driver tells.
        oom: it ran out of memory, as far as the driver tells.
        message: what else there is to say.
    """

    code: int
    signal: int = 0
    oom: bool = False
    message: str = ""


def signal_number(name: str) -> int:
    """Return a signal's number; a name that nobody knows stands for SIGINT."""
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        return signal.SIGINT


def check(driver: str, config: Mapping[str, Any]) -> None:
    """Refuse options that a driver does not know.

    Raises:
        Malformed: there is one.
    """
    for name in config:
        if name not in OPTIONS[driver]:
            text = f'Invalid label: No argument or block type is named "{name}".'
            raise Malformed(listed(["failed to parse config: ", text]))
    needed = "image" if driver == "docker" else "command"
    if not config.get(needed):
        text = f'Missing required argument: The argument "{needed}" is required, but no definition was found.'
        raise Malformed(listed(["failed to parse config: ", text]))


class Driver:
    """Starts tasks.

    Parameters:
        runner: runs containers.
        images: what image names stand for.
    """

    def __init__(self, runner: Runner, images: Images) -> None:
        self._runner, self._images = runner, images

    async def start(self, task: Object, config: Mapping[str, Any], env: Mapping[str, str], folder: Path) -> Container:
        """Start a task and wait until it runs.

        Parameters:
            task: the task.
            config: its driver's configuration, variables replaced.
            env: its environment.
            folder: its directory.

        Raises:
            DriverFailed: it cannot be started.
        """
        if task["Driver"] == "docker":
            return await self._docker(task, config, env)
        command, args = config["command"], [str(one) for one in config.get("args") or []]
        found = _look_up(command, env.get("PATH", PATH), folder)
        plain = task["Driver"] == "raw_exec" or config.get("pid_mode") == "host"
        memory = None if task["Driver"] == "raw_exec" else task["Resources"]["MemoryMB"] * 2**20
        cwd = config.get("work_dir") or (str(folder) if task["Driver"] == "raw_exec" else "/")
        spec = ContainerSpec((found, *args), dict(env), cwd, memory=memory, message=False, plain=plain)
        try:
            return await self._runner.start(spec)
        except StartFailed as error:
            text = f"failed to launch command with executor: rpc error: code = Unknown desc = {error}"
            raise DriverFailed(text) from None

    def download(self, task: Object, config: Mapping[str, Any]) -> str | None:
        """Return the image that has to be pulled first, if there is one."""
        if task["Driver"] != "docker":
            return None
        try:
            present = self._images.find(config["image"]).present
        except PullFailed:
            present = False
        return None if present else str(config["image"])

    async def pull(self, name: str) -> None:
        """Take the time that a pull takes."""
        with contextlib.suppress(PullFailed):
            await asyncio.sleep(self._images.find(name).pull)

    async def _docker(self, task: Object, config: Mapping[str, Any], env: Mapping[str, str]) -> Container:
        name = config["image"]
        try:
            image = self._images.find(name)
        except PullFailed:
            raise DriverFailed(_not_pulled(name)) from None
        command = [config["command"]] if config.get("command") else list(image.command)
        args = [str(one) for one in config.get("args") or []]
        entry = config.get("entrypoint")
        argv = [*(([entry] if isinstance(entry, str) else entry) or image.entrypoint), *command, *args]
        shown = {"PATH": PATH, "HOSTNAME": secrets.token_hex(6), "HOME": "/root", **image.env, **env}
        spec = ContainerSpec(
            tuple(argv), shown, config.get("work_dir") or image.cwd, shared=bool(config.get("init")),
            memory=task["Resources"]["MemoryMB"] * 2**20, message=False,
        )  # fmt: skip
        container = secrets.token_hex(32)
        if not argv:
            raise DriverFailed("Failed to create container: Error response from daemon: No command specified")
        if shutil.which(argv[0], path=shown["PATH"]) is None:
            why = f"stat {argv[0]}: no such file or directory" if "/" in argv[0] else (
                "executable file not found in $PATH"
            )  # fmt: skip
            raise DriverFailed(_not_started(container, argv[0], why))
        try:
            return await self._runner.start(spec)
        except StartFailed as error:
            raise DriverFailed(_not_started(container, argv[0], str(error))) from None


def _not_pulled(name: str) -> str:
    """Return what docker says of an image that nobody has; a name may begin with its registry's host."""
    host, place = name.split("/", 1)[0], name.rsplit(":", 1)[0]
    why = (
        f"pull access denied for {place}, repository does not exist or may require 'docker login': denied: requested "
        "access to the resource is denied"
    )
    if re.search(r"[.:]", host):
        why = f'Get "http://{host}/v2/": dial tcp {host}: connect: connection refused'
    return f"Failed to pull `{name}`: Error response from daemon: {why}"


def _not_started(container: str, command: str, why: str) -> str:
    return (
        f"Failed to start container {container}: Error response from daemon: failed to create shim task: OCI runtime "
        f'create failed: runc create failed: unable to start container process: exec: "{command}": {why}: unknown'
    )


def _look_up(command: str, path: str, folder: Path) -> str:
    """Return where a command is, as the executor looks for it."""
    local = folder / "local" / command
    found = str(local) if local.is_file() else shutil.which(command, path=path)
    if found is None:
        text = f'binary "{command}" could not be found'
        raise DriverFailed(f"failed to launch command with executor: rpc error: code = Unknown desc = {text}")
    return found


def result(driver: str, end: Exit) -> Result:
    """Return how a driver tells a container's end."""
    if driver == "docker":
        message = f"Docker container exited with non-zero exit code: {end.code}" if end.code else ""
        return Result(end.code, 0, end.oom, "OOM Killed" if end.oom else message)
    return Result(end.code, end.signal, end.oom)


def lost(why: str = EOF) -> Result:
    """Return what the driver raw_exec tells of a process whose executor has gone."""
    return Result(-1, message=LOST.format(why))
