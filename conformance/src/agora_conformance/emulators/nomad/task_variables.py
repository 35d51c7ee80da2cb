"""What the templates of tasks read of variables: their own, by the identity that every task has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from agora_conformance.emulators.nomad.store import Store


class Denied(Exception):
    """A task asks for a variable that is not its own."""


@dataclass(frozen=True)
class TaskVariables:
    """The variables, as tasks see them.

    Parameters:
        store: the servers' state.
        guarded: whether access control is on.
    """

    store: Store
    guarded: bool

    @property
    def news(self) -> asyncio.Event:
        """Is set at the next change; take it before reading."""
        return self.store.news

    def read(self, known: Mapping[str, str], path: str) -> Mapping[str, str] | None:
        """Return the items of a variable; None while there is none.

        Parameters:
            known: the task's variables, which say whose it is.
            path: of the variable.

        Raises:
            Denied: it is not for that task.
        """
        names = [known[f"NOMAD_{part}"] for part in ("JOB_ID", "GROUP_NAME", "TASK_NAME")]
        own = ["/".join(("nomad", "jobs", *names[:depth])) for depth in range(len(names) + 1)]
        if self.guarded and path not in own:
            raise Denied(path)
        found = self.store.variables.get((known["NOMAD_NAMESPACE"], path))
        items: Mapping[str, str] | None = None if found is None else found["Items"]
        return items
