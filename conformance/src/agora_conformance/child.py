"""A control plane in a process of its own, which may be told to die at one point.

The processes are forked from a server that has everything imported, since a run needs several of them.
"""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import anyio
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.model.spec import Spec

from agora_conformance.faults import Fault

#: Seconds after which such a process is given up.
LIMIT = 60.0

#: What a client imports only when it is used: three quarters of what such a process costs.
_AT_FIRST_USE = ("agora.client.supervision", "agora.engine.engine", "anyio._backends._asyncio")

#: `start` asks after every child: of two threads that ask after one, the second is told 255.
_ASKING = threading.Lock()

Order = dict[str, Any]


def run(order: Order) -> int:
    """Carry out an order in a new process; blocking.

    Parameters:
        order: `home`, `target {name, provider, config}`, `id`, `spec` for a dispatch (else it is a cancel),
            `fault` (a point of `agora_conformance.faults`, or null), and `stderr`, a file for what goes wrong.

    Returns:
        How the process ended; negative for a signal.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_AT_FIRST_USE])
    process = context.Process(target=_main, args=[order])
    with _ASKING:
        process.start()
    ended = wait([process.sentinel], LIMIT)
    if not ended:
        process.kill()
        wait([process.sentinel], LIMIT)
    with _ASKING:
        process.join(LIMIT)
    if not ended or process.exitcode is None:
        raise TimeoutError(f"the control plane of the order {order['id']} did not end within {LIMIT:g} s")
    return process.exitcode


def _main(order: Order) -> None:
    try:
        anyio.run(_act, order)
    except Exception:
        Path(order["stderr"]).write_text(traceback.format_exc(), encoding="utf-8")
        raise


async def _act(order: Order) -> None:
    target = order["target"]
    settings = Settings(
        default_target=target["name"],
        targets={target["name"]: TargetConfig(target["name"], target["provider"], target["config"])},
    )
    async with AgoraClient(
        Path(order["home"]),
        settings=settings,
        actor="child",
        supervisor=False,
        extensions=[Fault(order["fault"])] if order["fault"] else [],
    ) as client:
        if order["spec"] is None:
            await client.cancel(order["id"], reason="from the child")
        else:
            await client.dispatch(Spec.model_validate(order["spec"]), id=order["id"])
