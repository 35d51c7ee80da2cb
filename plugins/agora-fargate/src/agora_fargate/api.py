"""Requests to AWS: each under the rate budget, with timeouts, repeated only while there is time."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from typing import Any

from agora.errors import ConfigError, PermissionDenied, ProviderError, StopRequested, Unreachable
from agora.hookspecs import Check

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
    "CreateSecret": ("secretsmanager", "secrets"),
    "DeleteSecret": ("secretsmanager", "secrets"),
    "DescribeSecret": ("secretsmanager", "secrets"),
    "ListSecrets": ("secretsmanager", "secrets"),
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
                   "InternalServiceError", "ServiceUnavailable", "ServiceUnavailableException"})  # fmt: skip


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
        self,
        operation: str,
        *,
        seconds: float | None = None,
        background: bool = False,
        check: Check | None = None,
        **parameters: Any,
    ) -> Item:
        """Send a request, and again where the service is busy or the answer was lost; all of them can bear that.

        Parameters:
            operation: a key of `OPERATIONS`.
            seconds: how long to go on; `CALL_SECONDS` by default.
            background: let calls for which somebody waits go first.
            check: called at least once a second of every wait; what it raises ends the call, as `Unreachable`
                where the request may have been carried out.

        Raises:
            Refusal: the service refused it.
            PermissionDenied: the credentials are refused, or lack a right.
            Unreachable: no answer, or none but "busy", in time.
        """
        service, group = OPERATIONS[operation]
        client, bucket = self._connection.client(service), self.budget.bucket(group)
        give_up = time.monotonic() + (CALL_SECONDS if seconds is None else seconds)
        pause, known = _FIRST_PAUSE, _Known(check)
        while True:
            if not bucket.take(give_up, background=background, look=known.look if check else None):
                if known.last:
                    raise Unreachable(known.last, sent=known.sent)
                raise OutOfBudget(f"{operation}: the rate of calls of this process is used up", sent=False)
            try:
                return _answer(client, operation, parameters)
            except _Throttled as error:
                bucket.drain()
                known.last = f"AWS throttles {operation}: {error}"
            except _Busy as error:
                known.sent, known.last = True, f"{operation} failed on AWS's side: {error}"
            except Unreachable as error:
                error.sent = known.sent = error.sent or known.sent
                if not known.sent or isinstance(error.__cause__, TimeoutError):
                    raise
                known.last = str(error)
            except PermissionDenied as error:
                raise PermissionDenied(f"{error} ({self.source})", sent=error.sent or known.sent) from error.__cause__
            wait = pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            if time.monotonic() + wait > give_up:
                raise Unreachable(known.last, sent=known.sent)
            budget.sleep(wait, known.look)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def pages(self, operation: str, field: str, **parameters: Any) -> list[Any]:
        """Return the items of all pages of a list."""
        items: list[Any] = []
        while True:
            answer = self.call(operation, **parameters)
            items += answer.get(field) or []
            # Secrets Manager begins the names of its members with a capital.
            more = {name: answer[name] for name in ("nextToken", "NextToken") if answer.get(name)}
            if not more:
                return items
            parameters |= more

    def close(self) -> None:
        """Close idle connections."""
        self._connection.close()


@dataclass
class _Known:
    """What is known of a request that is being repeated.

    Parameters:
        check: of whoever waits for it.
        sent: it may have been carried out.
        last: why it is repeated.
    """

    check: Check | None
    sent: bool = False
    last: str = ""

    def look(self) -> None:
        """Let a stop that was requested end the wait; no call that may have started something counts as none."""
        try:
            if self.check is not None:
                self.check()
        except StopRequested as error:
            if self.sent:
                raise Unreachable(self.last, sent=True) from error
            raise


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
