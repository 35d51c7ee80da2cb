"""The requests of Secrets Manager that the emulator knows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from agora_conformance.emulators.ecs.account import Account
from agora_conformance.emulators.ecs.errors import ApiError, Object

MISSING = "Secrets Manager can't find the specified secret."


@dataclass(frozen=True)
class SecretsApi:
    """Answers requests about secrets, which tasks get by their ARN.

    Parameters:
        account: where the secrets are.
    """

    account: Account

    def _arn(self, name: str) -> str:
        """Return the ARN of a secret.

        Raises:
            ApiError: there is none.
        """
        prefix = self.account.arn("secretsmanager", f"secret:{name}-")
        for arn in self.account.secrets:
            if arn == name or (arn.startswith(prefix) and len(arn) == len(prefix) + 6):
                return arn
        raise ApiError("ResourceNotFoundException", MISSING)

    def create(self, body: Object) -> Object:
        """CreateSecret."""
        name = body["Name"]
        try:
            self._arn(name)
        except ApiError:
            arn = self.account.arn("secretsmanager", f"secret:{name}-{uuid.uuid4().hex[:6]}")
            self.account.secrets[arn] = body.get("SecretString", "")
            return {"ARN": arn, "Name": name, "VersionId": str(uuid.uuid4())}
        raise ApiError(
            "ResourceExistsException",
            f"The operation failed because the secret {name} already exists.",
        )

    def put(self, body: Object) -> Object:
        """PutSecretValue."""
        arn = self._arn(body["SecretId"])
        self.account.secrets[arn] = body.get("SecretString", "")
        return {"ARN": arn, "VersionId": str(uuid.uuid4())}

    def get(self, body: Object) -> Object:
        """GetSecretValue."""
        arn = self._arn(body["SecretId"])
        return {"ARN": arn, "Name": _name(arn), "SecretString": self.account.secrets[arn]}

    def describe(self, body: Object) -> Object:
        """DescribeSecret."""
        arn = self._arn(body["SecretId"])
        return {"ARN": arn, "Name": _name(arn)}

    def list(self, _body: Object) -> Object:
        """ListSecrets, on one page."""
        return {"SecretList": [{"ARN": arn, "Name": _name(arn)} for arn in self.account.secrets]}

    def delete(self, body: Object) -> Object:
        """DeleteSecret; it is gone at once, also without ForceDeleteWithoutRecovery."""
        arn = self._arn(body["SecretId"])
        del self.account.secrets[arn]
        return {"ARN": arn, "Name": _name(arn), "DeletionDate": self.account.clock.now()}


def _name(arn: str) -> str:
    return arn.partition(":secret:")[2][:-7]
