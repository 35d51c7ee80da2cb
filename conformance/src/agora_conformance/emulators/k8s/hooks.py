"""Lifecycle hooks."""

from __future__ import annotations

import asyncio

from agora_conformance.emulators.k8s.clock import pause
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.runner import Container, ContainerSpec, StartFailed


async def pre_stop(cluster: Cluster, hook: Object, container: Container, limit: float) -> str:
    """Run a preStop hook for at most `limit` seconds and return what went wrong, or nothing.

    Parameters:
        cluster: whose clock and runner are used.
        hook: `sleep` or `exec` of the API.
        container: whose hook it is; the hook is over when the container is.
        limit: seconds.
    """
    work = asyncio.ensure_future(_run(cluster, hook, container))
    end = asyncio.ensure_future(container.wait())
    done, _ = await asyncio.wait([work, end], timeout=max(limit, 0), return_when=asyncio.FIRST_COMPLETED)
    end.cancel()
    if work in done:
        return work.result()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return "" if done else "PreStopHook not completed in grace period"


async def _run(cluster: Cluster, hook: Object, container: Container) -> str:
    if (sleep := hook.get("sleep")) is not None:
        await pause(sleep.get("seconds", 0) * cluster.timing.second)
        return ""
    command = (hook.get("exec") or {}).get("command") or []
    if not command:
        return "the emulator knows the hooks sleep and exec"
    spec = container.spec
    try:
        started = await cluster.runner.start(
            ContainerSpec(tuple(command), spec.env, spec.cwd, shared=True, user=spec.user)
        )
    except StartFailed as error:
        return f"PreStopHook failed: {error}"
    try:
        end = await started.wait()
    finally:
        await started.join()
        cluster.runner.forget(started)
    return f"PreStopHook failed: command {command} exited with {end.code}" if end.code else ""
