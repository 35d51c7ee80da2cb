"""Variables: small encrypted tables by path, in the words of Nomad's documentation and source."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agora_conformance.emulators.nomad import listing
from agora_conformance.emulators.nomad.access import Rights
from agora_conformance.emulators.nomad.api import Answer, Ask, Look, found, missing
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.errors import ApiError, Object, denied
from agora_conformance.emulators.nomad.store import Key

#: Paths and size of a variable (`validVariablePath`, `maxVariableSize`).
PATH = re.compile(r"[a-zA-Z0-9-_~/]{1,128}")
SIZE = 65_536
OWNED = 'only paths at "nomad/jobs" and below are valid paths under the top-level "nomad" directory'


class Variables:
    """Answers what is asked about variables.

    Parameters:
        cluster: the cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._store = cluster.store

    def list(self, ask: Ask) -> Look:
        """Answer `/v1/vars`: paths and times, never contents; what the token may not list is left out."""
        ask.needs("GET")
        rights = ask.allowed

        def look() -> Answer:
            items = [
                {name: value for name, value in one.items() if name != "Items"}
                for (namespace, path), one in sorted(self._store.variables.items())
                if ask.namespace in ("*", namespace)
                and path.startswith(ask.query.get("prefix", ""))
                and rights.may_variable("list", namespace, path)
            ]
            chosen, rest = listing.page(items, ask.query, lambda one: f"{one['Namespace']}.{one['Path']}")
            return found(chosen, self._store.table("variables"), rest)

        return look

    def one(self, ask: Ask) -> Answer | Look:
        """Answer `/v1/var/PATH`."""
        key = (ask.namespace, ask.path.removeprefix("/v1/var/"))
        if not key[1]:
            raise ApiError(400, "missing variable path")
        if ask.writes:
            return self._write(ask, key)
        if ask.method == "DELETE":
            return self._delete(ask, key)
        if ask.method != "GET":
            raise ApiError(400, "Invalid method")
        need(ask.allowed, "read", key)

        def look() -> Answer:
            known = self._store.variables.get(key)
            if known is None:
                return missing("variable not found", self._store.table("variables"))
            return found(known, known["ModifyIndex"])

        return look

    def _write(self, ask: Ask, key: Key) -> Answer:
        items = ask.body.get("Items") if isinstance(ask.body, dict) else None
        if not items:
            raise ApiError(400, "variable missing required Items object")
        wanted = check_index(ask.query)
        need(ask.allowed, "write", key)
        validate(key[1], items)
        before = self._store.variables.get(key)
        if wanted is not None and wanted != (0 if before is None else before["ModifyIndex"]):
            return self._conflict(ask, key, before)
        with self._store.write("VariablesApply") as txn:
            made = txn.variable(key, items)
        return Answer(made, txn.index)

    def _delete(self, ask: Ask, key: Key) -> Answer:
        """Remove one; one that is not there is no error."""
        wanted = check_index(ask.query)
        need(ask.allowed, "destroy", key)
        before = self._store.variables.get(key)
        if wanted is not None and wanted != (0 if before is None else before["ModifyIndex"]):
            return self._conflict(ask, key, before)
        if before is not None:
            with self._store.write("VariablesApply") as txn:
                txn.variable_gone(key)
        return Answer(index=self._store.table("variables"), status=204)

    @staticmethod
    def _conflict(ask: Ask, key: Key, before: Object | None) -> Answer:
        """409 with the variable that is there; without its contents for a token that may not read it."""
        shown: Object = {"Namespace": key[0], "Path": key[1], "CreateIndex": 0, "ModifyIndex": 0} | (before or {})
        if not ask.allowed.may_variable("read", *key):
            shown["Items"] = None
        return Answer(shown, shown["ModifyIndex"], status=409)


def need(rights: Rights, capability: str, key: Key) -> None:
    """Refuse what a token may not do.

    Raises:
        ApiError: 403.
    """
    if not rights.may_variable(capability, *key):
        raise denied()


def check_index(query: Mapping[str, str]) -> int | None:
    """Return the index that a write expects; None where it takes any.

    Raises:
        ApiError: 400, it is none.
    """
    text = query.get("cas", "")
    if text and not text.isdigit():
        raise ApiError(400, f'can not parse cas: strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text) if text else None


def validate(path: str, items: Mapping[str, str]) -> None:
    """Refuse what a variable cannot be.

    Raises:
        ApiError: 400 or 500 with Nomad's text.
    """
    if not all(isinstance(value, str) for value in items.values()):
        raise ApiError(400, "json: cannot unmarshal into Go struct field VariableDecrypted.Items of type string")
    if sum(len(name.encode()) + len(value.encode()) for name, value in items.items()) > SIZE:
        raise ApiError(500, "variables are limited to 64KiB in total size")
    if not PATH.fullmatch(path):
        raise ApiError(500, f'invalid path "{path}"')
    first, *rest = path.split("/")
    if first == "nomad" and rest[:1] != ["jobs"]:
        raise ApiError(500, OWNED)
