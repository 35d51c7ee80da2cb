"""Mutants that start wrongly, or find what they should not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from agora.errors import DispatchConflict, ProviderError, SubmitRefused
from agora.hookspecs import Check, hookimpl
from agora.model.capabilities import FULL
from agora.model.cause import Cause
from agora.model.observation import Handle, Observation, Owned, Phase, ReceiptKind, StopReceipt
from agora.model.spec import MAX_TIMEOUT, Spec
from agora.provider import Installation

from agora_conformance.hooks import nothing_requested
from agora_conformance.mutants.base import Mutant


def _copy(dispatch_id: str) -> str:
    return f"{dispatch_id[:26]}-copy"


class _Rewriting(Mutant):
    def rewrite(self, spec: Spec) -> dict[str, Any]:
        """Return the fields that change."""
        return {}

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        return super()._start(id, spec.model_copy(update=self.rewrite(spec)), check)


class StartsTwice(Mutant):
    """Every dispatch starts two workloads."""

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        handle = super()._start(id, spec, check)
        super()._start(_copy(id), spec, check)
        return handle


class LosesArguments(_Rewriting):
    """Empty arguments get lost."""

    def rewrite(self, spec: Spec) -> dict[str, Any]:
        """Drop them."""
        return {"command": tuple(argument for argument in spec.command or () if argument)}


class RewritesDollars(_Rewriting):
    """Two dollar signs become one, as Kubernetes does it to arguments and variables."""

    def rewrite(self, spec: Spec) -> dict[str, Any]:
        """Replace them."""
        return {
            "command": tuple(argument.replace("$$", "$") for argument in spec.command or ()),
            "env": {name: value.replace("$$", "$") for name, value in spec.env.items()},
        }


class StartsCarelessly(Mutant):
    """Variables are cut at 64 kB, the directory is not used, nobody looks for a stop, and a refused start succeeds."""

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        env = {name: value[:65_536] for name, value in spec.env.items()}
        spec = spec.model_copy(update={"env": env, "cwd": None})
        try:
            return super()._start(id, spec, nothing_requested)
        except SubmitRefused:
            return super()._start(id, spec.model_copy(update={"command": ("true",)}), check)

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Call the failed start a success."""
        if seen.phase is Phase.ENDED and seen.never_started:
            return Observation(phase=Phase.ENDED, exit_code=0, started_at=seen.ended_at, ended_at=seen.ended_at)
        return seen


class LeaksAChild(Mutant):
    """Something that left the session of a tree is not seen, and outlives it."""

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        handle = super()._start(id, spec, check)
        if "tree" in (spec.command or ()):
            marks = {"AGORA_DISPATCH_ID": id, "AGORA_DISPATCH_INSTALLATION": self.installation.id}
            subprocess.Popen(["sleep", "120"], env={**os.environ, **marks}, start_new_session=True)
        return handle


class LeaksAResource(Mutant):
    """Nothing is ever released."""

    @hookimpl
    def release(self, handle: Handle) -> object:
        """Keep it."""
        return None


class NoNativeDeadline(_Rewriting):
    """Claims a deadline on the backend, and sets none."""

    CLAIMS: ClassVar[dict[str, Any]] = {"native_deadline": FULL}

    def rewrite(self, spec: Spec) -> dict[str, Any]:
        """Set it to a day."""
        return {"timeout": MAX_TIMEOUT}


class ReleasesTheLiving(Mutant):
    """A release of what lives is not refused."""

    @hookimpl
    def release(self, handle: Handle) -> object:
        """Say that it is done."""
        with suppress(ProviderError):
            self.inner.call("release", handle=handle)
        return None


class ListsTheUnstoppable(Mutant):
    """A workload that was found in the list cannot be stopped: its handle there is not the one of its start."""

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List them with other handles."""
        owned: Sequence[Owned] = self.inner.call("list_owned", installation=installation)
        return [
            item.model_copy(
                update={"handle": item.handle.model_copy(update={"data": {**item.handle.data, "listed": 1}})}
            )
            for item in owned
        ]

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        if "listed" in handle.data:
            return StopReceipt(kind=ReceiptKind.NOT_FOUND)
        return super()._stop(handle, grace, cause)


class LeaksASecret(Mutant):
    """Secrets stand in the handle."""

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        handle = super()._start(id, spec, check)
        values = {name: value.get_secret_value() for name, value in spec.secrets.items()}
        return handle.model_copy(update={"data": {**handle.data, "secrets": values}})


class InventsAnEnd(Mutant):
    """What was never started is found, and has succeeded."""

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Find anything."""
        found: Handle | None = self.inner.call("find", id=id)
        return found or Handle(id=id, backend=self.inner.call("identity"))

    def _look(self, handle: Handle) -> Observation:
        if handle.data:
            return super()._look(handle)
        return Observation(phase=Phase.ENDED, exit_code=0, stop_reached=False)


class TakesForeign(Mutant):
    """The mark of the installation is not looked at: what any instance of this process started is everybody's."""

    _everybody: ClassVar[list[TakesForeign]] = []

    def __init__(self, inner: object, installation: Installation) -> None:
        super().__init__(inner, installation)
        self._everybody.append(self)

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        try:
            return super()._start(id, spec, check)
        except DispatchConflict:
            found = self._anybody(id)
            if found is None:
                raise
            return found

    def _stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        for other in self._everybody:
            if other.inner.call("find", id=handle.id):
                return Mutant._stop(other, handle, grace, cause)
        return super()._stop(handle, grace, cause)

    def _anybody(self, id: str) -> Handle | None:
        found = (other.inner.call("find", id=id) for other in self._everybody)
        return next((handle for handle in found if handle), None)

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Find anybody's."""
        return self._anybody(id)

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List everybody's of the same place."""
        owned: dict[str, Owned] = {}
        for other in self._everybody:
            if other.installation.directory == self.installation.directory:
                for item in other.inner.call("list_owned", installation=other.installation.id):
                    owned[item.handle.id] = item
        return list(owned.values())


class ForgetsOnRestart(Mutant):
    """A workload is known to the instance that started it alone."""

    def __init__(self, inner: object, installation: Installation) -> None:
        super().__init__(inner, installation)
        self._own: set[str] = set()

    def _start(self, id: str, spec: Spec, check: Check) -> Handle:
        self._own.add(id)
        return super()._start(id, spec, check)

    def told(self, dispatch_id: str, seen: Observation) -> Observation:
        """Know nothing of the others."""
        return seen if dispatch_id in self._own else Observation(phase=Phase.ABSENT)
