"""Requests to AWS: each under the rate budget, with timeouts, repeated only while there is time."""

from __future__ import annotations

import random
import re
import time
from typing import Any

from agora.errors import ConfigError, PermissionDenied, ProviderError, Unreachable

from agora_fargate import budget
from agora_fargate.connect import Connection
from agora_fargate.names import Item

#: Seconds that one call may take with its repetitions; a stop has ten and makes two.
CALL_SECONDS = 4.0
#: Pause before a repetition: the first, and the longest, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0

#: Service and bucket of every operation that this provider uses; `iam-policy.json` allows exactly these.
OPERATIONS = {
    "RunTask": ("ecs", "run"),
    "StopTask": ("ecs", "stop"),
    "DescribeTasks": ("ecs", "describe"),
    "ListTasks": ("ecs", "describe"),
    "DescribeClusters": ("ecs", "clusters"),
    "RegisterTaskDefinition": ("ecs", "define"),
    "DeregisterTaskDefinition": ("ecs", "define"),
    "DeleteTaskDefinitions": ("ecs", "delete definitions"),
    "DescribeTaskDefinition": ("ecs", "definitions"),
    "ListTaskDefinitions": ("ecs", "definitions"),
    "ListTaskDefinitionFamilies": ("ecs", "definitions"),
    "GetLogEvents": ("logs", "logs"),
    "DeleteLogStream": ("logs", "streams"),
    "ReceiveMessage": ("sqs", "queue"),
    "DeleteMessageBatch": ("sqs", "queue"),
}

_DENIED = frozenset({
    "AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "UnrecognizedClientException",
    "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature",
    "MissingAuthenticationToken", "MissingAuthenticationTokenException", "ExpiredToken", "ExpiredTokenException",
    "NotAuthorized", "OptInRequired", "RequestExpired", "RequestTimeTooSkewed",
})  # fmt: skip
_THROTTLED = frozenset({
    "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestThrottled",
    "RequestThrottledException", "RequestLimitExceeded", "BandwidthLimitExceeded", "SlowDown",
})  # fmt: skip
#: ECS also tells of throttling under names that mean something else.
_THROTTLING_WORDS = re.compile(r"rate exceeded|throttl|too many requests|request rate", re.IGNORECASE)
_BUSY = frozenset({"ServerException", "InternalFailure", "InternalServerError", "InternalError",
                   "ServiceUnavailable", "ServiceUnavailableException"})  # fmt: skip


class Refusal(ProviderError):
    """A definite answer of a service that is no success.

    Parameters:
        code: the service's machine word (`InvalidParameterException`, ...).
        message: its own words.
        more: further members of the answer.
    """

    def __init__(self, code: str, message: str, more: Item | None = None) -> None:
        super().__init__(f"{code}: {message}", retryable=False)
        self.code = code
        self.words = message
        self.more = more or {}


class OutOfBudget(Unreachable):
    """The rates that this process may use are used up; nothing was sent."""


class Api:
    """The services of one region.

    Parameters:
        connection: the way to them.
        share: part of the published rates that may be used.
    """

    def __init__(self, connection: Connection, share: float) -> None:
        self._connection = connection
        self.source = connection.source
        self.region: str = connection.region
        endpoint = connection.client("ecs").meta.endpoint_url
        self.budget = budget.shared(f"{endpoint} {connection.region}", share)

    def call(
        self, operation: str, *, seconds: float | None = None, background: bool = False, **parameters: Any
    ) -> Item:
        """Send a request, and again where the service is busy or the answer was lost; all of them can bear that.

        Parameters:
            operation: a key of `OPERATIONS`.
            seconds: how long to go on; `CALL_SECONDS` by default.
            background: let calls for which somebody waits go first.

        Raises:
            Refusal: the service refused it.
            PermissionDenied: the credentials are refused, or lack a right.
            Unreachable: no answer, or none but "busy", in time.
        """
        service, group = OPERATIONS[operation]
        client, bucket = self._connection.client(service), self.budget.bucket(group)
        give_up = time.monotonic() + (CALL_SECONDS if seconds is None else seconds)
        pause, sent = _FIRST_PAUSE, False
        last = ""
        while True:
            if not bucket.take(give_up, background=background):
                if last:
                    raise Unreachable(last, sent=sent)
                raise OutOfBudget(f"{operation}: the rate of calls of this process is used up", sent=False)
            try:
                return _answer(client, operation, parameters)
            except _Throttled as error:
                bucket.drain()
                last = f"AWS throttles {operation}: {error}"
            except _Busy as error:
                sent, last = True, f"{operation} failed on AWS's side: {error}"
            except Unreachable as error:
                error.sent = sent = error.sent or sent
                if not sent or isinstance(error.__cause__, TimeoutError):
                    raise
                last = str(error)
            except PermissionDenied as error:
                raise PermissionDenied(f"{error} ({self.source})", sent=error.sent or sent) from error.__cause__
            wait = pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            if time.monotonic() + wait > give_up:
                raise Unreachable(last, sent=sent)
            time.sleep(wait)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def pages(self, operation: str, field: str, **parameters: Any) -> list[Any]:
        """Return the items of all pages of a list."""
        items: list[Any] = []
        while True:
            answer = self.call(operation, **parameters)
            items += answer.get(field) or []
            if not (token := answer.get("nextToken")):
                return items
            parameters["nextToken"] = token

    def close(self) -> None:
        """Close idle connections."""
        self._connection.close()


class _Throttled(Exception):
    pass


class _Busy(Exception):
    pass


def _answer(client: Any, operation: str, parameters: Item) -> Item:
    from botocore import exceptions as sdk  # type: ignore[import-untyped]

    method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
    try:
        answer: Item = getattr(client, method)(**parameters)
    except sdk.ClientError as error:
        raise _told(error.response) from error
    except (sdk.EndpointConnectionError, sdk.ConnectTimeoutError, sdk.ProxyConnectionError, sdk.SSLError) as error:
        raise Unreachable(f"no connection to AWS for {operation}: {error}", sent=False) from error
    except sdk.ReadTimeoutError as error:
        raise Unreachable(f"AWS gave no answer to {operation}: {error}") from TimeoutError(str(error))
    except (sdk.HTTPClientError, sdk.ConnectionError) as error:
        raise Unreachable(f"the connection to AWS broke in {operation}: {error}") from error
    except (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.NoRegionError) as error:
        raise ConfigError(f"AWS: {error}") from error
    except (
        sdk.CredentialRetrievalError, sdk.TokenRetrievalError, sdk.SSOError, sdk.UnauthorizedSSOTokenError,
        sdk.NoAuthTokenError,
    ) as error:  # fmt: skip
        raise PermissionDenied(f"AWS credentials: {error}", sent=False) from error
    except sdk.BotoCoreError as error:
        raise ProviderError(f"{operation}: {error}", sent=False, retryable=False) from error
    return answer


def _told(response: Item) -> Exception:
    about = response.get("Error") or {}
    code, words = str(about.get("Code") or "unknown"), str(about.get("Message") or "")
    status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode", 400)
    if code in _DENIED:
        return PermissionDenied(f"{code}: {words}")
    if code in _THROTTLED or status == 429 or _THROTTLING_WORDS.search(words):
        return _Throttled(f"{code}: {words}")
    if code in _BUSY or status >= 500:
        return _Busy(f"{code}: {words}")
    more = {key: value for key, value in response.items() if key not in ("Error", "ResponseMetadata")}
    return Refusal(code, words, more)
