"""Who may do what: credentials, and one IAM policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from agora_conformance.emulators.ecs.account import ACCOUNT
from agora_conformance.emulators.ecs.errors import ApiError, Object

USER = f"arn:aws:iam::{ACCOUNT}:user/emulator"
NO_TOKEN = "Missing Authentication Token"  # noqa: S105 - what AWS says
UNKNOWN_KEY = "The security token included in the request is invalid."


class Access:
    """Checks requests.

    Parameters:
        keys: access key ids that are known; empty for all.
        policy: IAM policy of whoever asks; None allows everything. Conditions and Deny play no part.
        region: of the account.
    """

    def __init__(self, keys: tuple[str, ...], policy: Mapping[str, Any] | None, region: str) -> None:
        self._keys = keys
        self._secret = f"arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:"
        statements = (policy or {}).get("Statement", [])
        self._statements = [statements] if isinstance(statements, dict) else list(statements)
        self._open = policy is None

    def check_key(self, header: str) -> None:
        """Check the Authorization header; the signature itself is not looked at.

        Raises:
            ApiError: there are no credentials, or unknown ones.
        """
        found = re.match(r"AWS4-HMAC-SHA256 Credential=([^/]+)/", header)
        if found is None:
            raise ApiError("MissingAuthenticationTokenException", NO_TOKEN)
        if self._keys and found[1] not in self._keys:
            raise ApiError("UnrecognizedClientException", UNKNOWN_KEY)

    def check(self, action: str, body: Object) -> None:
        """Check an action against the policy.

        Parameters:
            action: such as `ecs:RunTask`.
            body: the request; the resources that it names have to be allowed where they are ARNs, and secrets always.

        Raises:
            ApiError: it is not allowed.
        """
        if self._open:
            return
        named = [value for key, value in body.items() if key in RESOURCES and str(value).startswith("arn:")]
        if action.startswith("secretsmanager:") and (name := body.get("Name", body.get("SecretId"))) and not named:
            named = [f"{self._secret}{name}-??????"]
        for resource in named or ["*"]:
            if not any(self._allows(one, action, resource) for one in self._statements):
                raise ApiError(
                    "AccessDeniedException",
                    f"User: {USER} is not authorized to perform: {action} on resource: {resource} because no "
                    f"identity-based policy allows the {action} action",
                )

    @staticmethod
    def _allows(statement: Mapping[str, Any], action: str, resource: str) -> bool:
        actions, resources = statement.get("Action", []), statement.get("Resource", [])
        actions = [actions] if isinstance(actions, str) else actions
        resources = [resources] if isinstance(resources, str) else resources
        may = any(fnmatchcase(action.lower(), pattern.lower()) for pattern in actions)
        where = resource == "*" or any(fnmatchcase(resource, pattern) for pattern in resources)
        return statement.get("Effect") == "Allow" and may and where


#: Members of requests that name the resource which IAM looks at, where they are ARNs.
RESOURCES = ("task", "taskDefinition", "resourceArn", "SecretId")
