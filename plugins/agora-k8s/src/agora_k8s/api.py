"""Requests to the API server: every one has timeouts, throttling is respected, answers are plain JSON."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from agora.errors import PermissionDenied, ProviderError, Unreachable
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from agora_k8s.connect import Connection

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

#: Seconds to connect, and without a byte of an answer.
CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
#: Seconds that one call may take with all its retries; a stop has ten and makes several calls.
CALL_SECONDS = 6.0
#: Objects in one answer to a list.
PAGE = 500
#: Pause before a retry where the server names none: the first, and the longest, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
_BUSY = frozenset({429, 500, 502, 503, 504})
#: An error page of a proxy is cut to this many characters.
_WORDS = 500


class Refusal(ProviderError):
    """A definite answer of the API server that is no success.

    Parameters:
        status: the HTTP status.
        reason: the server's machine word (`NotFound`, `AlreadyExists`, `Conflict`, `Expired`, `Invalid`, ...).
        message: the server's own words.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message, retryable=status == 409)
        self.status = status
        self.reason = reason


class Api:
    """The API of one namespace.

    Parameters:
        connection: the way to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.namespace = connection.namespace
        self.source = connection.source
        #: The server's clock at its last answer; the only clock that times of its objects are compared with.
        self.server_time: datetime | None = None

    # -- objects -----------------------------------------------------------------------------------------------

    def path(self, kind: str, name: str = "", part: str = "") -> str:
        """Return the path of a kind of object in the namespace, of one object, or of a part of it."""
        root = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
        return "/".join(filter(None, (f"{root}/namespaces/{self.namespace}/{kind}", name, part)))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object, null where there is none."""
        try:
            return self.call("GET", self.path(kind, name))
        except Refusal as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, selector: str) -> tuple[list[dict[str, Any]], str]:
        """Return all objects that match a label selector, and the resource version of the list."""
        items: list[dict[str, Any]] = []
        query = {"labelSelector": selector, "limit": str(PAGE)}
        restarts = 0
        while True:
            try:
                page = self.call("GET", self.path(kind), query=query)
            except Refusal as error:
                # The snapshot that the pages are read from is gone: begin again.
                if error.status != 410 or "continue" not in query or restarts == 3:
                    raise
                restarts += 1
                items = []
                del query["continue"]
                continue
            items += page.get("items") or []
            if not (after := page["metadata"].get("continue")):
                return items, page["metadata"].get("resourceVersion", "")
            query["continue"] = after

    def create(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object; `Refusal` 409 where the name is taken."""
        return self.call("POST", self.path(kind), body=body)

    def patch(self, kind: str, name: str, body: Mapping[str, Any], how: str = MERGE_PATCH) -> dict[str, Any]:
        """Change an object."""
        return self.call("PATCH", self.path(kind, name), body=body, content=how)

    def delete(
        self, kind: str, item: Mapping[str, Any], *, once: bool = False, **options: Any
    ) -> dict[str, Any] | None:
        """Delete exactly this object, not a later one of its name; null where it is gone already.

        Parameters:
            once: send it again only where it was certainly not carried out, so that the answer shows the object as
                it was before.
            options: further `DeleteOptions`. They travel in the body, where the query would be ignored.
        """
        metadata = item["metadata"]
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": metadata["uid"]}, **options}
        try:
            return self.call("DELETE", self.path(kind, metadata["name"]), body=body, once=once)
        except Refusal as error:
            if error.status == 404 or (error.status == 409 and "precondition" in str(error)):
                return None
            raise

    def remove(self, kind: str, name: str) -> None:
        """Delete whatever has a name that only its owner gives."""
        try:
            self.call("DELETE", self.path(kind, name))
        except Refusal as error:
            if error.status != 404:
                raise

    # -- requests ----------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        once: bool = False,
    ) -> dict[str, Any]:
        """Send a request and read the whole answer; every request here can be sent again safely.

        Parameters:
            once: send it again only where it was certainly not carried out.

        Raises:
            Refusal: the server refused it.
            PermissionDenied: the credentials are refused, or lack a right.
            Unreachable: no answer, or none but "busy", in `CALL_SECONDS`.
        """
        give_up = time.monotonic() + CALL_SECONDS
        pause, sent = _FIRST_PAUSE, False
        while True:
            try:
                answer = self._send(method, path, query, body, content, READ_SECONDS, preload=True)
            except Unreachable as error:
                error.sent = sent = error.sent or sent
                if once or not isinstance(error.__cause__, ProtocolError) or time.monotonic() + pause > give_up:
                    raise
                # The connection was cut; the server is there.
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            if answer.status < 300:
                return _object(answer)
            if answer.status not in _BUSY:
                raise self._refused(answer)
            sent = sent or answer.status != 429
            wait = _retry_after(answer) or pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            if (once and sent) or time.monotonic() + wait > give_up:
                raise Unreachable(f"the API server is busy ({answer.status}): {_words(answer)}", sent=sent)
            time.sleep(wait)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def stream(self, path: str, query: Mapping[str, str], silence: float) -> BaseHTTPResponse:
        """Open an answer that goes on.

        Parameters:
            silence: seconds without a byte after which it counts as broken.
        """
        answer = self._send("GET", path, query, None, "application/json", silence, preload=False)
        if answer.status >= 300:
            try:
                raise self._refused(answer)
            except (HTTPError, OSError) as error:
                raise Unreachable(f"a refusal of the API server broke off: {type(error).__name__}") from error
            finally:
                answer.release_conn()
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content: str,
        silence: float,
        *,
        preload: bool,
    ) -> BaseHTTPResponse:
        headers = self._connection.headers()
        if body is not None:
            headers["Content-Type"] = content
        try:
            answer = self._connection.pool.request(
                method,
                self._connection.url(path),
                fields=None if not query or body is not None else dict(query),
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                preload_content=preload,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=silence),
            )
        except (ConnectTimeoutError, NewConnectionError, NameResolutionError, SSLError) as error:
            raise Unreachable(f"no connection to the API server of {self.source}: {error}", sent=False) from error
        except (HTTPError, OSError) as error:
            words = f"{type(error).__name__}: {error}"
            raise Unreachable(f"the API server of {self.source} gave no answer: {words}") from error
        if date := answer.headers.get("Date"):
            self.server_time = parsedate_to_datetime(date)
        return answer

    def _refused(self, answer: BaseHTTPResponse) -> ProviderError:
        status = _status(answer)
        message = str(status.get("message") or _words(answer))
        if answer.status == 401 or (answer.status == 403 and "exceeded quota" not in message):
            return PermissionDenied(f"{message} (credentials: {self.source})")
        return Refusal(answer.status, str(status.get("reason") or ""), message)

    def close(self) -> None:
        """Close idle connections."""
        self._connection.pool.clear()


def lines(answer: BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the lines of an answer that goes on, each with its end; the last one may have none.

    Raises:
        Unreachable: the connection broke.
    """
    rest = b""
    try:
        for piece in answer.stream(65_536):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line + b"\n"
    except (HTTPError, OSError) as error:
        raise Unreachable(f"a stream of the API server broke: {type(error).__name__}") from error
    if rest:
        yield rest


def _object(answer: BaseHTTPResponse) -> dict[str, Any]:
    try:
        parsed = json.loads(answer.data)
    except ValueError as error:
        raise Unreachable(f"the API server answered no JSON: {_words(answer)!r}") from error
    if not isinstance(parsed, dict):
        raise Unreachable(f"the API server answered no object: {_words(answer)!r}")
    return parsed


def _status(answer: BaseHTTPResponse) -> dict[str, Any]:
    try:
        parsed = json.loads(answer.data)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _words(answer: BaseHTTPResponse) -> str:
    try:
        parsed = json.loads(answer.data)
        return str(parsed["message"])
    except (ValueError, KeyError, TypeError):
        return answer.data.decode(errors="replace")[:_WORDS] or f"HTTP {answer.status}"


def _retry_after(answer: BaseHTTPResponse) -> float | None:
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
