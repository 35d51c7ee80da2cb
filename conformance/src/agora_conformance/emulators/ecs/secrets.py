"""The requests of Secrets Manager that the emulator knows, and what tasks read there."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass

from agora_conformance.emulators.ecs.account import Account, Secret
from agora_conformance.emulators.ecs.errors import ApiError, Object
from agora_conformance.emulators.ecs.pages import page

MISSING = "Secrets Manager can't find the specified secret."
DELETED = "You can't perform this operation on the secret because it was marked for deletion."
#: botocore, CreateSecret: "ASCII letters, numbers, and the following characters: /_+=.@-".
NAME = r"[A-Za-z0-9/_+=.@-]{1,512}"
#: botocore, DeleteSecret: "The default recovery window is 30 days".
RECOVERY_DAYS = 30
#: Parts of `valueFrom` between colons: those of an ARN, then the key of a JSON object, a stage and a version.
ARN_PARTS, ALL_PARTS = 7, 10


class Unreadable(Exception):
    """A task cannot have a secret; the message is what ECS's agent says."""


def value_of(account: Account, value_from: str) -> str:
    """Return what a container gets for `valueFrom`: a whole secret, or one value of the JSON object in it.

    Raises:
        Unreadable: it is not there, or holds no such value.
    """
    parts = value_from.split(":")
    selects = len(parts) == ALL_PARTS and value_from not in account.secrets
    arn = ":".join(parts[:ARN_PARTS]) if selects else value_from
    secret = account.secrets.get(arn)
    if secret is None or secret.deleted is not None:
        raise Unreadable(f"failed to fetch secret {arn} from secrets manager: ResourceNotFoundException: {MISSING}")
    if not selects:
        return secret.value
    key, stage, version = parts[ARN_PARTS:]
    if stage not in ("", "AWSCURRENT") or version not in ("", secret.token):
        raise Unreadable(f"failed to fetch secret {arn} from secrets manager: ResourceNotFoundException: {MISSING}")
    if not key:
        return secret.value
    try:
        found = json.loads(secret.value)
    except ValueError as error:
        raise Unreadable(f"invalid character in the secret {arn}, which is no JSON: {type(error).__name__}") from None
    if not isinstance(found, dict) or key not in found:
        raise Unreadable(f"retrieved secret from Secrets Manager did not contain json key {key}")
    return str(found[key])


@dataclass(frozen=True)
class SecretsApi:
    """Answers requests about secrets, which tasks get by their ARN.

    Parameters:
        account: where the secrets are.
    """

    account: Account

    def _find(self, name: str) -> str | None:
        """Return the ARN of a secret, also of one that is to be deleted."""
        prefix = self.account.arn("secretsmanager", f"secret:{name}-")
        for arn in self.account.secrets:
            if arn == name or (arn.startswith(prefix) and len(arn) == len(prefix) + 6):
                return arn
        return None

    def _arn(self, name: str) -> str:
        """Return the ARN of a secret.

        Raises:
            ApiError: there is none.
        """
        if (arn := self._find(name)) is None:
            raise ApiError("ResourceNotFoundException", MISSING)
        return arn

    def _usable(self, name: str) -> tuple[str, Secret]:
        arn = self._arn(name)
        if (secret := self.account.secrets[arn]).deleted is not None:
            raise ApiError("InvalidRequestException", DELETED)
        return arn, secret

    def create(self, body: Object) -> Object:
        """CreateSecret; the same token with the same value once more is the same secret."""
        name, value = body["Name"], body.get("SecretString", "")
        token = body.get("ClientRequestToken") or str(uuid.uuid4())
        if not re.fullmatch(NAME, name):
            raise ApiError("InvalidParameterException", "Invalid name. Must be a valid name.")
        if (arn := self._find(name)) is None:
            arn = self.account.arn("secretsmanager", f"secret:{name}-{uuid.uuid4().hex[:6]}")
            tags = {one["Key"]: one.get("Value", "") for one in body.get("Tags") or []}
            self.account.secrets[arn] = Secret(value, token, tags, self.account.clock.now())
            return {"ARN": arn, "Name": name, "VersionId": token}
        known = self.account.secrets[arn]
        if known.deleted is not None:
            text = "You can't create this secret because a secret with this name is already scheduled for deletion."
            raise ApiError("InvalidRequestException", text)
        if (known.token, known.value) == (token, value):
            return {"ARN": arn, "Name": name, "VersionId": token}
        raise ApiError(
            "ResourceExistsException",
            f"The operation failed because the secret {name} already exists.",
        )

    def put(self, body: Object) -> Object:
        """PutSecretValue."""
        arn, secret = self._usable(body["SecretId"])
        secret.value = body.get("SecretString", "")
        secret.token = body.get("ClientRequestToken") or str(uuid.uuid4())
        return {"ARN": arn, "VersionId": secret.token}

    def get(self, body: Object) -> Object:
        """GetSecretValue."""
        arn, secret = self._usable(body["SecretId"])
        return {"ARN": arn, "Name": _name(arn), "SecretString": secret.value}

    def describe(self, body: Object) -> Object:
        """DescribeSecret."""
        arn = self._arn(body["SecretId"])
        return self._look(arn)

    def list(self, body: Object) -> Object:
        """ListSecrets."""
        prefixes = []
        for one in body.get("Filters") or []:
            if one["Key"] != "name" or any(text.startswith("!") for text in one["Values"]):
                raise ApiError("InvalidParameterException", "the emulator filters secrets by what names begin with")
            prefixes.append(tuple(one["Values"]))
        planned = body.get("IncludePlannedDeletion", False)
        arns = [
            arn
            for arn, secret in self.account.secrets.items()
            if all(_name(arn).startswith(some) for some in prefixes) and (planned or secret.deleted is None)
        ]
        asked = {"maxResults": body.get("MaxResults"), "nextToken": body.get("NextToken")}
        told = page(arns, {key: value for key, value in asked.items() if value is not None}, "arns")
        answer: Object = {"SecretList": [self._look(arn) for arn in told["arns"]]}
        if "nextToken" in told:
            answer["NextToken"] = told["nextToken"]
        return answer

    def delete(self, body: Object) -> Object:
        """DeleteSecret; with ForceDeleteWithoutRecovery it is gone at once, and harmless where there is none."""
        force, name = body.get("ForceDeleteWithoutRecovery", False), body["SecretId"]
        if force and "RecoveryWindowInDays" in body:
            text = "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays."
            raise ApiError("InvalidParameterException", text)
        now = self.account.clock.now()
        if force:
            arn = self._find(name)
            if arn is not None:
                del self.account.secrets[arn]
            return {"Name": name if arn is None else _name(arn), "DeletionDate": now}
        arn, secret = self._usable(name)
        secret.deleted = now + body.get("RecoveryWindowInDays", RECOVERY_DAYS) * 86_400
        return {"ARN": arn, "Name": _name(arn), "DeletionDate": secret.deleted}

    def _look(self, arn: str) -> Object:
        secret = self.account.secrets[arn]
        look: Object = {
            "ARN": arn,
            "Name": _name(arn),
            "CreatedDate": secret.created,
            "Tags": [{"Key": key, "Value": value} for key, value in secret.tags.items()],
        }
        if secret.deleted is not None:
            look["DeletedDate"] = self.account.clock.now()
        return look


def _name(arn: str) -> str:
    return arn.partition(":secret:")[2][:-7]
