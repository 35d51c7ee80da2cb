"""The hooks of the Docker provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agora.errors import ProviderError, Unreachable
from agora.hookspecs import Check, WatchSink, hookimpl
from agora.model.cause import Cause
from agora.model.ids import check_dispatch_id
from agora.model.observation import Handle, LogChunk, Observation, Owned, Phase, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation

from agora_docker import body, interrupted, marks
from agora_docker.config import DockerConfig
from agora_docker.copies import Copies
from agora_docker.endpoint import resolve
from agora_docker.engine import Engine
from agora_docker.logs import LogReader
from agora_docker.looking import ENDED, Looker, handle_of, is_marked
from agora_docker.notes import Notes
from agora_docker.retention import Sweeper
from agora_docker.starting import Starter
from agora_docker.stopping import Stopper
from agora_docker.story import Stories
from agora_docker.watch import Watch


class DockerProvider:
    """Containers of one Docker Engine.

    Parameters:
        target_name: the target's name.
        config: the target's configuration.
        installation: the store that it works for.

    Raises:
        ConfigError: the configuration leads to no engine.
    """

    def __init__(self, target_name: str, config: DockerConfig, installation: Installation) -> None:
        self._config = config
        self._installation = installation.id
        agent = f"agora-docker ({installation.id})"
        self._engine = Engine(resolve(target_name, config), config.timeout, agent)
        self._notes = Notes(installation.directory / "docker" / target_name)
        self._looker = Looker(self._engine, Stories(), self._notes)
        self._starter = Starter(self._engine, self._looker, self._notes, config, installation.id)
        self._stopper = Stopper(self._engine, self._looker, self._notes, self._starter, installation.id)
        retention = None if config.retention == "never" else config.retention
        self._copies = Copies(self._looker, self._stopper, self._notes)
        self._sweeper = Sweeper(self._engine, self._looker, self._notes, installation.id, retention)
        self._closed = False
        self._watch = Watch(
            self._engine,
            self._looker,
            self._stopper,
            self._copies,
            self._sweeper,
            installation.id,
            lambda: self._closed,
        )

    @hookimpl
    def check(self, spec: Spec) -> None:
        """Refuse a spec that no container can honour."""
        body.check(spec, self._config)

    @hookimpl
    def identity(self) -> str:
        """Return the engine's system id."""
        return self._engine.facts(fresh=True).id

    @hookimpl
    def dispatch(self, id: str, spec: Spec, check: Check) -> Handle:
        """Start the container, or return the one that was started under this id."""
        body.check(spec, self._config)
        return self._starter.start(check_dispatch_id(id), spec, check)

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        """Have the engine send SIGTERM now and SIGKILL after the grace."""
        self._require_ours([handle])
        return self._stopper.stop(handle, grace)

    @hookimpl
    def kill(self, handle: Handle) -> StopReceipt:
        """Have the engine kill everything in the container now."""
        self._require_ours([handle])
        return self._stopper.kill(handle)

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Look at the containers: one list, and a question for each that has ended."""
        if not handles:
            return []
        backend = self._engine.facts().id
        here = [handle for handle in handles if handle.backend == backend]
        if not here:
            self._require_ours(handles)
        seen = dict(zip((handle.id for handle in here), self._copies.observe(here), strict=True))
        if any(one.phase is Phase.ABSENT for one in seen.values()):
            # Nothing is said to be absent before the engine has proven again which one it is.
            self._require_ours(here, fresh=True)
        away = Observation(phase=Phase.RUNNING, reachable=False, reason="another_engine")
        return [seen.get(handle.id, away) for handle in handles]

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Look for the container of a dispatch by its marks; one that nobody started is removed."""
        backend = self._engine.facts(fresh=True).id
        sent_to = self._notes.sent_to(id)
        if sent_to not in (None, backend):
            raise Unreachable(f"{id} was sent to the engine {sent_to}, and {backend} answers", sent=False)
        for found in self._looker.owned(self._installation, id):
            if found["State"] == "created" and self._starter.remove_unstarted(found["Id"]):
                continue
            return handle_of(id, backend, found["Id"])
        kept = self._notes.kept_end(id)
        return None if kept is None else handle_of(id, backend, kept.container)

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List the containers that carry the marks of an installation."""
        return [self._owned(one, installation) for one in self._looker.owned(installation)]

    @hookimpl
    def watch(self, sink: WatchSink) -> None:
        """Tell of ends as they happen; remove meanwhile what ended long ago."""
        self._watch.run(sink)

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Read the engine's log of the container."""
        self._require_ours([handle])
        container = str(handle.data["container"])
        if self._notes.kept_end(handle.id) is not None and self._looker.inspect(container) is None:
            raise ProviderError(f"the output of {handle.id} was removed with its container", retryable=False)

        def ended() -> bool:
            found = self._looker.inspect(container)
            return found is None or not found["State"]["Running"]

        return LogReader(self._engine, container, ended).read(follow, since, tail)

    @hookimpl
    def release(self, handle: Handle) -> None:
        """Remove the container of a dispatch that has ended, with its log."""
        self._require_ours([handle])
        container = str(handle.data["container"])
        found = self._looker.inspect(container)
        if found is not None:
            if not is_marked(found, handle.id, str(handle.data.get("installation", self._installation))):
                raise ProviderError(f"{handle.id}: container {container[:12]} is not ours", retryable=False)
            if interrupted.is_interrupted(self._engine, found):
                raise ProviderError(f"{handle.id}: {interrupted.words(container)}", sent=False, retryable=False)
            if found["State"]["Running"]:
                self._copies.observe([handle])
            # Without force the engine refuses to remove one that runs.
            response = self._engine.request("DELETE", f"/containers/{container}", params={"v": "1"}, accept=(404, 409))
            if response.status_code == 409 and self._looker.inspect(container) is not None:
                raise ProviderError(f"{handle.id} has not ended", sent=False)
        self._notes.forget(handle.id)
        self._looker.stories.forget(container)

    @hookimpl
    def remove_secrets(self, id: str) -> None:
        """Empty the files of secrets in the container of a dispatch, which stays after its end."""
        for found in self._looker.owned(self._installation, id):
            self._starter.empty_secrets(found["Id"])
        self._starter.remove_left_secrets(id)

    @hookimpl
    def close(self) -> None:
        """End the watch and close the connections; containers stay."""
        self._closed = True
        self._engine.close()

    def _require_ours(self, handles: Sequence[Handle], *, fresh: bool = False) -> None:
        """Let only handles of the engine pass that answers now.

        Raises:
            Unreachable: another engine answers.
        """
        backend = self._engine.facts(fresh=fresh).id
        for handle in handles:
            if handle.backend != backend:
                raise Unreachable(
                    f"{handle.id} is on the Docker Engine {handle.backend}, and {backend} answers", sent=False
                )
            if not isinstance(handle.data.get("container"), str):
                raise ProviderError(f"the handle of {handle.id} names no container", sent=False, retryable=False)

    def _owned(self, found: Mapping[str, Any], installation: str) -> Owned:
        facts = self._engine.facts()
        foreign = None if installation == self._installation else installation
        return Owned(
            handle=handle_of(found["Labels"][marks.DISPATCH], facts.id, found["Id"], foreign),
            installation=installation,
            # By our clock: its age is the difference to that.
            created_at=datetime.fromtimestamp(found["Created"] - facts.least, UTC),
            spec_digest=found["Labels"].get(marks.SPEC),
            ended=found["State"] in ENDED,
        )
