"""How workloads end when we stop them, looked at from the host and in what ECS shows."""

from __future__ import annotations

import pytest
from agora.model.observation import ReceiptKind
from fargate_harness import Hands

pytestmark = pytest.mark.backend("fargate")


def test_a_graceful_stop_keeps_the_exit_code_and_tells_ecs_why(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    receipt = hands.stop(handle, grace=5, reason="not needed")
    assert (receipt.kind, receipt.effective_grace, receipt.degraded) == (ReceiptKind.SIGNALLED, 5, ())
    assert hands.task(handle)["stoppedReason"] == f"agora {handle.id}: tester via api: not needed"
    seen = hands.end(handle)
    assert hands.processes(handle) == []
    assert (seen.exit_code, seen.ended_by, seen.forced, seen.stop_reached) == (42, None, False, None)
    assert b"got term" in hands.output(handle)
