"""Requests to the cluster through python-nomad: ids are quoted, every one has timeouts, answers keep their words."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agora.errors import PermissionDenied, ProviderError, Unreachable

from agora_nomad.connect import Connection

if TYPE_CHECKING:
    import requests

Item = dict[str, Any]

#: Seconds to connect, and without a byte of an answer. A server without a leader takes five to say so.
CONNECT_SECONDS = 3.0
READ_SECONDS = 7.0
#: Seconds that one call may take with all its retries; a stop has ten and makes several calls.
CALL_SECONDS = 6.0
#: Objects in one answer to a list.
PAGE = 500
#: Pause before a retry: the first, and the longest, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
_BUSY = frozenset({429, 502, 503, 504})
#: What a server says with status 500 while it cannot say anything else.
_PASSING = ("No cluster leader", "rpc error", "EOF", "connection", "timeout", "raft", "leadership")
#: What may be told of an answer about a variable.
_HARMLESS = ("Permission denied", "limited to 64KiB in total size", "variable not found", *_PASSING)
_WORDS = 500
#: A registration that the server has looked at and refuses begins like this.
_LOOKED_AT = re.compile(r"\d+ errors? occurred:")


class Refusal(ProviderError):
    """An answer of the cluster that is no success.

    Parameters:
        status: the HTTP status.
        message: the cluster's own words.
        looked_at: the cluster has looked at what was sent, and found it wrong.
    """

    def __init__(self, status: int, message: str, *, looked_at: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.looked_at = looked_at


class Taken(Refusal):
    """The variable is not as the write expects it.

    Parameters:
        index: where it was written last; 0 where it is not there.
    """

    def __init__(self, index: int) -> None:
        super().__init__(409, "the variable was written by somebody else")
        self.index = index


class NodeAway(Unreachable):
    """The server has no way to the client that has the workload; says nothing about the workload."""


class Api:
    """The API for one namespace.

    Parameters:
        connection: the way to the cluster.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        settings = connection.settings
        self.namespace = settings.namespace
        self.region = settings.region
        self.source = settings.source

    # -- records --------------------------------------------------------------------------------------------------

    def register(self, request: Mapping[str, Any]) -> Item:
        """Send a registration; `Refusal` where it is refused."""
        answer: Item = self.call("post", "jobs", body=request)
        return answer

    def job(self, id: str) -> Item | None:
        """Return a job, null where there is none."""
        found: Item | None = self._found("job", id)
        return found

    def deregister(self, id: str, *, purge: bool = False) -> bool:
        """Stop a job, or remove its record too.

        Returns:
            whether the cluster knew it: an unknown one is answered with an empty evaluation.
        """
        answer = self.call("delete", "job", id, query={"purge": "true"} if purge else {})
        return bool(answer.get("EvalID"))

    def allocations(self, id: str) -> list[Item]:
        """Return the allocations of a job."""
        found: list[Item] = self._found("job", id, "allocations") or []
        return found

    def evaluations(self, id: str) -> list[Item]:
        """Return the evaluations of a job."""
        found: list[Item] = self._found("job", id, "evaluations") or []
        return found

    def select(self, kind: str, filter: str = "", **query: str) -> list[Item]:
        """Return everything of a kind that a filter leaves, page by page."""
        items: list[Item] = []
        asked = {"per_page": str(PAGE), **({"filter": filter} if filter else {}), **query}
        while True:
            answer = self._answer("get", kind, query=asked)
            items += _content(answer) or []
            after = answer.headers.get("X-Nomad-Nexttoken")
            if not after:
                return items
            asked["next_token"] = after

    def signal(self, allocation: str, task: str, signal: str) -> None:
        """Send a signal to a task.

        Raises:
            NodeAway: its client cannot be reached.
            Refusal: it does not run.
        """
        self.call("post", "client/allocation", allocation, "signal", body={"Signal": signal, "Task": task})

    def remark(self, id: str, group: str, words: str, about: Mapping[str, str], seconds: float) -> None:
        """Leave a remark beside a job: a scaling event without a count, which changes nothing and starts nothing."""
        body = {"Target": {"Group": group}, "Message": words, "Meta": dict(about)}
        self._answer("post", "job", id, "scale", body=body, seconds=seconds)

    # -- variables ---------------------------------------------------------------------------------------------

    def variable(self, path: str) -> Item | None:
        """Return a variable with its contents, null where there is none."""
        found: Item | None = self._found("var", *path.split("/"))
        return found

    def write_variable(self, path: str, items: Mapping[str, str], index: int) -> None:
        """Write a variable, if it was written last at `index`; with 0, if there is none.

        Raises:
            Taken: it was written at another.
        """
        self._answer("put", "var", *path.split("/"), query={"cas": str(index)}, body={"Items": dict(items)})

    def remove_variable(self, path: str) -> None:
        """Remove a variable; one that is not there is no error."""
        self._answer("delete", "var", *path.split("/"))

    # -- the cluster -------------------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """Return the ids of the keys that the cluster signs with; empty where it shows none."""
        try:
            answer = self._answer("get", through=self._connection.requester("jwks.json", ".well-known"))
        except Refusal:
            return []
        found = (_content(answer) or {}).get("keys") or []
        return sorted({one["kid"] for one in found if one.get("kid")})

    def nodes(self) -> list[Item]:
        """Return the nodes; needs `node:read`."""
        found: list[Item] = self.call("get", "nodes")
        return found

    def agent(self) -> Item:
        """Return the configuration of the agent that answers; needs `agent:read`."""
        found: Item = self.call("get", "agent", "self")
        return found

    # -- requests ----------------------------------------------------------------------------------------------

    def call(
        self, method: str, *path: str, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Send a request and return the content of the answer; every request here can be sent again safely.

        Raises:
            Refusal: the cluster refused it.
            PermissionDenied: the token is refused, or lacks a right.
            Unreachable: no answer, or none but "busy", in `CALL_SECONDS`.
        """
        return _content(self._answer(method, *path, query=query, body=body))

    def stream(self, *path: str, query: Mapping[str, Any], silence: float) -> requests.Response:
        """Open an answer that goes on.

        Parameters:
            silence: seconds without a byte after which it counts as broken.
        """
        return self._send("get", path, query, None, None, timeout=(CONNECT_SECONDS, silence), stream=True)

    def log(self, allocation: str, task: str, **query: str) -> requests.Response:
        """Open the log of a task."""
        asked = {"task": task, "plain": "true", **query}
        return self.stream("client/fs/logs", allocation, query=asked, silence=READ_SECONDS)

    def _found(self, *path: str) -> Any:
        try:
            return self.call("get", *path)
        except Refusal as error:
            if error.status == 404:
                return None
            raise

    def _answer(
        self,
        method: str,
        *path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        through: Any = None,
        seconds: float | None = None,
    ) -> requests.Response:
        limit = CALL_SECONDS if seconds is None else seconds
        give_up = time.monotonic() + limit
        timeout = (CONNECT_SECONDS, READ_SECONDS) if seconds is None else (seconds, seconds)
        pause, sent = _FIRST_PAUSE, False
        while True:
            try:
                return self._send(method, path, query or {}, body, through, timeout=timeout)
            except _Busy as error:
                sent = True
                failure = Unreachable(str(error))
            except _Cut as error:
                error.sent = sent = error.sent or sent
                failure = error
            wait = pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            if time.monotonic() + wait > give_up or not sent:
                raise failure
            time.sleep(wait)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _send(
        self,
        method: str,
        path: Sequence[str],
        query: Mapping[str, Any],
        body: Mapping[str, Any] | None,
        through: Any,
        *,
        timeout: tuple[float, float],
        stream: bool = False,
    ) -> requests.Response:
        import requests
        from nomad.api.exceptions import BaseNomadException  # type: ignore[import-untyped]

        # python-nomad puts path segments into the URL as they are.
        parts = [quote(part, safe="") for part in path[1:]]
        requester = self._connection.requester(path[0]) if through is None else through
        params: dict[str, Any] = {"namespace": self.namespace, **query}
        if self.region:
            params["region"] = self.region
        options: dict[str, Any] = {"params": params, "timeout": timeout}
        if body is not None:
            options["json"] = dict(body)
        if stream:
            # What is compressed on the way comes when a block is full.
            options["headers"] = {"Accept-Encoding": "identity"}
        try:
            answer: requests.Response = requester.request(*parts, method=method, stream=stream, **options)
        except BaseNomadException as error:
            answered = error.nomad_resp
            if isinstance(answered, requests.Response):
                raise self._refused(answered, path[:1]) from None
            raise self._unanswered(answered) from error
        except requests.RequestException as error:
            # python-nomad wraps what goes wrong with a stream in an error of its own.
            inner = error.args[0] if error.args and isinstance(error.args[0], requests.RequestException) else error
            raise self._unanswered(inner) from error
        # To python-nomad a redirect is a success.
        if answer.status_code >= 300:
            where = answer.headers.get("Location", "somewhere")
            raise Unreachable(f"{self.source} redirects to {where.partition('?')[0]}; name that address itself")
        return answer

    def _unanswered(self, error: Any) -> Unreachable:
        import requests
        from urllib3.exceptions import NewConnectionError

        reason = getattr(error.args[0], "reason", None) if getattr(error, "args", None) else None
        connecting = isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)
        insecure = isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE" in str(error).upper()
        words = f"no answer from {self.source}: {type(error).__name__}: {reason or error}"
        if connecting or insecure:
            return Unreachable(words, sent=False)
        if isinstance(error, requests.TooManyRedirects):
            return Unreachable(f"{self.source} redirects; name the address that it leads to itself")
        return _Cut(words) if isinstance(error, requests.ConnectionError) else Unreachable(words)

    def _refused(self, answer: requests.Response, about: Sequence[str]) -> ProviderError:
        words = " ".join(answer.text[: 4 * _WORDS].split())[:_WORDS]
        status = answer.status_code
        if tuple(about) == ("var",):
            # What is said of a variable may hold what is in it.
            if status == 409:
                return Taken(int((_content(answer) or {}).get("ModifyIndex") or 0))
            words = next((known for known in _HARMLESS if known in words), "")
        if status in (401, 403) or words.endswith("Permission denied"):
            return PermissionDenied(f"{words or 'refused'} ({self.source})")
        if _LOOKED_AT.match(words):
            return Refusal(status, words, looked_at=True)
        if "No path to node" in words:
            return NodeAway(f"{words} ({self.source})")
        if status in _BUSY or (status == 500 and any(passing in words for passing in _PASSING)):
            return _Busy(f"the cluster is busy ({status}): {words}")
        return Refusal(status, words or f"status {status}")

    def close(self) -> None:
        """Close idle connections."""
        self._connection.close()


class _Busy(ProviderError):
    """The cluster answers, and not now."""


class _Cut(Unreachable):
    """The connection was cut; the cluster may be there."""


def _content(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise Unreachable("an answer of the cluster is cut off, or is not Nomad's") from error
