"""The workloads of a namespace: found by their marks, read in the order in which they prove something."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agora.errors import ProviderError
from agora.model.observation import Handle, Observation, Phase

from agora_nomad import names, story
from agora_nomad.api import Api

logger = logging.getLogger(__name__)

Item = dict[str, Any]
#: Jobs that one filter names; a proxy may take URLs of 8 KiB only.
_BATCH = 40


@dataclass(frozen=True)
class Ref:
    """One workload.

    Parameters:
        id: its dispatch.
        installation: whose it is.
        created: Raft index at which its job was made; another job of that id has another.
    """

    id: str
    installation: str
    created: int

    @classmethod
    def of(cls, handle: Handle) -> Ref:
        """Read a handle."""
        return cls(handle.id, handle.data["installation"], handle.data["created"])

    @property
    def job(self) -> str:
        """Id of its job."""
        return names.job_id(self.id)

    def handle(self, backend: str, api: Api, keys: Sequence[str]) -> Handle:
        """Write a handle."""
        data = {
            "namespace": api.namespace,
            "region": api.region,
            "job": self.job,
            "created": self.created,
            "installation": self.installation,
            "keys": list(keys),
        }
        return Handle(id=self.id, backend=backend, data=data)

    def owns(self, job: Mapping[str, Any] | None) -> bool:
        """Whether a job is the one of this workload."""
        return job is not None and names.is_ours(job, self.id, self.installation) and job["CreateIndex"] == self.created

    def placed(self, allocation: Mapping[str, Any]) -> bool:
        """Whether an allocation belongs to this workload's job, and not to one of its id before."""
        return bool(allocation["JobID"] == self.job and allocation["CreateIndex"] >= self.created)


@dataclass(frozen=True)
class Seen:
    """One look at a workload.

    Parameters:
        job: its job, or what a list shows of it.
        allocations: all of them.
        observation: what they say.
    """

    job: Item | None
    allocations: list[Item]
    observation: Observation


class Cluster:
    """Reads workloads.

    Parameters:
        api: the API of the namespace.
    """

    def __init__(self, api: Api) -> None:
        self.api = api

    def look(self, ref: Ref) -> Seen:
        """Look at one workload, with its whole job."""
        job = self.api.job(ref.job)
        if job is None or not ref.owns(job):
            # Another job under this id: the allocations that it shows are none of ours.
            allocations = self._orphans(ref) if job is None else []
            return Seen(None, allocations, story.look(None, allocations))
        return self._judged(ref, job, self._allocations(ref))

    def look_at_all(self, refs: Sequence[Ref]) -> list[Seen]:
        """Look at many workloads, with two lists for each `_BATCH` of them, and two more where some have no place."""
        if len(refs) == 1:
            return [self.look(refs[0])]
        result: list[Seen] = []
        for start in range(0, len(refs), _BATCH):
            batch = refs[start : start + _BATCH]
            jobs = self.api.select("jobs", _any_of("ID", batch), meta="true")
            allocations = self._listed("allocations", batch)
            owned = {ref: next((one for one in jobs if ref.owns(one)), None) for ref in batch}
            bare = [ref for ref, job in owned.items() if job and not any(ref.placed(one) for one in allocations)]
            evaluations = self._listed("evaluations", bare)
            allocations += self._listed("allocations", bare)
            for ref, job in owned.items():
                other = job is None and any(one["ID"] == ref.job for one in jobs)
                own = [] if other else [one for one in allocations if ref.placed(one)]
                asked = [one for one in evaluations if one["JobID"] == ref.job] if ref in bare else None
                result.append(Seen(job, own, story.look(job, own, asked)))
        return result

    def _judged(self, ref: Ref, job: Item, allocations: list[Item]) -> Seen:
        if allocations:
            return Seen(job, allocations, story.look(job, allocations))
        # What can still be placed is known before one looks once more whether it was.
        evaluations = self.api.evaluations(ref.job)
        allocations = self._allocations(ref)
        return Seen(job, allocations, story.look(job, allocations, evaluations))

    def _listed(self, kind: str, refs: Sequence[Ref]) -> list[Item]:
        query = {"task_states": "true"} if kind == "allocations" else {}
        return self.api.select(kind, _any_of("JobID", refs), **query) if refs else []

    def _orphans(self, ref: Ref) -> list[Item]:
        """Return the allocations of a job that was purged: only the list of all still shows them."""
        return [one for one in self._listed("allocations", [ref]) if ref.placed(one)]

    def _allocations(self, ref: Ref) -> list[Item]:
        return [one for one in self.api.allocations(ref.job) if ref.placed(one)]


class Copies:
    """Ends what Nomad has started a second time: by signal, since an allocation stop would start yet another.

    Parameters:
        api: the API of the namespace.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def heard(self, allocations: Sequence[Item]) -> None:
        """Kill every running copy in the background; a signal that does not arrive is sent at the next look."""
        for copy in story.copies(allocations):
            if story.task(copy).get("State") != "running":
                continue  # a signal would not reach it yet
            with self._lock:
                if copy["ID"] in self._busy:
                    continue
                self._busy.add(copy["ID"])
            threading.Thread(target=self._kill, args=(copy["ID"],), name="agora-nomad-copy", daemon=True).start()

    def _kill(self, allocation: str) -> None:
        try:
            self._api.signal(allocation, names.TASK, "SIGKILL")
        except ProviderError as error:
            # Away, or over already: the next look shows which.
            logger.info("the second copy %s was not killed: %s", allocation, error)
        finally:
            with self._lock:
                self._busy.discard(allocation)


def is_over(seen: Seen) -> bool:
    """Whether every process that this workload ever had is dead."""
    over = all(story.ended(seen.job, one) is not None for one in seen.allocations)
    return over and seen.observation.phase in (Phase.ENDED, Phase.ABSENT)


def quoted(text: str) -> str:
    """Write a string for a filter expression."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _any_of(field: str, refs: Sequence[Ref]) -> str:
    return " or ".join(f"{field} == {quoted(ref.job)}" for ref in refs)
