"""The servers' state: jobs, evaluations, allocations and nodes, one index for all, and the events of every change."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agora_conformance.emulators.nomad.errors import Object
from agora_conformance.emulators.nomad.timing import nano

#: Fields of an evaluation, job or allocation that the store itself keeps.
CLIENT_TERMINAL = ("complete", "failed", "lost")
EVAL_TERMINAL = ("complete", "failed", "canceled")
#: Index of an empty cluster.
FIRST_INDEX = 10

Key = tuple[str, str]


def client_over(alloc: Object) -> bool:
    """Whether the server takes an allocation for over because of what the client said, or because it is lost."""
    return alloc["ClientStatus"] in CLIENT_TERMINAL


def over(alloc: Object) -> bool:
    """Whether the server takes an allocation for over: it is to stop, or over already."""
    return alloc["DesiredStatus"] != "run" or client_over(alloc)


@dataclass(frozen=True)
class Entry:
    """The events of one index.

    Parameters:
        index: the index.
        events: in the order of the changes.
    """

    index: int
    events: list[Object]


@dataclass
class Store:
    """Objects and their history; objects are never changed in place.

    Parameters:
        buffer: how many entries an event stream can go back (`event_buffer_size` is 100).
    """

    buffer: int = 100
    index: int = FIRST_INDEX
    jobs: dict[Key, Object] = field(default_factory=dict)
    versions: dict[Key, list[Object]] = field(default_factory=dict)
    evals: dict[str, Object] = field(default_factory=dict)
    allocs: dict[str, Object] = field(default_factory=dict)
    nodes: dict[str, Object] = field(default_factory=dict)
    namespaces: dict[str, Object] = field(default_factory=dict)
    variables: dict[Key, Object] = field(default_factory=dict)
    scalings: dict[Key, dict[str, list[Object]]] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=self.buffer)
        self._news = asyncio.Event()
        self.namespaces["default"] = {"Name": "default", "Description": "Default shared namespace"}

    @property
    def news(self) -> asyncio.Event:
        """Is set at the next change; take it before looking at the state."""
        return self._news

    def table(self, name: str) -> int:
        """Return the index of a table's last change."""
        return self.tables.get(name, FIRST_INDEX)

    @contextmanager
    def write(self, cause: str) -> Iterator[Transaction]:
        """Change things under one new index.

        Parameters:
            cause: type of the events.
        """
        self.index += 1
        transaction = Transaction(self, self.index, cause)
        yield transaction
        if transaction.events:
            self.entries.append(Entry(self.index, transaction.events))
        self.wake()

    def wake(self) -> None:
        """Let everyone who waits look again."""
        self._news.set()
        self._news = asyncio.Event()

    # -- looking -------------------------------------------------------------------------------------------------

    def job_allocs(self, key: Key) -> list[Object]:
        """Return a job's allocations, in order of their ids; those of an earlier job of that id are left out."""
        job = self.jobs.get(key)
        found = [one for one in self.allocs.values() if (one["Namespace"], one["JobID"]) == key]
        if job is not None:
            found = [one for one in found if one["Job"]["CreateIndex"] == job["CreateIndex"]]
        return sorted(found, key=lambda one: str(one["ID"]))

    def job_evals(self, key: Key) -> list[Object]:
        """Return a job's evaluations, in order of their ids."""
        found = [one for one in self.evals.values() if (one["Namespace"], one["JobID"]) == key]
        return sorted(found, key=lambda one: str(one["ID"]))

    def node_allocs(self, node: str) -> list[Object]:
        """Return the allocations of a node."""
        return [one for one in self.allocs.values() if one["NodeID"] == node]

    def status(self, key: Key) -> str:
        """Return what a job's allocations and evaluations make of it (`getJobStatus`)."""
        allocs = self.job_allocs(key)
        if any(not over(one) for one in allocs):
            return "running"
        evals = self.job_evals(key)
        if any(one["Status"] not in EVAL_TERMINAL for one in evals):
            return "pending"
        return "dead" if allocs or evals else "pending"


