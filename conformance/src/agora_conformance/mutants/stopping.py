"""Mutants that stop wrongly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agora.errors import AgoraError, ProviderError, Unreachable
from agora.hookspecs import Check
from agora.model.cause import Cause
from agora.model.observation import Handle, Observation, Phase, ReceiptKind, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation

from agora_conformance.hooks import STOP_LIMIT
from agora_conformance.mutants.base import Mutant

FOREVER = 3_600


def _later(seconds: float, act: Callable[[], object]) -> threading.Timer:
    """Act in this process, later; a provider that leaves the escalation to its own process is a fault too."""

    def quietly() -> None:
        with suppress(AgoraError):
            act()

    timer = threading.Timer(seconds, quietly)
    timer.daemon = True
    timer.start()
    return timer


class KillsAtOnce(Mutant):
    """SIGTERM, and SIGKILL without any grace."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt = super()._stop(handle, grace, cause)
        time.sleep(1.2)  # every run sees SIGTERM, and what cleans up for 0.3 s is done before, on a busy machine too
        self._kill(handle)
        return receipt


class NeverKills(Mutant):
    """SIGTERM, and then nothing."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt = super()._stop(handle, FOREVER, cause)
        return receipt.model_copy(update={"effective_grace": grace})


class KillsEarly(Mutant):
    """SIGKILL two seconds before the grace is over."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt = super()._stop(handle, max(1, grace - 2), cause)
        return receipt.model_copy(update={"effective_grace": grace})


class NeverForces(Mutant):
    """The early kill is accepted and not carried out."""

    def _kill(self, handle: Handle) -> StopReceipt:
        return StopReceipt(kind=ReceiptKind.ALREADY_STOPPING)


class _Remembering(Mutant):
    """Knows which workloads were stopped, and with which grace they were dispatched."""

    def __init__(self, inner: object, installation: Installation) -> None:
        super().__init__(inner, installation)
        self.stops: Counter[str] = Counter()
        self.graces: dict[str, int] = {}
        self.lock = threading.Lock()

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        self.graces[id] = spec.grace
        return super()._start(id, spec, check)

    def count(self, handle: Handle) -> int:
        """Return how many stops this is."""
        with self.lock:
            self.stops[handle.id] += 1
            return self.stops[handle.id]


class ErrsOnSecondStop(_Remembering):
    """The second stop of a workload is an error."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        if self.count(handle) > 1:
            raise ProviderError("it is already stopping")
        return super()._stop(handle, grace, cause)


class RestartsTheGrace(_Remembering):
    """Every stop arms the kill anew, with its own grace."""

    def __init__(self, inner: object, installation: Installation) -> None:
        super().__init__(inner, installation)
        self._timers: dict[str, threading.Timer] = {}

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt = super()._stop(handle, FOREVER, cause)
        if receipt.kind not in (ReceiptKind.SIGNALLED, ReceiptKind.ALREADY_STOPPING):
            return receipt
        with self.lock:
            if earlier := self._timers.get(handle.id):
                earlier.cancel()
            self._timers[handle.id] = _later(grace, lambda: self._kill(handle))
        return receipt.model_copy(update={"effective_grace": grace})


class SaysDeadWithoutKilling(Mutant):
    """A stopped workload is called dead at once; nothing was sent to it."""

    def __init__(self, inner: object, installation: Installation) -> None:
        super().__init__(inner, installation)
        self._said: set[str] = set()

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        if self._look(handle).phase is Phase.ENDED:
            return super()._stop(handle, grace, cause)
        self._said.add(handle.id)
        return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace)

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Call it dead."""
        if dispatch_id not in self._said:
            return seen
        return Observation(phase=Phase.ENDED, exit_code=143, signal=15, started_at=seen.started_at, stop_reached=True)


class SendsNoSigterm(Mutant):
    """Nothing is sent until the grace is over, and then SIGKILL."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        if self._look(handle).phase is Phase.ENDED:
            return super()._stop(handle, grace, cause)
        _later(grace, lambda: self._kill(handle))
        return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace)


class SendsTwoSigterms(Mutant):
    """SIGTERM, and once more a little later."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt = super()._stop(handle, grace, cause)
        pid = self._look(handle).native.get("pid")
        if receipt.kind is ReceiptKind.SIGNALLED and isinstance(pid, int):
            time.sleep(0.5)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return receipt


class HangsOnStop(Mutant):
    """A stop is not sent, and not answered for longer than anybody waits, unless the workload ends by itself."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        until = time.monotonic() + 2.5 * STOP_LIMIT
        while time.monotonic() < until and not self._ended(handle):
            time.sleep(0.3)
        raise Unreachable("nobody answered")

    def _ended(self, handle: Handle) -> bool:
        try:
            return self._look(handle).phase is Phase.ENDED
        except AgoraError:
            return False


class IgnoresTheGrace(_Remembering):
    """Claims that every stop can have its own grace, and uses the dispatch's."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt = super()._stop(handle, self.graces.get(handle.id, grace), cause)
        return receipt.model_copy(update={"effective_grace": grace})


class TouchesAStranger(Mutant):
    """A stop also kills processes without any mark: here the `sleep`s that this very process started."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                for pid in (task / "children").read_text().split():
                    if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0"):
                        os.kill(int(pid), signal.SIGKILL)
        return super()._stop(handle, grace, cause)


class RemovesTheRecord(Mutant):
    """A stop of a workload that has ended removes what the backend keeps of it."""

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        receipt = super()._stop(handle, grace, cause)
        if receipt.kind is ReceiptKind.ALREADY_EXITED:
            self.inner.call("release", handle=handle)
        return receipt
