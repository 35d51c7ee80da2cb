"""What is done behind a look: ends are written on Jobs, logs are kept, held pods are let go, starts given up."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import timedelta

from agora.errors import AgoraError
from agora.model.observation import SECOND_COPY, Observation, Phase

from agora_k8s import names, story
from agora_k8s.api import Refusal
from agora_k8s.cluster import Cluster, Item
from agora_k8s.logs import Tails
from agora_k8s.stopping import MIN_GRACE

logger = logging.getLogger(__name__)

#: A Job whose start nobody finishes is given up after this time by the server's clock.
MAKING_LIMIT = timedelta(seconds=60)
_WORKERS = 4
#: Keys of work that was done already; doing it again is harmless.
_REMEMBERED = 10_000


@dataclass
class Keeper:
    """Does slow things for what was seen, in threads of its own that never keep the process alive.

    Parameters:
        cluster: where the workloads are.
        tails: where logs are kept.
        patience: seconds for which a start may fail.
    """

    cluster: Cluster
    tails: Tails
    patience: float
    _work: queue.SimpleQueue[tuple[Hashable, Callable[[], None]]] = field(default_factory=queue.SimpleQueue)
    _known: set[Hashable] = field(default_factory=set)
    _stuck: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _idle: threading.Condition = field(default_factory=threading.Condition)
    _open: int = 0
    _threads: int = 0

    def heard(self, job: Item | None, pod: Item | None, seen: Observation) -> None:
        """Take note of what was seen of a workload; returns at once."""
        if pod is None:
            if job is not None and seen.reason == "starting" and self._too_old(job):
                why = "start_not_finished: its Secret was never made"
                self._soon(("give up", job["metadata"]["uid"]), lambda: self._abandon(job, None, why))
            return
        uid = pod["metadata"]["uid"]
        if job is not None and seen.reason == SECOND_COPY:
            self._soon(("second", uid), lambda: self._end_copy(job, pod))
        elif seen.phase is Phase.ENDED:
            self._stuck.pop(uid, None)
            going = pod["metadata"].get("deletionTimestamp") is not None
            self._soon(("end", uid, going), lambda: self._keep(job, pod, seen))
        elif seen.phase is Phase.PENDING and seen.reason in story.STUCK.values():
            first = self._stuck.setdefault(uid, time.monotonic())
            hopeless = (seen.message or "").partition(":")[0] in story.HOPELESS
            if job is not None and (hopeless or time.monotonic() - first >= self.patience):
                why = f"{seen.reason}: {seen.message}"
                self._soon(("give up", uid), lambda: self._abandon(job, pod, why))

    def close(self, seconds: float) -> None:
        """Wait for what is under way, at most `seconds`."""
        with self._idle:
            self._idle.wait_for(lambda: self._open == 0, timeout=seconds)

    def _too_old(self, job: Item) -> bool:
        made, now = story.moment(job["metadata"]["creationTimestamp"]), self.cluster.api.server_time
        return made is not None and now is not None and now - made > MAKING_LIMIT

    # -- the work ----------------------------------------------------------------------------------------------

    def _keep(self, job: Item | None, pod: Item, seen: Observation) -> None:
        id = names.label(pod, names.DISPATCH)
        if id is None:
            return
        if not seen.never_started:
            self.tails.keep(self.cluster.api, id, pod)
        if pod["metadata"].get("deletionTimestamp") is None:
            return
        if job is None:
            job = self.cluster.api.get("jobs", names.object_name(id))
        owner = names.label(pod, "batch.kubernetes.io/controller-uid")
        # Without its Job the held pod is the only record, and stays until it is released.
        if job is not None and job["metadata"]["uid"] == owner and self.cluster.record(job, seen):
            self.cluster.let_go(pod)

    def _abandon(self, job: Item, pod: Item | None, why: str) -> None:
        """Make sure that a start which fails never succeeds, and write down why."""
        self.cluster.suspend(job, {names.GIVEN_UP: why})
        if pod is None:
            return
        note = story.stop_note(f"agora via policy: {why.partition(':')[0]}", MIN_GRACE, self.cluster.api.server_time)
        marked = self.cluster.mark_pod(pod, note, hold=True)
        if marked is not None:
            self.cluster.api.delete("pods", marked, gracePeriodSeconds=MIN_GRACE)

    def _end_copy(self, job: Item, copy: Item) -> None:
        """Delete the pod of a second copy, and see to it that its Job makes no third one."""
        id, installation = names.label(copy, names.DISPATCH), names.label(copy, names.INSTALLATION)
        if id is None or installation is None:
            return
        others = [
            pod for pod in self.cluster.pods(installation, [id]) if pod["metadata"]["uid"] != copy["metadata"]["uid"]
        ]
        if all(story.ended(job, pod) is not None for pod in others):
            self.cluster.suspend(job, {})  # which would end the first one too
        note = story.stop_note(f"agora via policy: {SECOND_COPY}", MIN_GRACE, self.cluster.api.server_time)
        marked = self.cluster.mark_pod(copy, note, hold=False)
        if marked is not None:
            self.cluster.api.delete("pods", marked, gracePeriodSeconds=MIN_GRACE)

    # -- the threads -------------------------------------------------------------------------------------------

    def _soon(self, key: Hashable, work: Callable[[], None]) -> None:
        with self._lock:
            if key in self._known:
                return
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known.add(key)
            start = self._threads < _WORKERS and self._open >= self._threads
            self._threads += start
        with self._idle:
            self._open += 1
        self._work.put((key, work))
        if start:
            threading.Thread(target=self._run, name="agora-k8s-keeper", daemon=True).start()

    def _run(self) -> None:
        while True:
            key, work = self._work.get()
            try:
                work()
            except (AgoraError, Refusal, OSError) as error:
                logger.info("%s is left for the next look: %s", key, error)
                with self._lock:
                    self._known.discard(key)
            except Exception:
                logger.exception("%s failed", key)
            finally:
                with self._idle:
                    self._open -= 1
                    self._idle.notify_all()