class Transaction:
    """Changes under one index; made by `Store.write`.

    Parameters:
        store: what is changed.
        index: the new index.
        cause: type of the events.
    """

    def __init__(self, store: Store, index: int, cause: str) -> None:
        self._store, self.index, self._cause = store, index, cause
        self.events: list[Object] = []
        self.now = nano()

    def _stamp(self, table: str, new: Object, old: Object | None) -> Object:
        self._store.tables[table] = self.index
        created = self.index if old is None else old["CreateIndex"]
        return {**new, "CreateIndex": created, "ModifyIndex": self.index}

    def _event(self, topic: str, key: str, namespace: str, payload: Object, filters: list[str] | None = None) -> None:
        self.events.append({
            "FilterKeys": filters, "Index": self.index, "Key": key, "Namespace": namespace,
            "Payload": {topic: payload}, "Topic": topic, "Type": self._cause,
        })  # fmt: skip

    def job(self, job: Object) -> Object:
        """Write a job whose specification is new; its status follows from its evaluations and allocations."""
        key = (job["Namespace"], job["ID"])
        old = self._store.jobs.get(key)
        status = "pending" if old is None else old["Status"]
        made = {**self._stamp("jobs", job, old), "JobModifyIndex": self.index, "Status": status}
        self._store.jobs[key] = made
        made["Status"] = self._store.status(key)
        self._store.versions.setdefault(key, []).insert(0, made)
        self._event("Job", made["ID"], made["Namespace"], made)
        return made

    def job_gone(self, key: Key) -> None:
        """Remove a job."""
        old = self._store.jobs.pop(key)
        self._store.versions.pop(key, None)
        self._store.scalings.pop(key, None)
        self._store.tables["jobs"] = self.index
        self._event("Job", old["ID"], old["Namespace"], old)

    def eval(self, evaluation: Object) -> Object:
        """Write an evaluation; one that is complete cancels what of its job was blocked."""
        old = self._store.evals.get(evaluation["ID"])
        done = evaluation["Status"] == "complete" and not evaluation.get("BlockedEval")
        if done and not evaluation.get("FailedTGAllocs"):
            for other in self._store.job_evals((evaluation["Namespace"], evaluation["JobID"])):
                if other["Status"] == "blocked" and other["ID"] != evaluation["ID"]:
                    words = f'evaluation "{evaluation["ID"]}" successful'
                    self.eval({**other, "Status": "canceled", "StatusDescription": words, "ModifyTime": self.now})
        made = self._stamp("evals", evaluation, old)
        self._store.evals[made["ID"]] = made
        self._event("Evaluation", made["ID"], made["Namespace"], made, [made["JobID"], ""])
        return made

    def alloc(self, alloc: Object, *, by_client: bool = False) -> Object:
        """Write an allocation; `by_client` says that it is the client's word."""
        made = {**self._stamp("allocs", alloc, self._store.allocs.get(alloc["ID"])), "ModifyTime": self.now}
        if not by_client:
            made["AllocModifyIndex"] = self.index
        self._put_alloc(made)
        return made

    def link(self, alloc: Object, successor: str) -> None:
        """Tell an allocation what replaces it."""
        made = self._stamp("allocs", {**alloc, "NextAllocation": successor}, alloc)
        self._put_alloc(made)

    def _put_alloc(self, made: Object) -> None:
        self._store.allocs[made["ID"]] = made
        shown = {name: value for name, value in made.items() if name != "Job"}
        self._event("Allocation", made["ID"], made["Namespace"], shown, [made["JobID"], ""])

    def node(self, node: Object) -> Object:
        """Write a node."""
        made = self._stamp("nodes", node, self._store.nodes.get(node["ID"]))
        self._store.nodes[made["ID"]] = made
        self._event("Node", made["ID"], "", made)
        return made

    def variable(self, key: Key, items: Object) -> Object:
        """Write a variable; no event tells of it."""
        old = self._store.variables.get(key)
        created = self.now if old is None else old["CreateTime"]
        new = {"Namespace": key[0], "Path": key[1], "CreateTime": created, "ModifyTime": self.now, "Items": items}
        made = self._store.variables[key] = self._stamp("variables", new, old)
        return made

    def variable_gone(self, key: Key) -> None:
        """Remove a variable."""
        self._store.variables.pop(key)
        self._store.tables["variables"] = self.index

    def settle(self, key: Key) -> None:
        """Give a job the status that follows from what has changed."""
        job = self._store.jobs.get(key)
        if job is None or job["Status"] == (status := self._store.status(key)):
            return
        made = {**job, "Status": status, "ModifyIndex": self.index}
        self._store.jobs[key] = made
        self._store.versions[key][0] = made
        self._store.tables["jobs"] = self.index
        self._event("Job", made["ID"], made["Namespace"], made)

    def forget(self, *, evals: list[str], allocs: list[str]) -> None:
        """Remove records, without an event."""
        for name, rows, ids in (("evals", self._store.evals, evals), ("allocs", self._store.allocs, allocs)):
            for one in ids:
                rows.pop(one, None)
            if ids:
                self._store.tables[name] = self.index
