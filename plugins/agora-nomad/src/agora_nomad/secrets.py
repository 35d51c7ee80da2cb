"""The inline secrets of a dispatch: one Nomad variable that its task alone may read, and nobody's job shows.

By default the identity of a task reads the variables at `nomad/jobs/JOB/GROUP/TASK` and at the paths above it, since
Nomad 1.4 (docs/concepts/workload-identity). The variable holds the environment file as it is to be, so nothing of a
value is ever looked at again on its way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from agora.errors import PermissionDenied, ProviderError, SubmitRefused, Unreachable
from agora.hookspecs import Check
from agora.model.spec import Spec

from agora_nomad import exact, names, story
from agora_nomad.api import Api, Item, Refusal, Taken

logger = logging.getLogger(__name__)

#: Item of the variable: the mark by which a leftover is known.
INSTALLATION = "installation"
_RETRIES = 8
_PAUSE = 0.1


class Secrets:
    """Writes and removes variables.

    Parameters:
        api: the API of the namespace.
        installation: whose.
    """

    def __init__(self, api: Api, installation: str) -> None:
        self._api = api
        self._installation = installation

    def write(self, dispatch_id: str, spec: Spec, recorded: Callable[[], Item | None], check: Check) -> Item | None:
        """Write the variable of a dispatch before its job; nothing where the job is on record already.

        Parameters:
            recorded: returns the job that is on record; raises where it is not the one.
            check: asked before each write.
        Returns:
            the job that is on record.
        Raises:
            PermissionDenied: the token may not write it; nothing was started.
            SubmitRefused: the cluster refuses it; nothing was started.
        """
        path, index = names.secrets_path(dispatch_id), 0
        values = {name: value.get_secret_value() for name, value in spec.secrets.items()}
        items = {exact.ITEM: exact.lines(values), INSTALLATION: self._installation}
        for _ in range(_RETRIES):
            if (job := recorded()) is not None:
                return job
            check()
            try:
                self._api.write_variable(path, items, index)
            except Taken as taken:
                # Without its job it is what an earlier attempt has left, or another one makes its job right now.
                if index:
                    time.sleep(_PAUSE)
                index = taken.index
            except Refusal as error:
                raise _refused(error, path) from None
            except PermissionDenied as error:
                words = f"{error}; secrets need the right to write variables at {names.VARIABLES}*"
                raise PermissionDenied(words, sent=error.sent) from None
            else:
                return None
        raise Unreachable(f"the variable {path} changes too often to be written")

    def remove(self, dispatch_id: str, installation: str | None = None) -> None:
        """Remove the variable of a dispatch; one that is not there is fine, and another installation's stays.

        Parameters:
            installation: whose it is; ours if none is named.
        """
        path, job = names.secrets_path(dispatch_id), self._api.job(names.job_id(dispatch_id))
        if job is not None and not names.is_ours(job, dispatch_id, installation or self._installation):
            return
        try:
            self._api.remove_variable(path)
        except PermissionDenied as error:
            if job is not None or self._api.select("vars", prefix=path):
                raise
            # A token without any right on variables could not write one: the start was refused for it.
            logger.info("no secrets of %s are to be seen, and none may be removed: %s", dispatch_id, error)

    def leftovers(self, installation: str, known: Collection[str]) -> Mapping[str, datetime]:
        """Find the variables of an installation that have no job: by dispatch id, with the time of their making.

        Parameters:
            known: dispatches that have one.
        """
        try:
            listed = self._api.select("vars", prefix=names.VARIABLES)
        except Refusal as error:
            if error.status == 404:
                return {}  # before Nomad 1.4 there are none
            raise
        made = {names.dispatch_of(one["Path"]): one for one in listed}
        found: dict[str, datetime] = {}
        for id, one in made.items():
            if id is None or id in known or self._api.job(names.job_id(id)) is not None:
                continue
            variable = self._api.variable(one["Path"])
            if variable is not None and (variable.get("Items") or {}).get(INSTALLATION) == installation:
                found[id] = story.nanoseconds(one["CreateTime"])
        return found


def _refused(error: Refusal, path: str) -> ProviderError:
    """Tell what the server refuses from what it could not do; its words are known to repeat no value."""
    if error.status in (400, 404, 405, 413) or "limited" in str(error):
        return SubmitRefused(f"the variable {path} is refused ({error.status}): {error}", reason="secrets_refused")
    return error
