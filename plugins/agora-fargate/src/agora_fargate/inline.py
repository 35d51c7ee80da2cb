"""Values of `spec.secrets`: a secret of Secrets Manager and a task definition for each dispatch that has them.

ECS takes secrets from the task definition alone, by reference: so the values stand in no request to ECS.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agora.errors import AgoraError, DispatchConflict, InvalidRequest, SubmitRefused
from agora.hookspecs import Check
from agora.model.spec import Spec

from agora_fargate import names
from agora_fargate.api import Api, Refusal
from agora_fargate.definitions import Definitions
from agora_fargate.names import Item

logger = logging.getLogger(__name__)

#: "SecretString": at most 65536 (botocore's model of Secrets Manager), taken for bytes.
MAX_BYTES = 65_536
#: `valueFrom` is `ARN:json-key:version-stage:version-id`: what a key must not contain is nowhere written down.
_KEY = re.compile(r"[A-Za-z0-9_.-]+")
#: Before 1.4.0 Fargate passes whole secrets alone ("Specifying sensitive data" of the ECS developer's guide).
_WHOLE_ONLY = re.compile(r"1\.[0-3](\.|$)")
#: Seconds to make a secret, and for each step of a removal: both wait for their turn under the rates.
_MAKE_SECONDS, _REMOVE_SECONDS = 15.0, 10.0
_NOTHING = "ResourceNotFoundException"


@dataclass(frozen=True)
class Own:
    """What makes a task definition one dispatch's own.

    Parameters:
        family: its name.
        arn: the secret with the values.
    """

    family: str
    arn: str

    def value_from(self, name: str) -> str:
        """Return where ECS finds the value of a variable."""
        return f"{self.arn}:{name}::"


def check(spec: Spec, platform_version: str | None) -> None:
    """Refuse secrets that cannot be passed on.

    Raises:
        InvalidRequest: says why, and tells no value.
    """
    if not spec.secrets:
        return
    for name in sorted(spec.secrets):
        if not _KEY.fullmatch(name):
            raise InvalidRequest(f"secrets: {name!r} is no name that ECS can pass: letters, digits, `_`, `.` and `-`")
    if platform_version is not None and _WHOLE_ONLY.match(platform_version):
        raise InvalidRequest(f"secrets: Fargate {platform_version} cannot pass them; 1.4.0 and later can")
    if (size := len(_text(spec).encode())) > MAX_BYTES:
        raise InvalidRequest(
            f"secrets: a secret of Secrets Manager holds {MAX_BYTES} bytes, written as JSON; these have {size}. Put "
            "what is large into a secret of your own and name it in `options.secrets`"
        )


def _text(spec: Spec) -> str:
    values = {name: spec.secrets[name].get_secret_value() for name in sorted(spec.secrets)}
    return json.dumps(values, ensure_ascii=False)


class Inline:
    """Makes and removes them.

    Parameters:
        api: the region.
        definitions: where task definitions are kept.
    """

    def __init__(self, api: Api, definitions: Definitions) -> None:
        self._api = api
        self._definitions = definitions

    def make(self, dispatch_id: str, installation: str, spec: Spec, check: Check) -> Own:
        """Make the secret of a dispatch, or return the one that is there.

        Raises:
            DispatchConflict: there is one of another spec.
            SubmitRefused: Secrets Manager refuses it.
        """
        name = names.secret(dispatch_id, installation)
        marks = {"agora-dispatch": dispatch_id, "agora-installation": installation, "agora-spec": spec.digest()}
        try:
            made = self._api.call(
                "CreateSecret",
                seconds=_MAKE_SECONDS,
                check=check,
                Name=name,
                ClientRequestToken=names.secret_token(dispatch_id, installation),
                SecretString=_text(spec),
                Tags=[{"Key": key, "Value": value} for key, value in marks.items()],
            )
        except Refusal as error:
            if error.code != "ResourceExistsException":
                # Its words might repeat a value.
                text = f"Secrets Manager refuses the secret {name}: {error.code}"
                raise SubmitRefused(text, reason="secret_refused") from None
            made = self._there(name, marks)
        return Own(names.own_family(dispatch_id, installation), made["ARN"])

    def _there(self, name: str, marks: Mapping[str, str]) -> Item:
        """Return a secret that was made before, with other values perhaps: whoever was first decides."""
        try:
            found = self._api.call("DescribeSecret", SecretId=name)
        except Refusal as error:
            raise SubmitRefused(
                f"the secret {name} is there and not there: {error}", reason="secret_refused"
            ) from error
        if found.get("DeletedDate") is not None:
            raise SubmitRefused(f"the secret {name} is being deleted", reason="secret_refused")
        if _tags(found) != marks:
            raise DispatchConflict(f"there is a secret {name} of another spec, or of nobody's")
        return found

    def remove(self, dispatch_id: str, installation: str) -> None:
        """Remove what `make` has made for a dispatch, and its task definition; harmless where there is nothing.

        Raises:
            AgoraError: something of it may still be there.
        """
        name = names.secret(dispatch_id, installation)
        try:
            self._api.call("DeleteSecret", seconds=_REMOVE_SECONDS, SecretId=name, ForceDeleteWithoutRecovery=True)
        except Refusal as error:
            if error.code != _NOTHING:
                raise
        self._definitions.remove(names.own_family(dispatch_id, installation), _REMOVE_SECONDS)

    def give_up(self, dispatch_id: str, installation: str) -> None:
        """Remove what was made for a dispatch that does not start; the engine tries again where this fails."""
        try:
            self.remove(dispatch_id, installation)
        except AgoraError as error:
            logger.warning("dispatch %s: its inline secrets are not removed yet: %s", dispatch_id, error)

    def left(self, installation: str) -> dict[str, tuple[datetime, str | None]]:
        """Return when the secrets of an installation were made, and the digest of their spec, by dispatch.

        Secrets Manager may show a change as late as five minutes after it was made (botocore's model, ListSecrets).
        """
        prefix = names.secret("", installation)
        found = self._api.pages("ListSecrets", "SecretList", Filters=[{"Key": "name", "Values": [prefix]}])
        return {
            one["Name"].removeprefix(prefix): (one["CreatedDate"], _tags(one).get("agora-spec"))
            for one in found
            if _tags(one).get("agora-installation") == installation
        }

    def is_there(self, dispatch_id: str, installation: str) -> bool:
        """Whether Secrets Manager still shows the secret of a dispatch."""
        try:
            found = self._api.call("DescribeSecret", SecretId=names.secret(dispatch_id, installation))
        except Refusal as error:
            if error.code != _NOTHING:
                raise
            return False
        return found.get("DeletedDate") is None


def _tags(secret: Mapping[str, Any]) -> dict[str, str]:
    return {one["Key"]: one.get("Value", "") for one in secret.get("Tags") or []}
