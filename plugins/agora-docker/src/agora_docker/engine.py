"""Talking to one Docker Engine: a pool of clients, errors in the contract's words, and who answers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import requests.exceptions
import urllib3.exceptions
from agora.errors import ConfigError, PermissionDenied, ProviderError, Unreachable
from docker import APIClient, auth
from docker.errors import DockerException
from docker.utils import version_lt

from agora_docker.endpoint import Endpoint
from agora_docker.times import parse
from agora_docker.transport import SSH, UNIX, Adapter, exchange

#: The API version that this provider is written for; an older or newer engine is asked in its own nearest one.
API_VERSION = "1.41"
#: Clients that are kept for the next call.
_KEPT = 32
_CONNECT_SECONDS = 5.0
#: Seconds by which the engine's clock may be off before it counts as set anew: what is asked of events is by it.
_STEP = 2.0
#: Seconds for which it is not asked again by itself who the engine is and what its clock shows.
_TRUSTED = 600.0
#: Characters of an answer that is no engine's in an error, at most.
_WORDS = 500
#: Exceptions below a failed request that say that nobody listens.
_NOBODY_THERE = (FileNotFoundError, ConnectionRefusedError)
#: And those that say that no byte of it left.
_NOT_SENT = (
    *_NOBODY_THERE,
    PermissionError,
    ssl.SSLCertVerificationError,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
)


class EngineError(ProviderError):
    """The engine answered with an error.

    Parameters:
        status: its HTTP status.
        message: its own words.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, retryable=status >= 500)
        self.status = status


class NoAnswer(Unreachable):
    """The request was sent and not answered in time."""


@dataclass(frozen=True)
class Facts:
    """Who the engine is.

    Parameters:
        id: its system id.
        version: of the engine (`24.0.2`).
        log_driver: where the output of containers goes by default.
        least, most: seconds that its clock is ahead of ours, between these two.
        until: when to ask again, by this process's clock: clocks drift.
        dated: whether the date of an answer is by its clock, not by that of a proxy in between.
    """

    id: str
    version: str
    log_driver: str
    least: float
    most: float
    until: float = math.inf
    dated: bool = False

    def earliest(self) -> float:
        """Return the earliest time in seconds that the engine's clock can show now."""
        return time.time() + self.least

    def latest(self) -> float:
        """Return the latest."""
        return time.time() + self.most

    def fit(self, shown: float, since: float) -> bool:
        """Whether the engine's clock can have shown a time, in whole seconds, since a time by ours."""
        return since + self.least - _STEP <= shown + 1 and shown <= self.latest() + _STEP


