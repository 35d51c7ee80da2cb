"""The workloads of a namespace: found by their marks, changed with their uid as a precondition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agora.model.observation import SECOND_COPY, Handle, Observation

from agora_k8s import names, story
from agora_k8s.api import MERGE_PATCH, STRATEGIC_PATCH, Api, Refusal

Item = dict[str, Any]
#: So often a change that meets another one is tried again.
_RETRIES = 5


@dataclass(frozen=True)
class Ref:
    """One workload.

    Parameters:
        id: its dispatch.
        installation: whose it is.
        uid: uid of its Job.
    """

    id: str
    installation: str
    uid: str

    @classmethod
    def of(cls, handle: Handle) -> Ref:
        """Read a handle."""
        return cls(handle.id, handle.data["installation"], handle.data["uid"])

    @property
    def name(self) -> str:
        """Name of its Job."""
        return names.object_name(self.id)

    def handle(self, backend: str, namespace: str) -> Handle:
        """Write a handle."""
        data = {"namespace": namespace, "job": self.name, "uid": self.uid, "installation": self.installation}
        return Handle(id=self.id, backend=backend, data=data)

    def owns(self, item: Mapping[str, Any] | None) -> bool:
        """Whether an object belongs to this workload: its Job, or a pod with its marks."""
        if item is None or not names.is_ours(item, self.id, self.installation):
            return False
        return item["metadata"]["uid"] == self.uid or names.label(item, "batch.kubernetes.io/controller-uid") in (
            None,
            self.uid,
        )


class Cluster:
    """Reads and changes the objects of workloads.

    Parameters:
        api: the API of the namespace.
    """

    def __init__(self, api: Api) -> None:
        self.api = api

    def pods(self, installation: str, ids: Sequence[str]) -> list[Item]:
        """List the pods of dispatches."""
        return self.api.list("pods", _selector(installation, ids))[0]

    def fetch(self, ref: Ref) -> tuple[Item | None, list[Item]]:
        """Return the Job and the pods of a workload.

        The pods come first: an end is written on the Job before its pod may go, so that it is in one of both.
        """
        pods = [pod for pod in self.pods(ref.installation, [ref.id]) if ref.owns(pod)]
        job = self.api.get("jobs", ref.name)
        return self._whole(ref, job if ref.owns(job) else None, pods)

    def _whole(self, ref: Ref, job: Item | None, pods: list[Item]) -> tuple[Item | None, list[Item]]:
        """Look at the pods again where they seem to live on: the end on the Job may be younger than their list."""
        if story.look(job, pods).reason == SECOND_COPY:
            pods = [pod for pod in self.pods(ref.installation, [ref.id]) if ref.owns(pod)]
        return job, pods

    def fetch_many(self, refs: Sequence[Ref]) -> list[tuple[Item | None, list[Item]]]:
        """Return Job and pods of many workloads, with two requests for each installation."""
        if len(refs) == 1:
            return [self.fetch(refs[0])]
        jobs: list[Item] = []
        pods: list[Item] = []
        for installation in sorted({ref.installation for ref in refs}):
            selector = _selector(installation, [ref.id for ref in refs if ref.installation == installation])
            pods += self.api.list("pods", selector)[0]
            jobs += self.api.list("jobs", selector)[0]
        return [
            self._whole(ref, next((job for job in jobs if ref.owns(job)), None), [pod for pod in pods if ref.owns(pod)])
            for ref in refs
        ]

    def suspend(self, job: Item, annotations: Mapping[str, str]) -> None:
        """Keep a Job from making a pod; harmless where it is gone."""
        metadata = {"uid": job["metadata"]["uid"], "annotations": dict(annotations)}
        self._harmless("jobs", job, {"metadata": metadata, "spec": {"suspend": True}})

    def record(self, job: Item, seen: Observation) -> bool:
        """Write the end of a workload on its Job, once.

        Returns:
            whether it stands there now; false where the Job is gone.
        """
        current: Item | None = job
        for _ in range(_RETRIES):
            if current is None or current["metadata"]["uid"] != job["metadata"]["uid"]:
                return False
            if story.recorded(current) is not None:
                return True
            metadata = {
                "uid": current["metadata"]["uid"],
                "resourceVersion": current["metadata"]["resourceVersion"],
                "annotations": {names.RESULT: story.record(seen)},
            }
            try:
                self.api.patch("jobs", current["metadata"]["name"], {"metadata": metadata})
            except Refusal as error:
                if error.status not in (404, 409) and not is_another(error):
                    raise
            else:
                return True
            current = self.api.get("jobs", job["metadata"]["name"])
        return False

    def mark_pod(self, pod: Item, note: str, *, hold: bool) -> Item | None:
        """Write on a pod why it is stopped, and hold its record in the same step.

        Returns:
            the pod as it is then; null where it has changed too much, so that one has to look again.
        """
        metadata: dict[str, Any] = {"uid": pod["metadata"]["uid"], "annotations": {names.CAUSE: note}}
        if hold:
            metadata["finalizers"] = [names.FINALIZER]
        try:
            return self.api.patch("pods", pod["metadata"]["name"], {"metadata": metadata}, STRATEGIC_PATCH)
        except Refusal as error:
            # 422 or 403: it is another one, or nothing may be held any more since its deletion has begun.
            if error.status in (403, 404, 409, 422):
                return None
            raise

    def let_go(self, pod: Item) -> None:
        """Take our finalizer off a pod."""
        if names.FINALIZER not in (pod["metadata"].get("finalizers") or ()):
            return
        directive = {"$deleteFromPrimitiveList/finalizers": [names.FINALIZER]}
        self._harmless("pods", pod, {"metadata": {"uid": pod["metadata"]["uid"], **directive}}, STRATEGIC_PATCH)

    def _harmless(self, kind: str, item: Item, body: Item, how: str = MERGE_PATCH) -> None:
        try:
            self.api.patch(kind, item["metadata"]["name"], body, how)
        except Refusal as error:
            if error.status not in (404, 409) and not is_another(error):
                raise


def is_another(error: Refusal) -> bool:
    """Whether a change was refused because a later object has the name; its uid is the precondition."""
    return error.status == 422 and "metadata.uid" in str(error)


def installation_selector(installation: str) -> str:
    """Return the label selector of everything of an installation."""
    return f"{names.INSTALLATION}={names.installation_label(installation)},{names.DISPATCH}"


def _selector(installation: str, ids: Sequence[str]) -> str:
    return f"{installation_selector(installation)},{names.DISPATCH} in ({','.join(ids)})"
