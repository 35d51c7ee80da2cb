"""A start that the engine or its containerd did not live to see through.

Such a container says `created` for ever, and its process may run all the same (measured on 20.10: dockerd ended by
SIGKILL or SIGTERM, containerd restarted). The engine cannot signal it, and removes it without a word while it lives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agora.model.observation import Observation, Phase

from agora_docker.engine import Engine

#: The reason of an observation.
REASON = "start_interrupted"
#: The mount point that the runtime makes in the container's own layer before it starts the process: in /sbin, or in
#: /usr/sbin where the image has the one for the other.
_INIT = "/sbin/docker-init"
#: What an engine says that lost its containerd on the way, or that finds the process there already (gRPC's codes).
_UNDECIDED = re.compile(
    r"transport is closing|error reading from server|connection error|ttrpc: closed|id already in use"
    r"|: (unavailable|canceled|deadline exceeded)\b"
)


def is_interrupted(engine: Engine, inspected: Mapping[str, Any]) -> bool:
    """Whether a container that the engine calls `created` may have run, or runs.

    Most such starts have not come to the process yet. Nothing that the engine says tells them apart: a log, which it
    gives to what its containerd still knows, is missing where that could not ask the runtime.

    Parameters:
        engine: the engine.
        inspected: what it says of the container.
    """
    state = inspected["State"]
    if state["Status"] != "created" or (state["Error"] and not _UNDECIDED.search(state["Error"])):
        return False
    if inspected["LogPath"]:
        return True
    changes = engine.request("GET", f"/containers/{inspected['Id']}/changes", accept=(404,))
    return changes.status_code == 200 and any(change["Path"].endswith(_INIT) for change in changes.json() or ())


def words(container: str) -> str:
    """Return what to say of it."""
    return (
        f"the engine did not see the start of container {container[:12]} through: it may run where the engine can"
        " neither see nor stop it"
    )


def observation(container: str) -> Observation:
    """Return what can be said of it."""
    native = {"container": container}
    return Observation(phase=Phase.PENDING, reachable=False, reason=REASON, message=words(container), native=native)
