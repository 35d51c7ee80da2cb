"""Stopping: one SIGTERM, the escalation left to the engine, and an answer that does not wait for the end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from functools import partial

from agora.errors import ProviderError, Unreachable
from agora.model.observation import SECOND_COPY, Handle, Observation, Phase, ReceiptKind, StopReceipt

from agora_docker import interrupted, marks
from agora_docker.engine import Engine, EngineError, NoAnswer
from agora_docker.lastwords import LastWords
from agora_docker.looking import Looker
from agora_docker.notes import Notes, SentStop, StopNote
from agora_docker.starting import Starter
from agora_docker.story import KILL, TERM
from agora_docker.streams import in_background

#: Seconds that the engine gets to answer a stop, which it does at the end of the container; then the call is left.
_LEAVE = 0.25
#: The same through ssh, which on a busy machine takes longer than that to pass the call on.
_LEAVE_SSH = 1.5
#: Seconds within which the signal of a left call has to show, below the 10 that a caller allows.
_SHOW = 7.0
_PAUSE = 0.05
#: After its grace and so many seconds more, a container that still runs has lost the engine's timer.
_OVERDUE = 5.0
#: A stop that seems to be so many seconds ahead was noted before the engine's clock was set: no event proves it.
_CLOCK_SET = 2.0
#: What stands for the grace where the engine has no timer: the supervisor brings the kill forward.
NO_TIMER = 86_400.0

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def kills_when_left(version: str) -> bool:
    """Whether an engine kills a container at once when the connection of its stop is closed.

    Versions 23.0.0 to 23.0.6 and 24.0.0 to 24.0.2 do (moby issue 45731, mended by pull request 45738).
    """
    found = _VERSION.match(version)
    if found is None:
        return False
    numbers = tuple(int(part) for part in found.groups())
    return (23, 0, 0) <= numbers <= (23, 0, 6) or (24, 0, 0) <= numbers <= (24, 0, 2)


class Stopper:
    """Stops containers.

    Parameters:
        engine, looker, notes, starter: of the target.
        installation: whose containers it may touch.
    """

    def __init__(self, engine: Engine, looker: Looker, notes: Notes, starter: Starter, installation: str) -> None:
        self._engine = engine
        self._looker = looker
        self._notes = notes
        self._starter = starter
        self._installation = installation

    def stop(self, handle: Handle, grace: int) -> StopReceipt:
        """Send SIGTERM, and SIGKILL after `grace` seconds.

        Raises:
            Unreachable: no sign that it arrived.
        """
        if not self._is_there(handle):
            return self._gone(handle)
        container = str(handle.data["container"])
        with self._notes.stop(handle.id) as note:
            if (standing := self._standing(container, note)) is not None:
                return self._now(handle) or StopReceipt(
                    kind=ReceiptKind.ALREADY_STOPPING, effective_grace=standing.grace
                )
            facts = self._engine.facts()
            sent = SentStop(container=container, grace=grace, at=int(facts.earliest() * 1e9))
            note.write(sent)
            receipt = self._send(handle, container, grace, facts.version, sent.at)
            if receipt.kind is ReceiptKind.SIGNALLED and receipt.observation is None:
                note.write(sent.model_copy(update={"accepted": True}))
            return receipt

    def kill(self, handle: Handle) -> StopReceipt:
        """Send SIGKILL to everything in the container."""
        if not self._is_there(handle):
            return self._gone(handle)
        container = str(handle.data["container"])
        at = int(self._engine.facts().earliest() * 1e9)
        path = f"/containers/{container}/kill"
        try:
            response = self._engine.request("POST", path, params={"signal": "SIGKILL"}, accept=(404, 409))
        except NoAnswer:
            return self._shown(handle, container, 0, at, KILL)
        if response.status_code < 400:
            return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=0)
        return self._after(handle, response.text)

    def pending(self, handles: Iterable[Handle]) -> list[tuple[float, Handle]]:
        """Return the stops under way, each with the time by the engine's clock when its grace is surely over.

        An engine that was killed or restarted has forgotten them.
        """
        found = []
        for handle in handles:
            sent = self._notes.sent_stop(handle.id)
            if sent is not None and sent.accepted and sent.container == handle.data.get("container"):
                found.append((sent.at / 1e9 + sent.grace + _OVERDUE, handle))
        return sorted(found, key=lambda pair: pair[0])

    # --- before ------------------------------------------------------------------------------------------------

    def _is_there(self, handle: Handle) -> bool:
        """Whether there is such a container, as far as is known; what it does just now the engine's answer tells.

        Raises:
            ProviderError: it is not ours.
        """
        container = str(handle.data["container"])
        labels = self._looker.labels(container)
        if labels is None:
            return False
        if not marks.is_marked(labels, handle.id, str(handle.data.get("installation", self._installation))):
            raise ProviderError(f"{handle.id}: container {container[:12]} is not ours", sent=False, retryable=False)
        return True

    def _never(self, handle: Handle, container: str) -> StopReceipt:
        """Remove a container before its start: a stop of one that was only created is answered and forgotten."""
        if self._starter.remove_unstarted(container):
            seen = Observation(phase=Phase.ENDED, never_started=True, reason="stopped_before_start")
            return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)
        found = self._looker.inspect(container)
        if found is None:
            return self._gone(handle)
        raise Unreachable(f"{handle.id} was being started; the stop follows", sent=False)

    def _gone(self, handle: Handle) -> StopReceipt:
        if self._engine.facts(fresh=True).id != handle.backend:
            raise Unreachable(f"{handle.id} is on another engine than the one that answers", sent=False)
        seen = self._looker.gone(handle)
        if seen.phase is Phase.ABSENT:
            return StopReceipt(kind=ReceiptKind.NOT_FOUND)
        return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)

    def _standing(self, container: str, note: StopNote) -> SentStop | None:
        """Return a stop of ours that is under way: sending it again would be a second SIGTERM."""
        before = note.read()
        if before is None or before.container != container:
            return None
        age = self._engine.facts().earliest() - before.at / 1e9
        if age > before.grace + _OVERDUE:
            return None
        if before.accepted:
            return before
        if age < -_CLOCK_SET:
            return None
        story = self._looker.story(container, before.at / 1e9)
        return before if story.signals(TERM, since=before.at) else None

    # --- sending -----------------------------------------------------------------------------------------------

    def _send(self, handle: Handle, container: str, grace: int, version: str, at: int) -> StopReceipt:
        if kills_when_left(version):
            path = f"/containers/{container}/kill"
            response = self._engine.request("POST", path, params={"signal": "SIGTERM"}, accept=(404, 409))
            if response.status_code < 400:
                return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=NO_TIMER)
            return self._after(handle, response.text)
        if not self._engine.connects_at_once:
            # A new connection would be left before ssh had passed the stop on.
            self._engine.request("GET", "/_ping")
        leave = _LEAVE if self._engine.connects_at_once else _LEAVE_SSH
        path = f"/containers/{container}/stop"
        ask = partial(self._engine.request, "POST", path, params={"t": grace}, seconds=leave, accept=(304, 404))
        with self._looker.listening(container) as reader, LastWords(self._engine, container, reader) as words:
            call = in_background(ask, "agora-docker-stop")
            words.recall()
            if reader is not None:
                call.add_done_callback(lambda _: reader.wake())
                # The engine tells of the end first, and answers once it has cleaned up behind it.
                heard = self._looker.heard(container, reader, leave, call.done)
                if (seen := self._looker.told_end(container, heard, at)) is not None:
                    said = words.whole(heard.last, at)
                    return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace, observation=seen, output=said)
            try:
                response = call.result()
            except NoAnswer:
                if self._looker.heard(container, reader).signals(TERM, KILL, since=at):
                    return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace)
                return self._shown(handle, container, grace, at, TERM)
            if response.status_code in (304, 404):
                return self._after(handle, response.text)
            # A stop is answered at the end of the container.
            seen = self._looker.end(container, reader, at)
        return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace, observation=seen)

    def _shown(self, handle: Handle, container: str, grace: int, at: int, signal: int) -> StopReceipt:
        """Wait until the signal of a call that was left shows in the engine's events, or the end does."""
        give_up = time.monotonic() + _SHOW
        while True:
            # Looked at before the events are read: a signal that ended it is among them then.
            found = self._looker.inspect(container)
            if at > (latest := self._engine.facts().latest()) * 1e9:
                at = int((latest - _LEAVE_SSH) * 1e9)  # by a clock that was set since
            signalled = StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace)
            if self._looker.story(container, at / 1e9).signals(signal, KILL, since=at):
                return signalled
            if found is None or not found["State"]["Running"]:
                # The events of a busy engine are soon forgotten: only a whole story proves that it had ended before.
                seen = self._looker.gone(handle) if found is None else self._looker.seen(found)
                if seen.phase is not Phase.ENDED or seen.stop_reached is not False:
                    return signalled
                return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)
            if time.monotonic() > give_up:
                raise Unreachable(f"the engine took the stop of {handle.id} and shows no sign of it")
            time.sleep(_PAUSE)

    def _after(self, handle: Handle, words: str) -> StopReceipt:
        """Answer a refusal to signal by what the container is now."""
        if (receipt := self._now(handle)) is not None:
            return receipt
        raise EngineError(409, f"{handle.id}: {words or 'the engine did not signal it'}")

    def _now(self, handle: Handle) -> StopReceipt | None:
        """Return why a container needs no signal, None where it runs."""
        found = self._looker.inspect(str(handle.data["container"]))
        if found is None:
            return self._gone(handle)
        seen = self._looker.seen(found)
        if seen.reason == interrupted.REASON:
            raise Unreachable(f"{handle.id}: {seen.message}", sent=False)
        if seen.phase is Phase.ENDED:
            return StopReceipt(kind=ReceiptKind.ALREADY_EXITED, observation=seen)
        if seen.reason == SECOND_COPY:
            return self.kill(handle)
        return self._never(handle, str(found["Id"])) if seen.phase is Phase.PENDING else None
