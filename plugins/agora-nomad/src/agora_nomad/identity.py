"""Which cluster this is: proven by the keys that its servers sign with."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from agora.errors import Unreachable
from agora.model.observation import Handle

from agora_nomad.api import Api

#: The keys are asked for again after this time, and before anything is called absent; seconds.
_FRESH = 60.0
#: In place of a key where a cluster shows none: such a backend can never be proven.
UNPROVEN = "unproven"


@dataclass(frozen=True)
class _Proof:
    """What a look at the keys has shown: the cluster's name, its keys now and ever, when."""

    backend: str
    now: frozenset[str]
    ever: frozenset[str]
    at: float


class Identity:
    """Proves the cluster of a target.

    The servers change their key every 30 days (`root_key_rotation_threshold`) and keep the ones before, as long as
    something that was signed with them is on record. So a cluster is named after the first key that was seen of it,
    and known by any key that it has shown since; both are kept in a file.

    Parameters:
        api: the cluster.
        file: what is known of it.
    """

    def __init__(self, api: Api, file: Path) -> None:
        self._api = api
        self._file = file
        self._lock = threading.Lock()
        self._seen: _Proof | None = None

    def backend(self, *, fresh: bool = False) -> str:
        """Return the name of the cluster, region and namespace, in the words of `Handle.backend`."""
        return self._look(fresh).backend

    @property
    def keys(self) -> list[str]:
        """Every key that the cluster is known to have shown, for handles."""
        return sorted(self._look(False).ever)

    def is_here(self, handle: Handle, *, fresh: bool = False) -> bool:
        """Whether a handle names this cluster, by its name or by a key that it still shows."""
        proof = self._look(fresh)
        if handle.backend in (proof.backend, f"{self._where}:{UNPROVEN}"):
            return True
        where, _, first = handle.backend.rpartition(":")
        told = set(handle.data.get("keys", ()))
        return where == self._where and first in told and bool(told & proof.now)

    def prove(self, handle: Handle) -> None:
        """Make sure that this is the cluster of a handle, now, before anything on it is called absent.

        Raises:
            Unreachable: it is another one, or one that nothing can prove.
        """
        if not self.is_here(handle, fresh=True):
            raise self.elsewhere(handle)
        if handle.backend.endswith(f":{UNPROVEN}"):
            raise Unreachable(f"{handle.id} is not there, and nothing proves that {self._api.source} is its cluster")

    def elsewhere(self, handle: Handle) -> Unreachable:
        """Return the error for a handle of another cluster."""
        return Unreachable(f"{handle.id} is on {handle.backend}, which is not {self._api.source}", sent=False)

    @property
    def _where(self) -> str:
        return f"nomad:{self._api.region or ''}:{self._api.namespace}"

    def _look(self, fresh: bool) -> _Proof:
        with self._lock:
            if self._seen is None or fresh or time.monotonic() - self._seen.at > _FRESH:
                self._seen = self._prove(frozenset(self._api.keys()))
            return self._seen

    def _prove(self, now: frozenset[str]) -> _Proof:
        at = time.monotonic()
        if not now:
            return _Proof(f"{self._where}:{UNPROVEN}", now, now, at)
        first, ever = self._read()
        if not now & ever:
            first, ever = min(now), frozenset()
        if not now <= ever:
            ever |= now
            self._write(first, ever)
        return _Proof(f"{self._where}:{first}", now, ever, at)

    def _read(self) -> tuple[str, frozenset[str]]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return str(found["first"]), frozenset(map(str, found["keys"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return "", frozenset()

    def _write(self, first: str, keys: frozenset[str]) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._file.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        draft.write_text(json.dumps({"first": first, "keys": sorted(keys)}), encoding="utf-8")
        draft.replace(self._file)
