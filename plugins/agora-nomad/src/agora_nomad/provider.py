"""The hooks of the Nomad provider."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from agora.errors import InvalidRequest, PermissionDenied, ProviderError, Unreachable
from agora.hookspecs import Check, WatchSink, hookimpl
from agora.model.cause import Cause
from agora.model.ids import check_dispatch_id
from agora.model.observation import Handle, LogChunk, Observation, Owned, Phase, ReceiptKind, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation

from agora_nomad import jobspec, logs, names, placing, starting, stopping, story
from agora_nomad.api import Api, Refusal
from agora_nomad.cluster import Cluster, Copies, Item, Ref, Seen, is_over, quoted
from agora_nomad.config import NomadConfig
from agora_nomad.connect import connect
from agora_nomad.grace import Cap
from agora_nomad.identity import Identity
from agora_nomad.secrets import Secrets
from agora_nomad.watch import Watch

logger = logging.getLogger(__name__)

#: The nodes are asked for again after this time, in seconds.
_NODES_SECONDS = 60.0


@dataclass(frozen=True)
class _Parts:
    api: Api
    cluster: Cluster
    copies: Copies
    cap: Cap
    identity: Identity
    secrets: Secrets


class NomadProvider:
    """Jobs in one namespace; nothing is sent, and no client imported, before a hook needs it.

    Parameters:
        target_name: the target's name.
        config: the target's configuration.
        installation: the store that it works for.
    """

    def __init__(self, target_name: str, config: NomadConfig, installation: Installation) -> None:
        self._target = target_name
        self._config = config
        self._installation = installation.id
        self._proof = installation.directory / "nomad" / target_name / "cluster.json"
        self._parts: _Parts | None = None
        self._making = threading.Lock()
        self._nodes: tuple[list[Item], float] | None = None
        self._closed = threading.Event()

    @property
    def _made(self) -> _Parts:
        """The parts that need the cluster, made when one is first used: the client's import takes a while."""
        with self._making:
            if self._parts is None:
                api = Api(connect(self._target, self._config))
                cap = Cap(api, self._config.max_grace)
                identity, secrets = Identity(api, self._proof), Secrets(api, self._installation)
                self._parts = _Parts(api, Cluster(api), Copies(api), cap, identity, secrets)
            return self._parts

    @hookimpl
    def check(self, spec: Spec) -> None:
        """Refuse what no job of this target could honour, and what its cluster would cap or leave waiting for ever."""
        jobspec.check(spec, self._config)
        nodes = self._known_nodes()
        cap, source = self._made.cap.known(ask=nodes is not None)
        if spec.grace > cap:
            raise InvalidRequest(f"grace {spec.grace} s is above the {cap:g} s that the clients allow ({source})")
        options = self._config.options(spec.options)
        driver = options.driver or self._config.driver
        placing.refuse_unknown(nodes or [], driver, options.datacenters, options.node_pool)

    @hookimpl
    def identity(self) -> str:
        """Return the name of the cluster, by the keys that it shows."""
        return self._made.identity.backend(fresh=True)

    @hookimpl
    def dispatch(self, id: str, spec: Spec, check: Check) -> Handle:
        """Register the job, or return the one that was registered under this id."""
        jobspec.check(spec, self._config)
        check()
        try:
            backend = self._made.identity.backend()
        except Unreachable as error:
            raise Unreachable(str(error), sent=False) from error
        made = self._made
        job = starting.start(made.api, self._config, self._installation, check_dispatch_id(id), spec, check)
        return self._ref(id, job).handle(backend, made.api, made.identity.keys)

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        """Deregister the job, and leave the cause beside it as a scaling event, since a stop itself has no place."""
        receipt = stopping.stop(self._made.cluster, self._made.cap, self._mine(handle), grace, cause)
        return self._proven(handle, receipt)

    @hookimpl
    def kill(self, handle: Handle) -> StopReceipt:
        """Deregister the job and kill what runs of it by a signal."""
        return self._proven(handle, stopping.kill(self._made.cluster, self._made.cap, self._mine(handle)))

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Look at the jobs and their allocations, with two lists for many."""
        if not handles:
            return []
        identity = self._made.identity
        mine = [handle for handle in handles if identity.is_here(handle)]
        if not mine:
            raise identity.elsewhere(handles[0])
        looks = self._made.cluster.look_at_all([Ref.of(handle) for handle in mine])
        seen: dict[str, Observation] = {}
        for handle, look in zip(mine, looks, strict=True):
            self._made.copies.heard(look.allocations)
            seen[handle.id] = look.observation
            if look.observation.phase is Phase.ABSENT:
                seen[handle.id] = self._absent(handle, look.observation)
        elsewhere = Observation(phase=Phase.RUNNING, reachable=False, reason="another_backend")
        return [seen.get(handle.id, elsewhere) for handle in handles]

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Look for a job with the marks of this dispatch."""
        made = self._made
        job = made.api.job(names.job_id(check_dispatch_id(id)))
        if job is None or not names.is_ours(job, id, self._installation):
            made.identity.backend(fresh=True)
            return None
        return self._ref(id, job).handle(made.identity.backend(), made.api, made.identity.keys)

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List the jobs of an installation, and the secrets that it has left without a job."""
        made = self._made
        backend = made.identity.backend(fresh=True)
        filter = f'Meta["{names.INSTALLATION}"] == {quoted(installation)}'
        jobs = made.api.select("jobs", filter, meta="true")
        refs = [Ref(names.meta(job, names.DISPATCH) or "", installation, job["CreateIndex"]) for job in jobs]
        kept = [(ref, job) for ref, job in zip(refs, jobs, strict=True) if ref.owns(job) and ref.job == job["ID"]]
        looks = made.cluster.look_at_all([ref for ref, _ in kept]) if kept else []
        owned = [
            self._owned(ref, ref.handle(backend, made.api, made.identity.keys), job, look)
            for (ref, job), look in zip(kept, looks, strict=True)
        ]
        left = made.secrets.leftovers(installation, {ref.id for ref, _ in kept})
        return [*owned, *(self._left(Ref(id, installation, 0), at, backend) for id, at in left.items())]

    @hookimpl
    def watch(self, sink: WatchSink) -> None:
        """Push what the event stream says."""
        made = self._made
        made.identity.backend()
        Watch(made.cluster, self._installation, sink, made.copies, made.identity.is_here).run(self._closed.is_set)

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Read the log from the client; Nomad keeps no times of lines, so `since` leaves nothing out."""
        ref = self._mine(handle)
        made = self._made

        def look() -> tuple[str | None, bool]:
            seen = made.cluster.look(ref)
            allocation = story.current(seen.allocations)
            return (None if allocation is None else allocation["ID"]), is_over(seen)

        return logs.follow(made.api, look, tail) if follow else logs.read(made.api, look()[0], tail)

    @hookimpl
    def release(self, handle: Handle) -> None:
        """Remove the record of a job that has ended, and with it the fence against another of its id; secrets first."""
        ref = self._mine(handle)
        seen = self._made.cluster.look(ref)
        if not is_over(seen):
            raise ProviderError(f"{handle.id} has not ended", sent=False, retryable=True)
        try:
            self._made.secrets.remove(handle.id, ref.installation)
        except PermissionDenied as error:
            # A token without the right has written none.
            logger.debug("whether %s has left secrets was not seen: %s", handle.id, error)
        if seen.job is not None:
            self._made.api.deregister(ref.job, purge=True)

    @hookimpl
    def remove_secrets(self, id: str) -> None:
        """Remove the variable of a dispatch that has ended."""
        self._made.secrets.remove(check_dispatch_id(id))

    @hookimpl
    def close(self) -> None:
        """End the watch and close connections."""
        self._closed.set()
        if self._parts is not None:
            self._parts.api.close()

    # -- the cluster -------------------------------------------------------------------------------------------

    def _known_nodes(self) -> list[Item] | None:
        """Return the nodes, empty where they may not be listed; null where nobody answers just now.

        Nothing is refused for either: a dispatch is recorded and sent once the cluster answers.
        """
        if self._nodes is None or time.monotonic() - self._nodes[1] > _NODES_SECONDS:
            try:
                found = self._made.api.nodes()
            except (PermissionDenied, Refusal):
                found = []
            except Unreachable:
                return None
            self._nodes = (found, time.monotonic())
        return self._nodes[0]

    def _mine(self, handle: Handle) -> Ref:
        try:
            here = self._made.identity.is_here(handle)
        except ProviderError as error:
            error.sent = False  # what was to be done was not
            raise
        if not here:
            raise self._made.identity.elsewhere(handle)
        return Ref.of(handle)

    def _ref(self, id: str, job: Item) -> Ref:
        return Ref(id, self._installation, job["CreateIndex"])

    def _proven(self, handle: Handle, receipt: StopReceipt) -> StopReceipt:
        if receipt.kind is ReceiptKind.NOT_FOUND:
            self._made.identity.prove(handle)
        return receipt

    def _absent(self, handle: Handle, seen: Observation) -> Observation:
        """Call a workload absent only on the cluster that is proven to be its own."""
        try:
            self._made.identity.prove(handle)
        except Unreachable as error:
            return Observation(phase=Phase.RUNNING, reachable=False, reason="another_backend", message=str(error))
        return seen

    def _left(self, ref: Ref, made_at: datetime, backend: str) -> Owned:
        """Describe secrets without a job: over, unless an allocation of a job that was purged says otherwise."""
        handle = ref.handle(backend, self._made.api, self._made.identity.keys)
        over = is_over(self._made.cluster.look(ref))
        return Owned(handle=handle, installation=ref.installation, created_at=made_at, ended=over)

    def _owned(self, ref: Ref, handle: Handle, job: Item, look: Seen) -> Owned:
        # A stop counts as a submission, so the first allocation may be older than the job's own time.
        times = [job["SubmitTime"], *(one["CreateTime"] for one in look.allocations)]
        return Owned(
            handle=handle,
            installation=ref.installation,
            created_at=story.nanoseconds(min(times)),
            spec_digest=names.meta(job, names.DIGEST),
            ended=look.observation.phase is Phase.ENDED and is_over(look),
        )
