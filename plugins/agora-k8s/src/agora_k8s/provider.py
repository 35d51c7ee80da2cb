"""The hooks of the Kubernetes provider."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from agora.errors import ProviderError, Unreachable
from agora.hookspecs import Check, WatchSink, hookimpl
from agora.model.cause import Cause
from agora.model.ids import check_dispatch_id
from agora.model.observation import Handle, LogChunk, Observation, Owned, Phase, ReceiptKind, StopReceipt
from agora.model.spec import Spec
from agora.provider import Installation

from agora_k8s import logs, manifest, names, stopping, story
from agora_k8s.api import Api, Refusal
from agora_k8s.cluster import Cluster, Item, Ref, installation_selector
from agora_k8s.config import K8sConfig
from agora_k8s.connect import connect, settled
from agora_k8s.keeper import Keeper
from agora_k8s.starting import Starter
from agora_k8s.watch import Watch

#: The namespace's uid is asked for again after this time, and before anything is called absent; seconds.
_IDENTITY_SECONDS = 60.0
#: A new object may be missing from an answer for so long; counted from its creation, which may come late.
_SETTLE_SECONDS = 5.0
#: Characters of a cause on the cluster; all annotations of an object share 256 KiB.
_CAUSE_CHARACTERS = 1024
#: `close` may take two seconds.
_CLOSE_SECONDS = 1.5


@dataclass(frozen=True)
class _Parts:
    cluster: Cluster
    keeper: Keeper
    starter: Starter


class K8sProvider:
    """Jobs in one namespace; nothing is sent, and no client imported, before a hook needs it.

    Parameters:
        target_name: the target's name.
        config: the target's configuration.
        installation: the store that it works for.
    """

    def __init__(self, target_name: str, config: K8sConfig, installation: Installation) -> None:
        self._target = target_name
        self._config = config
        self._installation = installation.id
        self._tails = logs.Tails(installation.directory / "k8s" / target_name / "logs", config.log_tail)
        self._parts: _Parts | None = None
        self._making = threading.Lock()
        self._proof: tuple[str, float] | None = None
        self._new: dict[str, float] = {}
        self._closed = threading.Event()

    @property
    def _made(self) -> _Parts:
        """The parts that need the cluster, made when one is first used: the client's import takes a while."""
        with self._making:
            if self._parts is None:
                # Where a first attempt was led, and what was dispatched then remembers, every later one goes.
                self._config = settled(self._target, self._config)
                cluster = Cluster(Api(connect(self._target, self._config)))
                keeper = Keeper(cluster, self._tails, self._config.start_patience)
                self._parts = _Parts(cluster, keeper, Starter(cluster, self._config, self._installation))
            return self._parts

    @property
    def _cluster(self) -> Cluster:
        return self._made.cluster

    @property
    def _api(self) -> Api:
        return self._made.cluster.api

    @hookimpl
    def check(self, spec: Spec) -> None:
        """Refuse what no Job of this target could honour, and a target without a way to its cluster."""
        manifest.check(spec, self._config)
        _ = self._made

    @hookimpl
    def identity(self) -> str:
        """Return the uid of the namespace."""
        return self._identity(fresh=True)

    @hookimpl
    def dispatch(self, id: str, spec: Spec, check: Check) -> Handle:
        """Make the Job, or return the one that was made under this id."""
        manifest.check(spec, self._config)
        check()
        try:
            backend = self._identity()
        except Unreachable as error:
            raise Unreachable(str(error), sent=False) from error
        job = self._made.starter.start(check_dispatch_id(id), spec, check)
        now = time.monotonic()
        self._new = {uid: at for uid, at in self._new.items() if now - at < _SETTLE_SECONDS}
        self._new[job["metadata"]["uid"]] = now
        return self._ref(id, job).handle(backend, self._api.namespace)

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        """Delete the pods with the grace, or keep the Job from making one."""
        ref = self._mine(handle)
        receipt = stopping.stop(
            self._cluster, ref, grace, cause.summary(_CAUSE_CHARACTERS), hold=self._config.finalizer
        )
        if receipt.kind is ReceiptKind.NOT_FOUND:
            self._prove(handle)
            if self._is_new(ref):
                raise Unreachable(f"the cluster does not show {handle.id} yet")
        else:
            self._new.pop(ref.uid, None)
        return receipt

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Look at the Jobs and their pods, with two lists for all."""
        if not handles:
            return []
        backend = self._identity()
        mine = [handle for handle in handles if handle.backend == backend]
        if not mine:
            raise self._elsewhere(handles[0])
        refs = [Ref.of(handle) for handle in mine]
        seen: dict[str, Observation] = {}
        for ref, (job, pods) in zip(refs, self._cluster.fetch_many(refs), strict=True):
            looked = story.look(job, pods)
            if looked.phase is Phase.ABSENT and self._is_new(ref):
                looked = Observation(phase=Phase.PENDING)
            if job is not None or pods:
                self._new.pop(ref.uid, None)
            if looked.phase is not Phase.ABSENT:
                self._made.keeper.heard(job, story.current(pods), looked)
            seen[ref.id] = looked
        if any(one.phase is Phase.ABSENT for one in seen.values()):
            self._prove(mine[0])
        elsewhere = Observation(phase=Phase.RUNNING, reachable=False, reason="another_backend")
        return [seen[handle.id] if handle.backend == backend else elsewhere for handle in handles]

    @hookimpl
    def find(self, id: str) -> Handle | None:
        """Look for a Job, or a pod without its Job, with the marks of this dispatch."""
        name = names.object_name(check_dispatch_id(id))
        backend = self._identity()
        job = self._api.get("jobs", name)
        if job is not None and names.is_ours(job, id, self._installation):
            if self._made.starter.is_making(id, job):
                return None  # this process goes on with it
            return self._ref(id, job).handle(backend, self._api.namespace)
        for pod in self._cluster.pods(self._installation, [id]):
            owner = names.label(pod, "batch.kubernetes.io/controller-uid")
            if owner is not None and _matters(pod):
                return Ref(id, self._installation, owner).handle(backend, self._api.namespace)
        self._identity(fresh=True)
        return None

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        """List the Jobs of an installation, and pods that outlived theirs."""
        backend = self._identity(fresh=True)
        selector = installation_selector(installation)
        pods: dict[str, list[Item]] = {}
        for pod in self._api.list("pods", selector)[0]:
            pods.setdefault(names.label(pod, names.DISPATCH) or "", []).append(pod)
        owned = []
        for job in self._api.list("jobs", selector)[0]:
            id = names.label(job, names.DISPATCH) or ""
            ref = Ref(id, installation, job["metadata"]["uid"])
            own = [pod for pod in pods.pop(id, []) if ref.owns(pod)]
            if job["metadata"].get("deletionTimestamp") is None or any(_matters(pod) for pod in own):
                owned.append(self._owned(ref, backend, job, job, own))
        for id, left in pods.items():
            last = story.current([one for one in left if _matters(one)])
            owner = None if last is None else names.label(last, "batch.kubernetes.io/controller-uid")
            if last is not None and owner is not None:
                owned.append(self._owned(Ref(id, installation, owner), backend, None, last, left))
        return owned

    @hookimpl
    def watch(self, sink: WatchSink) -> None:
        """Push what the streams of pods and Jobs say."""
        backend = self._identity()
        Watch(self._api, self._installation, sink, self._made.keeper.heard, backend).run(self._closed.is_set)

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        """Read the log of the pod, and what was kept of it."""
        ref = self._mine(handle)
        after = logs.nanoseconds(since)
        if not follow:
            pods = [pod for pod in self._cluster.pods(ref.installation, [ref.id]) if ref.owns(pod)]
            return logs.read(self._api, self._tails, ref.id, pods, since=after, tail=tail)

        def look() -> tuple[bool, list[Item]]:
            job, own = self._cluster.fetch(ref)
            return story.look(job, own).phase in (Phase.ENDED, Phase.ABSENT), own

        return logs.follow(self._api, self._tails, ref.id, look, since=after, tail=tail)

    @hookimpl
    def release(self, handle: Handle) -> None:
        """Remove the Job, its pods, its Secret and the kept log of a dispatch that has ended."""
        ref = self._mine(handle)
        job, pods = self._cluster.fetch(ref)
        if story.look(job, pods).phase not in (Phase.ENDED, Phase.ABSENT) or _alive(job, pods):
            raise ProviderError(f"{handle.id} has not ended", sent=False, retryable=True)
        if job is not None:
            self._api.delete("jobs", job, propagationPolicy="Background")
        for pod in pods:
            self._cluster.let_go(pod)
            self._api.delete("pods", pod)
        self._tails.remove(handle.id)

    @hookimpl
    def remove_secrets(self, id: str) -> None:
        """Remove the Secret of a dispatch that has ended; without its Job the cluster removes it by itself."""
        name = names.object_name(check_dispatch_id(id))
        job = self._api.get("jobs", name)
        if job is not None and names.is_ours(job, id, self._installation):
            self._api.remove("secrets", name)

    @hookimpl
    def close(self) -> None:
        """End the watch, and give what is being written down a moment."""
        self._closed.set()
        if self._parts is not None:
            self._parts.keeper.close(_CLOSE_SECONDS)
            self._parts.cluster.api.close()

    def _is_new(self, ref: Ref) -> bool:
        """Whether this process made a workload a moment ago, so that a server may not show it yet."""
        made = self._new.get(ref.uid)
        return made is not None and time.monotonic() - made < _SETTLE_SECONDS

    # -- identity ----------------------------------------------------------------------------------------------

    def _identity(self, *, fresh: bool = False) -> str:
        known = self._proof
        if known is not None and not fresh and time.monotonic() - known[1] < _IDENTITY_SECONDS:
            return known[0]
        namespace = self._api.namespace
        try:
            found = self._api.call("GET", f"/api/v1/namespaces/{namespace}")
        except Refusal as error:
            raise Unreachable(f"namespace {namespace!r} of {self._api.source}: {error}", sent=False) from error
        uid: str = found["metadata"]["uid"]
        self._proof = (uid, time.monotonic())
        return uid

    def _elsewhere(self, handle: Handle) -> Unreachable:
        return Unreachable(
            f"{handle.id} is in the namespace with uid {handle.backend}, which is not the one of {self._api.source}",
            sent=False,
        )

    def _prove(self, handle: Handle) -> None:
        """Make sure that this is the backend of a handle, now."""
        if self._identity(fresh=True) != handle.backend:
            raise self._elsewhere(handle)

    def _mine(self, handle: Handle) -> Ref:
        if self._identity() != handle.backend:
            raise self._elsewhere(handle)
        return Ref.of(handle)

    def _ref(self, id: str, job: Item) -> Ref:
        return Ref(id, self._installation, job["metadata"]["uid"])

    def _owned(self, ref: Ref, backend: str, job: Item | None, item: Item, pods: list[Item]) -> Owned:
        made = story.moment(item["metadata"]["creationTimestamp"])
        if made is None:
            raise ProviderError(f"{item['metadata']['name']} has no time of creation")
        return Owned(
            handle=ref.handle(backend, self._api.namespace),
            installation=ref.installation,
            created_at=made,
            spec_digest=names.label(item, names.DIGEST),
            ended=story.look(job, pods).phase is Phase.ENDED and not _alive(job, pods),
        )


def _alive(job: Item | None, pods: Sequence[Item]) -> bool:
    return any(story.ended(job, pod) is None for pod in pods)


def _matters(pod: Item) -> bool:
    """Whether a pod without its Job is more than something that the cluster is just removing."""
    return story.ended(None, pod) is None or names.FINALIZER in (pod["metadata"].get("finalizers") or ())
