"""The hooks of the local provider."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from agora.errors import (
    DispatchConflict,
    InvalidRequest,
    ProviderError,
    StopRequested,
    SubmitRefused,
    Unreachable,
)
from agora.hookspecs import Check, WatchSink, hookimpl
from agora.model.cause import Cause
from agora.model.ids import check_dispatch_id
from agora.model.observation import Handle, LogChunk, Observation, Owned, Phase, ReceiptKind, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation

from agora_local import claims, control, launcher, logs, machine, processes, rescue, story, watch
from agora_local.claims import Claim
from agora_local.config import LocalConfig, LocalOptions
from agora_local.journal import CAUSE_CHARACTERS, LIVE, RESERVE
from agora_local.launcher import Launcher, Nothing, surroundings
from agora_local.request import Request
from agora_local.story import Story
from agora_local.workload import Start

#: Seconds that a dispatch waits for another one of the same id, below the 10 that a caller allows.
_WAIT_FOR_OTHER = 8.0
_PAUSE = 0.005


class LocalProvider:
    """Processes on this machine.

    Parameters:
        target_name: the target's name.
        config: the target's configuration.
        installation: the store that it works for.
    """

    def __init__(self, target_name: str, config: LocalConfig, installation: Installation) -> None:
        self._config = config
        self._installation = installation.id
        self._root = (config.state_dir or installation.directory / "local" / target_name).absolute()
        self._launcher = Launcher.borrow(self, config.cgroup)
        self._machine = machine.machine_id(self._root)
        self._closed = False

    @hookimpl
    def check(self, spec: Spec) -> None:
        """Refuse a spec without a command; the declared limits say the rest."""
        if spec.command is None:
            raise InvalidRequest("command: a local workload has no image that could bring one; name a program")

    @hookimpl
    def identity(self) -> str:
        """Return the id of this machine."""
        return self._machine

    @hookimpl
    def dispatch(self, id: str, spec: Spec, check: Check) -> Handle:
        """Start the workload, or return the one that was started under this id."""
        path = self._path(id)
        check()
        digest = spec.digest()
        give_up = time.monotonic() + _WAIT_FOR_OTHER
        while True:
            try:
                self._prepare()
                claim = claims.take(path, make=True)
            except OSError as error:
                raise self._refused(error) from error
            if claim is not None:
                with claim:
                    found = claim.story()
                    self._same(id, found, digest)
                    return story.handle(id, found) if found.start else self._start(claim, spec, digest, check)
            other = story.read(path)
            if other is not None and other.claim is not None:
                self._same(id, other, digest)
                if other.settled:
                    return story.handle(id, other)
            if time.monotonic() > give_up:
                raise Unreachable(f"another dispatch of {id} did not come to an end")
            time.sleep(_PAUSE)
            check()

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        """Have the shim send SIGTERM now and SIGKILL after the grace."""
        return self._tell(handle, b"stop %d %s" % (grace, json.dumps(cause.summary(CAUSE_CHARACTERS)).encode()))

    @hookimpl
    def kill(self, handle: Handle) -> StopReceipt:
        """Have the shim kill the whole tree now."""
        return self._tell(handle, b"kill")

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Read the journals."""
        if handles and all(handle.backend != self._machine for handle in handles):
            raise Unreachable(f"{handles[0].id} is on machine {handles[0].backend}, this is another one", sent=False)
        return [self._observe(handle) for handle in handles]

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Look for the directory of a dispatch that was started."""
        path = self._path(id)
        found = story.read(path)
        if found is None or not self._is_ours(found, self._installation):
            return None
        if found.start is not None:
            return story.handle(id, found)
        try:
            claim = claims.take(path, make=False)
        except FileNotFoundError:
            return None
        if claim is None:
            raise Unreachable(f"{id} is being started, or its start is being given up")
        with claim:
            found = claim.story()
        return story.handle(id, found) if found.start else None

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List the directories of all dispatches of an installation."""
        try:
            names = sorted(os.listdir(self._root))
        except FileNotFoundError:
            return []
        owned = []
        for name in names:
            try:
                found = None if name.startswith(".") else story.read(self._root / name)
            except story.DamagedJournal:
                continue  # whose it is cannot be told
            if found is None or found.claim is None or found.start is None:
                continue
            if self._is_ours(found, installation):
                owned.append(
                    Owned(
                        handle=story.handle(name, found),
                        installation=installation,
                        created_at=story.moment(found.claim["at"]),
                        spec_digest=found.claim["digest"],
                        ended=found.exit is not None,
                    )
                )
        return owned

    @hookimpl
    def watch(self, sink: WatchSink) -> None:
        """Tell of starts and ends as they happen."""
        self._prepare()
        watch.watch(self._root, sink, lambda: self._closed, self._heard, self._shim_lost)

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Read the log files."""
        path = self._mine(handle)

        def ended() -> bool:
            found = story.read(path)
            return found is None or found.exit is not None or self._observe(handle).phase is Phase.ENDED

        return logs.read(path, ended, follow=follow, since=since, tail=tail)

    @hookimpl
    def release(self, handle: Handle) -> None:
        """Remove the directory of a dispatch that has ended."""
        path = self._mine(handle)
        found = story.read(path)
        if found is None and self._observe_without_journal(handle).phase is not Phase.ABSENT:
            raise ProviderError(f"the journal of {handle.id} is gone and its workload is not", retryable=True)
        if found is None or not self._is_ours(found, self._installation):
            return
        if self._observe(handle).phase is not Phase.ENDED:
            raise ProviderError(f"{handle.id} has not ended", sent=False, retryable=True)
        give_up = time.monotonic() + 1
        while (claim := claims.take(path, make=False)) is None:  # the shim on its last steps
            if time.monotonic() > give_up:
                raise Unreachable(f"the journal of {handle.id} is in use")
            time.sleep(_PAUSE)
        with claim:
            claim.remove()

    @hookimpl
    def close(self) -> None:
        """End the watch, and the fork server with its last user; workloads and shims stay."""
        self._closed = True
        self._launcher.give_back(self)

    # --- dispatch --------------------------------------------------------------------------------------------

    def _start(self, claim: Claim, spec: Spec, digest: str, check: Check) -> Handle:
        marks = {rescue.DISPATCH_MARK: claim.path.name, rescue.INSTALLATION_MARK: self._installation}
        try:
            start = surroundings(spec, marks, LocalOptions.model_validate(spec.options).nice)
            try:
                self._launch(claim, spec, digest, start, check)
            except Nothing:
                # A shim that died between the start and its answer has left a journal: that is no second try.
                if claim.story().start is None:
                    self._launch(claim, spec, digest, start, check)
        except (StopRequested, SubmitRefused):
            claim.remove()
            raise
        except Nothing:
            claim.remove()
            words = f"the fork server went away twice; see {self._root / launcher.LOG}"
            raise SubmitRefused(words, reason="start_failed") from None
        except OSError as error:
            claim.remove()
            raise self._refused(error) from error
        return story.handle(claim.path.name, claim.story())

    def _launch(self, claim: Claim, spec: Spec, digest: str, start: Start, check: Check) -> None:
        id = claim.path.name
        offset = claim.begin(
            id=id,
            installation=self._installation,
            digest=digest,
            machine=self._machine,
            boot=processes.boot_id(),
        )
        reserve = str(self._root / RESERVE)
        request = Request(id, spec.grace, spec.timeout, self._config.log_cap, offset, reserve)
        with (
            claims.opened(claim.path) as directory,
            claims.opened(self._root / LIVE) as live,
            claims.opened(Path()) as home,
        ):
            check()
            self._launcher.start(request, start, [directory, claim.descriptor, live, home], self._root / launcher.LOG)

    def _refused(self, error: OSError) -> SubmitRefused:
        return SubmitRefused(f"{self._root}: {error.strerror}", reason="state_dir_refused")

    def _prepare(self) -> None:
        (self._root / LIVE).mkdir(mode=0o700, parents=True, exist_ok=True)
        machine.keep_reserve(self._root)

    def _same(self, id: str, found: Story, digest: str) -> None:
        if found.claim is None:
            return
        if not self._is_ours(found, self._installation):
            raise DispatchConflict(f"{id} belongs to installation {found.claim['installation']}")
        if found.claim["digest"] != digest:
            raise DispatchConflict(f"{id} was dispatched with another spec")

    # --- looking ---------------------------------------------------------------------------------------------

    def _observe(self, handle: Handle) -> Observation:
        path = self._path(handle.id)
        if handle.backend != self._machine:
            return Observation(phase=Phase.RUNNING, reachable=False, reason="another_machine")
        try:
            found = story.read(path)
        except story.DamagedJournal:
            return Observation(phase=Phase.RUNNING, reachable=False, reason="journal_damaged")
        if found is None or not self._is_ours(found, self._installation) or found.start is None:
            return self._observe_without_journal(handle)
        if found.exit is not None:
            return story.ended(found)
        shim = self._shim(found)
        if shim is None:
            return self._settle(path, found)
        # A stopped shim cannot say whether its workload has ended.
        return story.running(found.start, reachable=shim.state not in "Tt")

    def _shim(self, found: Story) -> processes.Stat | None:
        start, claim = found.start, found.claim
        if start is None or claim is None or claim["boot"] != processes.boot_id():
            return None
        stat = processes.stat(start["shim"])
        if stat is None or stat.start_time != start["shim_start_time"] or stat.state in "ZX":
            return None
        return stat

    def _settle(self, path: Path, found: Story) -> Observation:
        assert found.start is not None  # noqa: S101 - asked by the caller
        try:
            settled = rescue.settle(path)
        except rescue.NotProven as error:
            return story.running(found.start, reachable=False, reason=str(error))
        return story.ended(settled) if settled.exit else story.running(found.start)

    def _observe_without_journal(self, handle: Handle) -> Observation:
        # The directory is gone; that says nothing about the process.
        data = handle.data
        if data.get("boot_id") == processes.boot_id() and data.get("namespace") == processes.pid_namespace():
            for pid, start_time in (("pid", "start_time"), ("shim", "shim_start_time")):
                if processes.is_alive(data[pid], data[start_time]):
                    return Observation(phase=Phase.RUNNING, reachable=False, reason="record_missing")
        return Observation(phase=Phase.ABSENT)

    def _heard(self, id: str) -> Observation | None:
        found = story.read(self._path(id))
        if found is None or found.start is None or not found.settled:
            return None
        return story.ended(found) if found.exit else story.running(found.start)

    def _shim_lost(self, handle: Handle) -> bool:
        return not processes.is_alive(handle.data["shim"], handle.data["shim_start_time"])

    # --- stopping --------------------------------------------------------------------------------------------

    def _tell(self, handle: Handle, words: bytes) -> StopReceipt:
        path = self._mine(handle)
        found = story.read(path)
        if found is None or not self._is_ours(found, self._installation) or found.start is None:
            if self._observe_without_journal(handle).phase is Phase.ABSENT:
                return StopReceipt(kind=ReceiptKind.NOT_FOUND)
            if found is not None:
                raise Unreachable(f"{handle.id} belongs to somebody else here", sent=False)
        if found is None or found.exit is None:
            try:
                answer = control.ask(self._root, handle.id, words)
            except control.NobodyListens:
                pass  # it has ended, or its shim was killed
            else:
                return self._receipt(handle, answer)
        seen = self._observe(handle)
        if seen.phase is not Phase.ENDED:
            raise Unreachable(f"the shim of {handle.id} does not listen")
        return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)

    def _receipt(self, handle: Handle, answer: list[bytes]) -> StopReceipt:
        match answer:
            case [b"signalled", grace]:
                return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=int(grace))
            case [b"already_stopping", grace]:
                return StopReceipt(kind=ReceiptKind.ALREADY_STOPPING, effective_grace=int(grace))
            case [b"exited"]:
                return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=self._observe(handle))
            case _:
                raise ProviderError(f"the shim of {handle.id} answered {b' '.join(answer)!r}", retryable=False)

    # --- identity --------------------------------------------------------------------------------------------

    def _path(self, id: str) -> Path:
        return self._root / check_dispatch_id(id)

    def _mine(self, handle: Handle) -> Path:
        if handle.backend != self._machine:
            raise Unreachable(f"{handle.id} is on machine {handle.backend}, this is another one", sent=False)
        return self._path(handle.id)

    def _is_ours(self, found: Story, installation: str) -> bool:
        return found.claim is not None and found.claim["installation"] == installation
