"""A control plane in a process of its own, which may be told to die at one point: `python -m agora_conformance.child`.

It reads one JSON object from standard input and writes one to standard output, unless it is killed before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.model.spec import Spec

from agora_conformance.faults import Fault


async def act(order: dict[str, Any]) -> dict[str, Any]:
    """Dispatch or cancel as ordered.

    Parameters:
        order: `home`, `target {name, provider, config}`, `id`, `spec` for a dispatch (else it is a cancel), and
            `fault`, a point of `agora_conformance.faults`, or null.
    """
    target = order["target"]
    settings = Settings(
        default_target=target["name"],
        targets={target["name"]: TargetConfig(target["name"], target["provider"], target["config"])},
    )
    extensions = [Fault(order["fault"])] if order["fault"] else []
    async with AgoraClient(
        Path(order["home"]), settings=settings, actor="child", supervisor=False, extensions=extensions
    ) as client:
        if order.get("spec") is not None:
            handle = await client.dispatch(Spec.model_validate(order["spec"]), id=order["id"])
            return {"id": handle.id}
        return (await client.cancel(order["id"], reason="from the child")).model_dump(mode="json")


if __name__ == "__main__":
    print(json.dumps(anyio.run(act, json.load(sys.stdin))))