class Engine:
    """One engine; safe to use from many threads, each call has a client of its own.

    Parameters:
        endpoint: where it is.
        timeout: seconds to wait for one answer.
        agent: what it is told about who asks.
    """

    def __init__(self, endpoint: Endpoint, timeout: float, agent: str) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._agent = agent
        self._idle: queue.LifoQueue[APIClient] = queue.LifoQueue(_KEPT)
        self._closed = False
        self._version: str | None = None
        self._facts: Facts | None = None

    @property
    def connects_at_once(self) -> bool:
        """Whether a new connection costs next to nothing, which one through ssh does not."""
        return not self._endpoint.url.startswith(SSH)

    @property
    def is_local(self) -> bool:
        """Whether it is reached through a socket of this machine."""
        return self._endpoint.url.startswith(UNIX)

    def facts(self, *, fresh: bool = False) -> Facts:
        """Return who answers there.

        Parameters:
            fresh: ask, even if it is known; it is asked again after every broken connection.
        Raises:
            Unreachable: nobody answers.
        """
        known = self._facts
        if known is not None and not fresh and time.monotonic() < known.until:
            return known
        facts = min((self._asked() for _ in range(1 if known else 2)), key=lambda facts: facts.most - facts.least)
        self._facts = facts
        return facts

    def _asked(self) -> Facts:
        before = time.time()
        response = self.request("GET", "/info")
        after = time.time()
        with self._as_an_engine():
            info = response.json()
            shown = parse(info["SystemTime"])
            clock = shown.timestamp() if shown else after
            driver = info.get("LoggingDriver", "")
            until = time.monotonic() + _TRUSTED
            facts = Facts(info["ID"], info["ServerVersion"], driver, clock - after, clock - before, until)
        date = _date(response)
        return dataclasses.replace(facts, dated=date is not None and facts.fit(date, before))

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
        accept: Collection[int] = (),
    ) -> requests.Response:
        """Ask one thing and return the whole answer.

        Parameters:
            seconds: to wait for it; the target's timeout by default.
            accept: further statuses that are no error.
        Raises:
            EngineError: the engine says no.
            PermissionDenied: it refuses whoever asks.
            NoAnswer: no answer in time.
            Unreachable: no connection.
        """
        client = self._borrow()
        kept = False
        try:
            response = self._send(client, method, path, (params, json, data, headers), seconds or self._timeout, False)
            kept = True
        finally:
            self._give_back(client, kept)
        if response.status_code >= 400 and response.status_code not in accept:
            raise self._refused(response)
        return response

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> Iterator[requests.Response]:
        """Ask for something that goes on, on a connection of its own that ends with the block.

        Parameters:
            seconds: to wait for the answer to begin.
        """
        client = self._borrow()
        kept = False
        try:
            # The connection ends with the answer: the next call of the same client takes a new one.
            with self._send(client, method, path, (params, None, None, headers), seconds, True) as response:
                kept = True
                if response.status_code >= 400:
                    raise self._refused(response)
                yield response
        finally:
            self._give_back(client, kept)

    def auth_header(self, image: str) -> Mapping[str, str]:
        """Return the header with the user's credentials for the registry of an image, empty without any."""
        client = self._borrow()
        try:
            registry, _ = auth.resolve_repository_name(image)
            header = auth.get_config_header(client, registry)
        except DockerException as error:
            raise ProviderError(f"the credentials for {image}: {error}", sent=False, retryable=False) from error
        finally:
            self._give_back(client, True)
        return {"X-Registry-Auth": header.decode()} if header else {}

    def close(self) -> None:
        """Close the connections that nobody uses now, and the others as soon as they are not used any more."""
        self._closed = True
        self._close_idle()

    # --- clients -----------------------------------------------------------------------------------------------

    def _borrow(self) -> APIClient:
        version = self._version = self._version or self._negotiated()
        with contextlib.suppress(queue.Empty):
            while True:
                client = self._idle.get_nowait()
                if client.api_version == version:
                    return client
                client.close()
        return self._client(version)

    def _give_back(self, client: APIClient, kept: bool) -> None:
        if kept:
            with contextlib.suppress(queue.Full):
                self._idle.put_nowait(client)
                if self._closed:
                    self._close_idle()
                return
        client.close()

    def _close_idle(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _client(self, version: str) -> APIClient:
        endpoint = self._endpoint
        try:
            client = APIClient(
                base_url="unix:///ssh" if endpoint.url.startswith(SSH) else endpoint.url,
                version=version,
                timeout=self._timeout,  # type: ignore[arg-type]  # any number of seconds will do
                tls=endpoint.tls or False,
                user_agent=self._agent,
            )
        except (DockerException, OSError) as error:
            raise ConfigError(f"{endpoint.source}: {error}") from error
        if endpoint.url.startswith((UNIX, SSH)):
            client.mount("http+docker://", Adapter(endpoint.url))
        return client

    def _negotiated(self) -> str:
        client = self._client(API_VERSION)
        try:
            response = self._send(client, "GET", "", (None, None, None, None), self._timeout, False, "/version")
        except Unreachable as error:
            # Nothing was sent of what is to be asked.
            raise Unreachable(str(error), sent=False) from error
        finally:
            client.close()
        if response.status_code >= 400:
            raise self._refused(response)
        with self._as_an_engine():
            said = response.json()
            newest, oldest = said["ApiVersion"], said.get("MinAPIVersion", API_VERSION)
            if version_lt(newest, API_VERSION):
                return str(newest)
            return str(oldest) if version_lt(API_VERSION, oldest) else API_VERSION

    @contextlib.contextmanager
    def _as_an_engine(self) -> Iterator[None]:
        """Take an answer that makes no sense for somebody else's: a proxy's, or another program's on that port."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            words = f"{self._endpoint.url} ({self._endpoint.source}) does not answer as a Docker Engine does"
            raise Unreachable(words, sent=False) from error

    # --- requests ----------------------------------------------------------------------------------------------

    def _send(
        self,
        client: APIClient,
        method: str,
        path: str,
        content: tuple[Any, Any, Any, Any],
        seconds: float | None,
        stream: bool,
        whole_path: str | None = None,
    ) -> requests.Response:
        asked = dict(zip(("params", "json", "data", "headers"), content, strict=True), stream=stream)
        url = f"{client.base_url}{whole_path or f'/v{client.api_version}{path}'}"
        asked["timeout"] = (min(_CONNECT_SECONDS, self._timeout), seconds)
        since = time.time()
        try:
            if self._endpoint.url.startswith((UNIX, SSH)):
                answer = exchange(client, method, url, **asked)
            else:
                # Said again: requests takes REQUESTS_CA_BUNDLE before the session's own.
                answer = client.request(method, url, **asked, verify=client.verify)
        except requests.exceptions.ReadTimeout as error:
            raise NoAnswer(f"{self._endpoint.url} did not answer within {seconds:g} s") from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # Whoever answers next may be another engine, or another version of it.
            self._facts = self._version = None
            raise self._failed(error) from error
        self._look_at_clock(answer, since)
        return answer

    def _look_at_clock(self, answer: requests.Response, since: float) -> None:
        """Ask again who answers once its clock was set, as that of a machine which slept is."""
        known = self._facts
        if known is not None and known.dated:
            date = _date(answer)
            if date is not None and not known.fit(date, since):
                self._facts = None

    def _failed(self, error: BaseException) -> ProviderError:
        chain = list(_chain(error))
        if any(isinstance(one, TimeoutError) for one in chain) and not any(isinstance(one, _NOT_SENT) for one in chain):
            return NoAnswer(f"{self._endpoint.url} did not answer in time")
        if any(isinstance(one, PermissionError) for one in chain):
            words = f"no permission to connect to {self._endpoint.url} ({self._endpoint.source})"
            if self._endpoint.url.startswith(UNIX):
                words += "; it takes root, or a member of the group of the socket, mostly docker"
            return PermissionDenied(words, sent=False)
        words = f"{self._endpoint.url} ({self._endpoint.source}): {_words(chain)}"
        if any(isinstance(one, _NOBODY_THERE) for one in chain):
            words += "; is an engine running there?"
        return Unreachable(words, sent=not any(isinstance(one, _NOT_SENT) for one in chain))

    def _refused(self, response: requests.Response) -> ProviderError:
        try:
            words = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            words = response.text.strip()[:_WORDS] or response.reason
        if response.status_code in (401, 403):
            return PermissionDenied(f"{self._endpoint.url} ({self._endpoint.source}): {words}")
        return EngineError(response.status_code, words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield what lies below an error of requests: causes, contexts and arguments."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _words(chain: list[BaseException]) -> str:
    for one in chain:
        if isinstance(one, OSError) and one.strerror:
            return f"{one.filename}: {one.strerror}" if one.filename else one.strerror
    return str(chain[0])


def _date(answer: requests.Response) -> float | None:
    """Return the time that an answer carries, in seconds since 1970."""
    try:
        return parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except ValueError:
        return None
